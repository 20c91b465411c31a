"""LR images: generated on the fly or read from files; matching of LR and HR files."""
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path

import torch

from data.dataset import TestSet, listed
from data.degradation import Pipeline, Round, Step, resize
from data.images import ImageError, is_image, read_rgb, read_size
from utility import UserError, generator, luma, quantize, shown


def slug(set_name: str, degradation: Pipeline) -> str:
    """The name of a test set under a degradation, for a file or folder: Set5_sigma_2.6_noise_0."""
    return f'{set_name}_' + re.sub(r'[^\w.-]+', '_', str(degradation))


def partner(name: str, names: Container[str]) -> str | None:
    """The one of `names`, of HR images, that the LR or super-resolved image `name` belongs to.

    Either the same name, or `name` without an ending x4, _x4, _SR or _x4_SR; None if there is none. Names have no
    suffix; they may be relative paths.
    """
    return next((each for each in (name, re.sub(r'(_?x[1-9])?(_SR)?$', '', name)) if each in names), None)


class Degraded:
    """Generates lq and up from hr. Random numbers depend on (seed, image's name) alone and are drawn on the CPU."""

    def __init__(self, seed: int, rgb_range: float = 1) -> None:
        self.seed, self.rgb_range = seed, rgb_range

    def __call__(self, set_name: str, image: str, hr: torch.Tensor,
                 degradation: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
        """hr (1, 3, H, W) → lq (1, 3, h, w), up (1, 3, H, W)."""
        return degradation(hr, generator('cpu', self.seed, 'test noise', image), self.rgb_range)

    def label(self, degradation: Pipeline) -> str:
        """How lq is generated, apart from the parameters of the degradation."""
        return degradation.setting


@dataclass(frozen=True)
class Given(Step, name='given'):
    """Placeholder for the unknown degradation of LR images given as files."""
    varies = True
    folder: str

    @property
    def setting(self) -> str:
        return f'lq read from {self.folder}'


class Files:
    """Reads lq from files, matched to the HR images by name, see partner().

    They are in <folder>/<set>_<degradation>/, as tools/make_testset.py writes them, or, if the degradation is unknown,
    in <folder>/<set>/ or, for a single set, in <folder>/ itself.
    """

    def __init__(self, folder: str | Path, scale: int, rgb_range: float, n_sets: int = 1) -> None:
        self.folder, self.scale, self.rgb_range, self.n_sets = Path(folder), scale, rgb_range, n_sets
        self.found: dict[Path, dict[str, Path]] = {}  # {folder: {name without suffix: file}}
        if not self.folder.is_dir():
            raise UserError(f'--test_lr {shown(folder)}: no such folder')

    def series(self, tests: list[TestSet], degradations: list[Pipeline]) -> list[Pipeline]:
        """The degradations if there is a folder for each, else a placeholder for an unknown one."""
        written = all((self.folder / slug(testset.name, each)).is_dir() for testset in tests for each in degradations)
        if written or len(degradations) > 1:
            return degradations
        return [Pipeline(f'LR from {self.folder.name}', self.scale, (Given(shown(self.folder)), Round()))]

    def __call__(self, set_name: str, image: str, hr: torch.Tensor,
                 degradation: Pipeline) -> tuple[torch.Tensor, torch.Tensor]:
        """Only the size of hr (1, 3, H, W) is used → lq (1, 3, h, w), up (1, 3, H, W).

        Raises UserError if the file is missing or of another size.
        """
        path = self._path(set_name, image, degradation)
        lq = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None].to(hr.device) * (self.rgb_range / 255)
        lq = lq if hr.shape[1] == 3 else quantize(luma(lq), self.rgb_range)
        fault = misfit(tuple(lq.shape[-2:]), tuple(hr.shape[-2:]), self.scale)
        if fault:
            raise UserError(f'--test_lr: {shown(path)} is {fault}')
        return lq, quantize(resize(lq, self.scale, downsample=False), self.rgb_range)

    def check(self, tests: list[TestSet], degradations: list[Pipeline]) -> None:
        """Check the headers of all files that `tests` need under `degradations`.

        Raises one UserError with the number and names of those that are missing, unreadable or of another size.
        """
        needed = [(self._path(testset.name, image, degradation), hr, testset)
                  for testset in tests for image, hr in testset.named() for degradation in degradations]
        faults = [fault for fault in (self._fault(*each) for each in needed) if fault]
        if faults:
            own = slug(tests[0].name, degradations[0])
            rule = ('named like the HR images, or with x4, _x4 or _x4_SR appended' if degradations[0].find(Given) else
                    f'in sub-folders such as {own}, as tools/make_testset.py writes them')
            raise UserError(f'--test_lr {shown(self.folder)}: {len(faults)} of {len(needed)} files cannot be used, '
                            f'{rule}: {listed(faults)}')

    def _path(self, set_name, image, degradation):
        folder = self.folder / slug(set_name, degradation)
        if degradation.find(Given):
            folder = self.folder / set_name
            folder = self.folder if self.n_sets == 1 and not folder.is_dir() else folder
        if folder not in self.found:
            self.found[folder] = {path.stem: path for path in _images(folder)} if folder.is_dir() else {}
        files = self.found[folder]
        return next((path for stem, path in files.items() if stem == image),
                    next((path for stem, path in files.items() if partner(stem, [image])), folder / f'{image}.png'))

    def _fault(self, path, hr, testset):
        """The fault of the LR file `path` for the ground-truth file `hr`, or None."""
        try:
            if not misfit(read_size(path), testset.cropped(read_size(hr)), self.scale):
                return None
            # An EXIF orientation after the pixels of a PNG file may rotate it, which read_size does not see.
            fault = misfit(read_rgb(path).shape[:2], testset.cropped(read_rgb(hr).shape[:2]), self.scale)
            return fault and f'{shown(path)} is {fault}'
        except ImageError as error:
            return f'{shown(path)} ({error.reason})'

    def label(self, degradation: Pipeline) -> str:
        """Where lq comes from."""
        return f'lq read from {shown(self.folder)}, x1/{self.scale}'


def matched(files: list[Path], folder: str | Path) -> list[Path]:
    """The LR image in `folder` of each HR image of `files`, matched by partner().

    Raises UserError if one has none, or two.
    """
    place = Path(folder)
    if not place.is_dir():
        raise UserError(f'--train_lr {shown(folder)}: no such folder')
    names, found = {path.stem for path in files}, {}
    for path in _images(place):
        name = partner(path.stem, names)
        if name and found.setdefault(name, path) != path:
            raise UserError(f'--train_lr {shown(folder)}: {found[name].name} and {path.name} both match {name}; '
                            'remove one')
    unmatched = [shown(path.name) for path in files if path.stem not in found]
    if unmatched:
        raise UserError(f'--train_lr {shown(folder)}: no LR image for {len(unmatched)} of {len(files)} HR images; name '
                        f'them like these, or with x4, _x4 or _x4_SR appended: {listed(unmatched)}')
    return [found[path.stem] for path in files]


def misfit(size: tuple[int, ...], hr_size: tuple[int, ...], scale: int) -> str | None:
    """The fault if lq of `size` does not fit hr of `hr_size`, both (height, width); else None."""
    height, width = (side // scale for side in hr_size)
    if tuple(size) == (height, width):
        return None
    return f'{size[1]}x{size[0]} pixels, but the ground truth needs {width}x{height}'


def _images(folder):
    return sorted(path for path in folder.iterdir() if is_image(path) and path.is_file())
