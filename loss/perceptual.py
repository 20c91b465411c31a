"""The perceptual loss of KDSR-GAN: distance between features of VGG-19 (Johnson et al., ECCV 2016; Real-ESRGAN)."""
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utility import UserError

LAYERS = {2: 0.1, 7: 0.1, 16: 1, 25: 1, 34: 1}  # conv1_2, 2_2, 3_4, 4_4, 5_4, before ReLU, and their weights
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


class Perceptual(nn.Module):
    """Weighted sum of L1 distances between the features of sr and hr, in VGG-19 trained on ImageNet.

    rgb_range: the data range of both images. Raises UserError if torchvision or its weights are missing.
    """
    rgb_range = 1

    def __init__(self) -> None:
        super().__init__()
        self.features = vgg19()[:max(LAYERS) + 1]
        for module in self.features:
            if isinstance(module, nn.ReLU):
                module.inplace = False  # in place it would overwrite the features to compare
        self.register_buffer('mean', torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer('std', torch.tensor(STD).view(3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """sr and hr (B, 3, H, W) → a scalar."""
        x, y = ((image / self.rgb_range - self.mean) / self.std for image in (sr, hr.detach()))
        total = 0
        for i, layer in enumerate(self.features):
            x, y = layer(x), layer(y)                       # (B, C, H', W')
            if i in LAYERS:
                total = total + LAYERS[i] * F.l1_loss(x, y)
        return total


def vgg19() -> nn.Sequential:
    """The layers of torchvision's VGG-19; its weights are downloaded if missing."""
    try:
        from torchvision.models import VGG19_Weights
        from torchvision.models import vgg19 as network
    except ImportError as error:
        raise UserError('--loss Perceptual: the package torchvision is missing; pip install torchvision') from error
    weights = VGG19_Weights.IMAGENET1K_V1
    try:
        return network(weights=weights, progress=False).features
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f'--loss Perceptual: the weights of VGG-19 are missing ({reason}); download {weights.url} to '
                        f'{torch.hub.get_dir()}/checkpoints') from error
