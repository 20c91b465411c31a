"""Two folders of image files, super-resolved and ground truth: matching files, and their scores."""
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from data.images import MAX_PIXELS, read_rgb, read_size
from data.pairs import partner
from photo.targets import find_photos
from report.metric import WINDOW, scores
from utility import UserError, shown


def pairs(sr: Path, hr: Path) -> list[tuple[str, Path, Path]]:
    """[(name, super-resolved file, ground-truth file)] of two folders, globs or files.

    Files are matched by their path below the folder, without suffix, by data.pairs.partner(); two single files match
    whatever their names. Raises UserError with the names that have no match, or several.
    """
    if sr.is_file() and hr.is_file():
        return [(sr.stem, sr, hr)]
    truths, found, unmatched = _unique(_named(hr, 'the second folder')), [], []
    for name, path in _named(sr, 'the first folder'):
        own = partner(name, truths)
        found.append((own, path, truths[own])) if own else unmatched.append(name)
    unmatched += sorted(truths.keys() - {name for name, *_ in found})
    _unique((name, path) for name, path, _ in found)
    if unmatched:
        raise UserError(f'no matching file in the other folder for {", ".join(map(shown, unmatched[:10]))}'
                        + (f' and {len(unmatched) - 10} more' if len(unmatched) > 10 else ''))
    return found


def _named(source: Path, role: str) -> list[tuple[str, Path]]:
    """(name, file) of every image of `source`; name: its path below a folder, its file name for a glob."""
    return [((path.relative_to(source) if source.is_dir() else Path(path.name)).with_suffix('').as_posix(), path)
            for path in find_photos(source, role)]


def _unique(files: Iterable[tuple[str, Path]]) -> dict[str, Path]:
    """{name: file} from pairs (name, file). Raises UserError if two files have the same name."""
    found = {}
    for name, path in files:
        if found.setdefault(name, path) != path:
            raise UserError(f'{shown(found[name])} and {shown(path)} both match the image {shown(name)}; '
                            'leave one of them out')
    return found


def read(path: Path, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """An image file as uint8 (H, W, 3). Raises UserError if it cannot be read, or has more than `max_pixels`."""
    height, width = read_size(path, sys.maxsize)
    if height * width > max_pixels:
        raise UserError(f'{shown(path)}: {width}x{height} is more than {max_pixels:,} pixels; raise --max_pixels')
    return read_rgb(path, max_pixels)


def score(sr_path: Path, hr_path: Path, border: int, metrics: list[str],
          max_pixels: int = MAX_PIXELS) -> dict[str, float]:
    """{metric: value} of two image files; a larger ground truth is cropped to the super-resolved image.

    Raises UserError if a file cannot be read, their sizes differ too much, or `border` leaves too few pixels.
    """
    sr, hr = (torch.from_numpy(read(path, max_pixels)).permute(2, 0, 1)[None] / 255 for path in (sr_path, hr_path))
    height, width = sr.shape[-2:]
    if not all(0 <= large - small < 4 for small, large in zip(sr.shape[-2:], hr.shape[-2:], strict=True)):
        raise UserError(f'{shown(sr_path)} is {width}x{height} pixels, but {shown(hr_path)} is '
                        f'{hr.shape[-1]}x{hr.shape[-2]}; the ground truth may be at most 3 pixels larger per side')
    if 'ssim_y' in metrics and min(height, width) < 2 * border + WINDOW:
        raise UserError(f'{shown(sr_path)} is {width}x{height} pixels: too small for --border {border} and the '
                        f'{WINDOW}x{WINDOW} window of SSIM; lower --border')
    return scores(metrics, sr, hr[..., :height, :width], border)
