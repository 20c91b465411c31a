"""The low-resolution side of a test: made on the fly, or read from files that were made before."""
import re
from collections.abc import Container
from pathlib import Path

import torch

from data.dataset import listed
from data.degradation import Pipeline, resize
from data.images import ImageError, read_rgb, read_size
from utility import UserError, generator, quantize, shown


def slug(set_name: str, degradation: Pipeline) -> str:
    """The name of a test set under a degradation, fit for a file or folder: Set5_sigma_2.6_noise_0."""
    return f'{set_name}_' + re.sub(r'[^\w.-]+', '_', str(degradation))


def partner(name: str, names: Container[str]) -> str | None:
    """The one of `names`, those of HR images, that an LR or super-resolved image called `name` belongs to.

    The same name, or without what follows it: namex4, name_x4, name_SR, name_x4_SR. None if there is none. Names have
    no suffix, and may have folders before them.
    """
    return next((each for each in (name, re.sub(r'(_?x[1-9])?(_SR)?$', '', name)) if each in names), None)


class Degraded:
    """Makes lq and up from hr. What is random follows from (seed, image's name), on the CPU for every device."""

    def __init__(self, seed: int, rgb_range: float = 1) -> None:
        self.seed, self.rgb_range = seed, rgb_range

    def __call__(self, set_name: str, image: str, hr: torch.Tensor,
                 degradation: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
        """hr (1, 3, H, W) → lq (1, 3, h, w), up (1, 3, H, W)."""
        return degradation(hr, generator('cpu', self.seed, 'test noise', image), self.rgb_range)

    def label(self, degradation: Pipeline) -> str:
        """How lq came about, apart from the numbers of the degradation."""
        return degradation.setting


class Files:
    """Reads lq from <folder>/<set>_<degradation>/<image>.png, as tools/make_testset.py writes them.

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
        path = self._path(set_name, image, degradation)
        lq = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].to(hr.device) * (self.rgb_range / 255)
        fault = self._misfit(path, tuple(lq.shape[-2:]), tuple(hr.shape[-2:]))
        if fault:
            raise UserError(f'--test_lr: {fault}; make it again by tools/make_testset.py')
        return lq, quantize(resize(lq, self.scale, shrink=False), self.rgb_range)

    def check(self, tests, degradations):
        """Look at the headers of all files that the TestSets `tests` need under `degradations`.

        Raises one UserError that counts and names those which are missing, unreadable or of another size.
        """
        needed = [(self._path(testset.name, image, degradation), hr, testset)
                  for testset in tests for image, hr in testset.named() for degradation in degradations]
        faults = [fault for fault in (self._fault(*each) for each in needed) if fault]
        if faults:
            own = slug(tests[0].name, degradations[0])
            raise UserError(f'--test_lr {shown(self.folder)}: {len(faults)} of {len(needed)} files cannot be used, in '
                            f'sub-folders such as {own}; make them again by tools/make_testset.py: {listed(faults)}')

    def _path(self, set_name, image, degradation):
        own = self.folder / slug(set_name, degradation)
        return (self.folder if self.flat and not own.is_dir() else own) / f'{image}.png'

    def _fault(self, path, hr, testset):
        """What is wrong with the file `path` beside the ground truth's file `hr`, or None."""
        try:
            if not self._misfit(path, read_size(path), testset.cropped(read_size(hr))):
                return None
            # What a PNG file says behind its pixels may turn it, which no header tells.
            return self._misfit(path, read_rgb(path).shape[:2], testset.cropped(read_rgb(hr).shape[:2]))
        except ImageError as error:
            return f'{shown(path)} ({error.reason})'

    def _misfit(self, path, size, hr_size):
        """What is wrong if lq of `size` does not belong to hr of `hr_size`, both (height, width); else None."""
        height, width = (side // self.scale for side in hr_size)
        if tuple(size) == (height, width):
            return None
        return f'{shown(path)} is {size[1]}x{size[0]} pixels, but the ground truth needs {width}x{height}'

    def label(self, degradation: Pipeline) -> str:
        """How lq came about."""
        return f'lq read from {shown(self.folder)}, x1/{self.scale}'
