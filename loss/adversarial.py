"""The vanilla GAN loss: binary cross entropy of a discriminator's logits (Goodfellow et al., NeurIPS 2014)."""
import torch
import torch.nn.functional as F
from torch import Tensor


def gan_loss(logits: Tensor, real: bool) -> Tensor:
    """Mean binary cross entropy between logits of any shape and 1 (`real`) or 0."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))
