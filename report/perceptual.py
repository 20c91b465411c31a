"""LPIPS and DISTS by the optional package torchmetrics: distances between deep features; lower is better.

torchmetrics contains the weights of both distances; those of the features, AlexNet and VGG-16, are torchvision's.
"""
import math
from functools import cache
from importlib import import_module

import torch
from torch import Tensor, nn

from utility import UserError

SMALLEST = 32  # pixels: the smallest input of AlexNet
NETWORKS = {  # module, class and settings in torchmetrics; torchvision's weights
    'lpips': ('image', 'LearnedPerceptualImagePatchSimilarity', {'net_type': 'alex', 'normalize': True},
              'AlexNet_Weights.DEFAULT'),
    # The network itself, as the metric of torchmetrics.image loads VGG-16 again for each image.
    'dists': ('functional.image.dists', 'DISTSNetwork', {}, 'VGG16_Weights.DEFAULT'),
}


@cache
def network(name: str) -> nn.Module:
    """The network of NETWORKS[name] with its published weights, built once: (sr, hr) → distance, both in [0, 1].

    torchvision downloads missing weights. Raises UserError if they or the package are missing.
    """
    module, kind, settings, weights = NETWORKS[name]
    try:
        from torchvision import models
        build = getattr(import_module(f'torchmetrics.{module}'), kind)
    except (ImportError, AttributeError) as error:
        raise UserError(f'--metrics {name}: the package torchmetrics is missing or too old '
                        f'({str(error).splitlines()[0]}); pip install -r requirements-extra.txt') from error
    try:
        with torch.random.fork_rng():  # weights are initialised at random before the published ones are loaded
            return build(**settings).eval().requires_grad_(False)
    except (OSError, RuntimeError) as error:
        url = models.get_weight(weights).url
        raise UserError(f'--metrics {name}: its weights are missing ({error}); download {url} '
                        f'to {torch.hub.get_dir()}/checkpoints') from error


@torch.no_grad()
def distance(name: str, sr: Tensor, hr: Tensor) -> float:
    """LPIPS or DISTS of sr, hr (1, 3, H, W) in [0, 1], on their device; nan if a side is below SMALLEST."""
    if min(sr.shape[-2:]) < SMALLEST:
        return math.nan
    return network(name).to(sr.device)(sr, hr).item()
