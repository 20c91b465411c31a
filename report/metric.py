"""METRICS, the table of image quality metrics against the ground truth."""
import argparse
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from report import perceptual
from utility import quantize

LUMA = torch.tensor([65.738, 129.057, 25.064], dtype=torch.float64)
WINDOW = 11  # pixels: the side of SSIM's Gaussian window with sigma 1.5


class Metric(NamedTuple):
    """One entry of METRICS.

    function: (sr, hr, border, rgb_range) → float, for two images (1, 3, H, W) in [0, rgb_range] of which `border`
    pixels are shaved on each side; unit: '' if there is none; decimals: in tables; definition: what it is computed on;
    prepare: called before anything runs; raises UserError if the metric cannot be computed.
    """
    function: Callable[[Tensor, Tensor, int, float], float]
    unit: str
    decimals: int
    higher_is_better: bool = True
    definition: str = ''
    prepare: Callable[[], object] = bool


def levels(sr: Tensor, hr: Tensor, border: int, rgb_range: float = 1) -> tuple[Tensor, Tensor]:
    """sr, hr (1, 3, H, W) in [0, rgb_range] → (3, H - 2 * border, W - 2 * border) each: float64, rounded to 0-255. Gray
    images (1, 1, H, W) become three equal channels.

    Raises ValueError if the shapes differ.
    """
    if sr.shape != hr.shape:
        raise ValueError(f'cannot compare an image of {tuple(sr.shape)} with one of {tuple(hr.shape)}')
    height, width = hr.shape[-2:]
    rounded = (quantize(image.detach().cpu().double() * (255 / rgb_range), 255) for image in (sr, hr))
    sr, hr = (image.expand(-1, 3, -1, -1)[0, :, border:height - border, border:width - border] for image in rounded)
    return sr, hr


def psnr_y(sr: Tensor, hr: Tensor, border: int, rgb_range: float = 1) -> float:
    """PSNR in dB on luma: difference · LUMA / 256, summed over the channels.

    sr, hr (1, 3, H, W) in [0, rgb_range], rounded to 8 bits here; border: pixels shaved on each side.
    inf for equal images, nan if nothing lies inside the border. Raises ValueError if the shapes differ.
    """
    sr, hr = levels(sr, hr, border, rgb_range)
    luma = torch.einsum('c,chw->hw', LUMA / 256, (sr - hr) / 255)                   # (H, W)
    return _psnr(luma)


def psnr_rgb(sr: Tensor, hr: Tensor, border: int, rgb_range: float = 1) -> float:
    """PSNR in dB of the mean squared error over all pixels and the three channels; otherwise as psnr_y."""
    sr, hr = levels(sr, hr, border, rgb_range)
    return _psnr((sr - hr) / 255)


def _psnr(difference: Tensor) -> float:
    error = difference.square().mean().item()
    return -10 * math.log10(error) if error else math.inf


def ssim_y(sr: Tensor, hr: Tensor, border: int, rgb_range: float = 1) -> float:
    """SSIM of luma = rgb · LUMA / 255 + 16 in float64.

    11x11 Gaussian window, sigma 1.5, only where it lies inside the image; K 0.01 / 0.03, range 255 (Wang, TIP 2004).
    sr, hr (1, 3, H, W) in [0, rgb_range], rounded to 8 bits here; border: pixels shaved on each side. nan if the window
    does not fit inside. Raises ValueError if the shapes differ.
    """
    sr, hr = levels(sr, hr, border, rgb_range)
    if min(sr.shape[-2:]) < WINDOW:
        return math.nan
    sr, hr = (torch.einsum('c,chw->hw', LUMA / 255, image).numpy() + 16 for image in (sr, hr))
    return float(structural_similarity(sr, hr, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
                                       data_range=255))


def perceptual_metric(name: str, definition: str) -> Metric:
    """The Metric of an entry of perceptual.NETWORKS."""
    def function(sr: Tensor, hr: Tensor, border: int, rgb_range: float = 1) -> float:
        pair = (image[None].float().to(sr.device) / 255 for image in levels(sr, hr, border, rgb_range))
        return perceptual.distance(name, *pair)
    return Metric(function, '', 4, False, definition, lambda: perceptual.network(name))


METRICS = {
    'psnr_y': Metric(psnr_y, 'dB', 2, definition='BT.601 luma'),
    'ssim_y': Metric(ssim_y, '', 4, definition=f'BT.601 luma, {WINDOW}x{WINDOW} Gaussian window of sigma 1.5'),
    'psnr_rgb': Metric(psnr_rgb, 'dB', 2, definition='all three channels'),
    'lpips': perceptual_metric('lpips', 'AlexNet, version 0.1'),
    'dists': perceptual_metric('dists', 'VGG-16'),
}
DEFAULT = ('psnr_y', 'ssim_y')


def metric_names(text: str) -> str:
    """An argparse type: names of METRICS separated by commas; returned without spaces."""
    names = [name.strip() for name in text.split(',')]
    for name in names:
        if name not in METRICS:
            raise argparse.ArgumentTypeError(f'{name!r} is not a metric; choose from {", ".join(METRICS)}')
    if len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f'{text!r} names a metric twice')
    return ','.join(names)


metric_names.__name__ = 'str'  # what --help shows as the value


def prepare(names: Iterable[str]) -> None:
    """To be called before anything runs. Raises UserError if a metric cannot be computed."""
    for name in names:
        METRICS[name].prepare()


def scores(names: Iterable[str], sr: Tensor, hr: Tensor, border: int, rgb_range: float = 1) -> dict[str, float]:
    """{metric: value} of sr against hr, both (1, 3, H, W) in [0, rgb_range]."""
    return {name: METRICS[name].function(sr, hr, border, rgb_range) for name in names}


def title(name: str) -> str:
    """The displayed name: 'psnr_y' → 'PSNR', 'psnr_rgb' → 'PSNR-RGB'."""
    return name.upper().removesuffix('_Y').replace('_', '-')


def label(name: str) -> str:
    """The label of an axis: 'PSNR (dB)'."""
    unit = METRICS[name].unit if name in METRICS else ''
    return title(name) + f' ({unit})' * bool(unit)


def number(name: str, value: float, more: int = 0) -> str:
    """A score with the decimals of its metric plus `more`; 4 for a metric that is not in METRICS."""
    return f'{value:.{(METRICS[name].decimals if name in METRICS else 4) + more}f}'


def written(name: str, value: float) -> str:
    """A score with its unit: '31.98 dB'."""
    return f'{number(name, value)} {METRICS[name].unit}'.rstrip()


def logged(name: str, value: float) -> str:
    """A score in the log: at least three decimals, as in published logs ('PSNR: 31.982 SSIM: 0.8872')."""
    return number(name, value, max(0, 3 - METRICS[name].decimals))


def definitions(names: Iterable[str]) -> str:
    """One line with the definition of each metric."""
    return ', '.join(f'{title(name)} ({METRICS[name].definition})' if METRICS[name].definition else title(name)
                     for name in names)
