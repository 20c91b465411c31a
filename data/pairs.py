"""The low-resolution side of a test: made on the fly, or read from files that were made before."""
import re
from pathlib import Path

import torch

from data.degradation import resize
from data.images import read_rgb, shown
from utility import UserError, generator, quantize


def slug(set_name, degradation):
    """The name of a test set under a degradation, fit for a file or folder: Set5_sigma_2.6_noise_0."""
    return f'{set_name}_' + re.sub(r'[^\w.-]+', '_', str(degradation))


class Degraded:
    """Makes lq and up from hr. Noise is drawn per image from (seed, image's name), on the CPU for every device."""

    def __init__(self, degrader, seed):
        self.degrader, self.seed = degrader, seed

    def __call__(self, set_name, image, hr, degradation):
        """hr (1, 3, H, W) → lq (1, 3, h, w), up (1, 3, H, W)."""
        return self.degrader(hr, degradation, generator('cpu', self.seed, 'test noise', image))

    def __str__(self):
        return str(self.degrader)


class Files:
    """Reads lq from <folder>/<set>_<degradation>/<image>.png, as scripts/make_testset.py writes them.

    flat: where there is no such sub-folder, from <folder>/<image>.png; only one set under one degradation fits there.
    """

    def __init__(self, folder, scale, rgb_range, flat):
        self.folder, self.scale, self.rgb_range, self.flat = Path(folder), scale, rgb_range, flat
        if not self.folder.is_dir():
            raise UserError(f'--test_lr {shown(folder)}: no such folder')

    def __call__(self, set_name, image, hr, degradation):
        """Only the size of hr (1, 3, H, W) is used → lq (1, 3, h, w), up (1, 3, H, W).

        Raises UserError if the file is missing or of another size.
        """
        own = self.folder / slug(set_name, degradation)
        path = (self.folder if self.flat and not own.is_dir() else own) / f'{image}.png'
        lq = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].to(hr.device) * (self.rgb_range / 255)
        if [side * self.scale for side in lq.shape[-2:]] != list(hr.shape[-2:]):
            raise UserError(f'--test_lr: {shown(path)} is {lq.shape[-1]}x{lq.shape[-2]} pixels, but the ground truth '
                            f'of {image} needs {hr.shape[-1] // self.scale}x{hr.shape[-2] // self.scale}')
        return lq, quantize(resize(lq, self.scale, shrink=False), self.rgb_range)

    def __str__(self):
        return f'lq read from {self.folder}, x1/{self.scale}'
