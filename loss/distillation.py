"""Distillation of the teacher's degradation representation into the student (MRDA, section III; KDSR, section 3.3)."""
import torch.nn.functional as F
from torch import Tensor


def kl_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(softmax(teacher/τ) ‖ softmax(student/τ)), mean over the batch; both (B, F)."""
    return F.kl_div(F.log_softmax(student / temperature, dim=1), F.softmax(teacher / temperature, dim=1),
                    reduction='batchmean')
