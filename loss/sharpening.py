"""Unsharp masking of the ground truth, for sharper results (Real-ESRGAN, ICCVW 2021, section 3.4)."""
import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHT, RADIUS, THRESHOLD = 0.5, 50, 10  # of the mask; pixels; on the 0-255 scale
SIGMA = 0.3 * (RADIUS / 2 - 1) + 0.8  # OpenCV's default for a kernel of 2 * (RADIUS // 2) + 1 pixels


def sharpened(hr: Tensor, rgb_range: int = 1) -> Tensor:
    """hr (B, C, H, W) in [0, rgb_range], sharpened where it differs from its blurred copy by more than THRESHOLD."""
    image = hr / rgb_range
    residual = image - _blur(image)                                         # (B, C, H, W)
    mask = _blur((residual.abs() * 255 > THRESHOLD).to(image))              # (B, C, H, W), soft
    sharp = (image + WEIGHT * residual).clamp(0, 1)
    return (mask * sharp + (1 - mask) * image) * rgb_range


def _blur(image):
    """Gaussian blur of (B, C, H, W); borders are reflected, repeatedly if the image is small."""
    around, n_colors = RADIUS // 2, image.shape[1]
    offsets = torch.arange(-around, around + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-offsets ** 2 / (2 * SIGMA ** 2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1).expand(n_colors, 1, -1)     # (C, 1, K), K = 2·around + 1
    for axis in 2, 3:
        side = image.shape[axis]
        index = torch.arange(-around, side + around, device=image.device) % max(2 * side - 2, 1)
        index = torch.where(index < side, index, 2 * side - 2 - index)          # reflected
        weight = kernel.unsqueeze(5 - axis)                                     # (C, 1, K, 1) or (C, 1, 1, K)
        image = F.conv2d(image.index_select(axis, index), weight, groups=n_colors)
    return image
