"""PSNR and SSIM on luma, with the two lumas that the published numbers of this field are computed with."""
import math

import torch
from skimage.metrics import structural_similarity

from utility import quantize

LUMA = torch.tensor([65.738, 129.057, 25.064], dtype=torch.float64)
WINDOW = 11  # pixels: the side of SSIM's Gaussian window with sigma 1.5


def _grey_levels(image, border, rgb_range):
    """(1, 3, H, W) → (3, H - 2 * border, W - 2 * border): float64 grey levels 0-255, rounded to 8 bits."""
    height, width = image.shape[-2:]
    levels = quantize(image.detach().cpu().double() * (255 / rgb_range), 255)
    return levels[0, :, border:height - border, border:width - border]


def _pair(sr, hr, border, rgb_range):
    if sr.shape != hr.shape:
        raise ValueError(f'cannot compare an image of {tuple(sr.shape)} with one of {tuple(hr.shape)}')
    return _grey_levels(sr, border, rgb_range), _grey_levels(hr, border, rgb_range)


def psnr_y(sr, hr, border, rgb_range=1):
    """PSNR in dB of two (1, 3, H, W) in [0, rgb_range], rounded to 8 bits here: difference · LUMA / 256, summed.

    border: pixels shaved on each side. inf for equal images, nan if nothing lies inside the border.
    ValueError if the shapes differ.
    """
    sr, hr = _pair(sr, hr, border, rgb_range)
    luma = torch.einsum('c,chw->hw', LUMA / 256, (sr - hr) / 255)                   # (H, W)
    error = luma.square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def ssim_y(sr, hr, border, rgb_range=1):
    """SSIM of two (1, 3, H, W) in [0, rgb_range], rounded to 8 bits here, of luma = rgb · LUMA / 255 + 16 in float64.

    11x11 Gaussian window, sigma 1.5, only where it lies inside the image; K 0.01 / 0.03, range 255 (Wang, TIP 2004).
    border: pixels shaved on each side. nan if the window does not fit inside. ValueError if the shapes differ.
    """
    sr, hr = _pair(sr, hr, border, rgb_range)
    if min(sr.shape[-2:]) < WINDOW:
        return math.nan
    sr, hr = (torch.einsum('c,chw->hw', LUMA / 255, image).numpy() + 16 for image in (sr, hr))
    return float(structural_similarity(sr, hr, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                       data_range=255))
