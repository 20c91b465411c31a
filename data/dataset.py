"""Finding the HR images of a data set, and checking all of them before the first step."""
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.images import SUFFIXES, ImageError, is_image, read_rgb
from store.files import write_bytes
from utility import UserError, expand, expanded, shown

# Folders that the official archives unpack to; those of a tuple are joined. Images 801-810 of DIV2K are in VALID.
DIV2K, VALID, FLICKR2K = 'DIV2K/DIV2K_train_HR', 'DIV2K/DIV2K_valid_HR', 'Flickr2K/Flickr2K_HR'
OFFICIAL_TRAIN = {'df2k': (DIV2K, FLICKR2K), 'div2k': (DIV2K,), 'flickr2k': (FLICKR2K,)}
OFFICIAL_TEST = {**OFFICIAL_TRAIN, 'div2k': (DIV2K, VALID)}
ALIASES = ('B100', 'BSD100', 'BSDS100')
BENCHMARKS = {'set5': 'Set5', 'set14': 'Set14', 'b100': 'B100', 'bsd100': 'B100', 'bsds100': 'B100',
              'urban100': 'Urban100', 'manga109': 'Manga109'}
SHOWN = 10  # most names in an error about many files
MANY = 1000  # images from which a line is printed where a progress bar cannot be shown
LISTED = 'bad_images.txt'
# Sub-folders without HR images: hidden ones, thumbnails of file servers, LR images.
LEFT_OUT = re.compile(r'[.@].*|__MACOSX|x[2348]|lr|lr[x_].*|.*_lr|.*_lr_.*', re.IGNORECASE)
Note = Callable[[str], object]


def canonical(name: str) -> str:
    """A benchmark's usual name, from any spelling of it; other names unchanged."""
    return BENCHMARKS.get(name.lower(), name)


def split_names(names: str, flag: str) -> list[str]:
    """The sets of `flag`, --data_train or --data_test: 'A+B' → ['A', 'B']; an existing folder's path is one set."""
    if names and Path(expanded(names)).is_dir():
        return [expanded(names)]
    parts = [expanded(name.strip()) for name in names.split('+') if name.strip()]
    if not parts:
        raise UserError(f'{flag} {names!r} names no data set; give one, such as Set5, or A+B')
    return parts


def find_images(dir_data: str | Path, names: str, train: bool, data_range: str | None = None,
                others_whole: bool = False, note: Note = str) -> list[Path]:
    """Paths of the HR images of the sets `names`, each sorted; 'A+B' joins A and B.

    A set may lie in <dir_data>/<set>/HR, its official folders (DIV2K, Flickr2K, both together as DF2K),
    <dir_data>/<set>, <dir_data>/benchmark/<set>/HR (tried first for tests), or in the folder <set> itself, with or
    without HR. Upper and lower case are distinguished only between folders that differ in nothing else. Sets that are
    not public ones include their sub-folders, except hidden ones and those of LR images.
    data_range: --data_range, applied to each set, but not to benchmarks in tests. others_whole: nor to any set but
    DF2K, DIV2K and Flickr2K, for which the published range is meant. note(text): called about sub-folders.
    Raises UserError with what was looked for, where, and what is there.
    """
    flag = '--data_train' if train else '--data_test'
    images = []
    for name in split_names(names, flag):
        files, benchmark = _find_set(expand(dir_data), name, train, flag, note)
        whole = (benchmark and not train) or (others_whole and name.lower() not in OFFICIAL_TRAIN)
        if data_range and not whole:
            files = _cut(files, f'{flag} {name}', data_range, train)
        images += files
    return images


def _find_set(root, name, train, flag, note):
    """(images of one set, whether it is a benchmark)."""
    places, public = _places(root, name, train), name.lower() in (*OFFICIAL_TRAIN, *BENCHMARKS)
    for place in places:
        parts, left_out = zip(*(_list(folder, not public) for folder in map(_resolve, place)), strict=True)
        if all(parts):
            benchmark = name.lower() in BENCHMARKS or root / 'benchmark' in place[0].parents
            images = [image for part in parts for image in part]
            _tell(f'{flag} {shown(name)}', images, [folder for part in left_out for folder in part], note)
            return images, benchmark
    looked = ', '.join(' + '.join(shown(folder) for folder in place) for place in places)
    there = f'holds {_contents(root)}' if root.is_dir() else 'does not exist'
    raise UserError(f'{flag} {shown(name)}: no images ({" ".join(SUFFIXES)}) found; looked in {looked}; '
                    f'--dir_data {shown(root)} {there}')


def _places(root, name, train):
    """Where a set may be, in the order of search, as tuples of folders to be joined."""
    direct = [(Path(name) / 'HR',), (Path(name),)]
    if Path(name).is_absolute():
        return direct
    names = [name] + [alias for alias in ALIASES if name.upper() in ALIASES and alias != name.upper()]
    official = (OFFICIAL_TRAIN if train else OFFICIAL_TEST).get(name.lower())
    own = [(root / name / 'HR',) for name in names]
    own += [tuple(root / folder for folder in official)] if official else []
    own += [(root / name,) for name in names]
    benchmarks = [(root / 'benchmark' / name / end,) for name in names for end in ('HR', '')]
    return [*own, *benchmarks, *direct] if train else [*benchmarks, *own, *direct]


def _resolve(path):
    """`path`, or the only folder whose path equals it except for upper and lower case; else None."""
    if path.is_dir():
        return path
    parent = _resolve(path.parent) if path.parent != path else None
    fits = [entry for entry in _entries(parent) if entry.is_dir() and entry.name.lower() == path.name.lower()]
    return fits[0] if len(fits) == 1 else None


def _list(folder, deep):
    """(sorted images in `folder` and, if `deep`, below it; sub-folders left out). Broken links are included: scan()
    reports them."""
    images, left_out, seen, waiting = [], [], set(), [folder]
    while waiting:
        place = waiting.pop()
        if place in (None, *seen):
            continue
        seen.add(os.path.realpath(place))  # links may form a cycle
        for entry in _entries(place):
            if not entry.is_dir():
                images += [entry] * is_image(entry)
            elif deep and os.path.realpath(entry) not in seen:
                (left_out if LEFT_OUT.fullmatch(entry.name) else waiting).append(entry)
    return sorted(images), sorted(left_out)


def _tell(what, images, left_out, note):
    """Log the number of images of each folder, if there are several, and the sub-folders left out."""
    counts = Counter(image.parent for image in images)
    if len(counts) > 1 or left_out:
        folders = listed([f'{count:,} in {shown(folder)}' for folder, count in counts.items()])
        more = f'; left out: {listed(list(map(shown, left_out)))}' if left_out else ''
        note(f'{what}: {len(images):,} images: {folders}{more}')


def _entries(folder):
    if folder is None:
        return []
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise UserError(f'{shown(folder)}: cannot be listed ({error.strerror})') from error


def _contents(folder):
    """A folder's contents, for a message."""
    names = sorted(shown(entry.name) + '/' * entry.is_dir() for entry in _entries(folder))
    return ', '.join(names[:SHOWN]) + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '') or 'nothing'


def _cut(files, what, data_range, train):
    """The files in the range (from 1, inclusive) that --data_range gives for training or tests."""
    match = re.fullmatch(r'(\d+)-(\d+)/(\d+)-(\d+)', data_range.strip())
    train_begin, train_end, test_begin, test_end = map(int, match.groups()) if match else (0, 0, 0, 0)
    if not (1 <= train_begin <= train_end and 1 <= test_begin <= test_end):
        raise UserError(f'--data_range {data_range!r} is not of the form 1-3450/801-810 '
                        '(training/test; first-last image, counted from 1)')
    begin, end = (train_begin, train_end) if train else (test_begin, test_end)
    if begin > len(files):
        raise UserError(f'--data_range {data_range}: {what} has {len(files)} images, none at {begin}-{end}; '
                        f'give a range such as 1-{train_end}/1-{len(files)}')
    return files[begin - 1:end]


def scan(files: list[Path], min_size: int, read: Callable[[Path], np.ndarray] = read_rgb,
         too_small: str = 'remove it') -> dict[Path, str]:
    """Read every image once with `read`.

    Returns the faults {path: reason} of images that cannot be read or have a side below `min_size`; too_small: what to
    do about the latter.
    """
    def problem(path):
        try:
            height, width = read(path).shape[:2]
        except ImageError as error:
            return error.reason
        small = min(height, width) < min_size
        return f'{width}x{height} is smaller than {min_size}x{min_size}: {too_small}' if small else None

    with ThreadPoolExecutor(min(8, max(2, os.cpu_count() or 2))) as pool:
        progress = watched(pool.map(problem, files), 'checking images', len(files))
        return {path: reason for path, reason in zip(files, progress, strict=True) if reason}


def watched(steps: Iterable, text: str, total: int) -> Iterable:
    """`steps` with a progress bar on a terminal; elsewhere a line with their number if they are many."""
    bar = tqdm(steps, text, total, leave=False, delay=0.5, disable=None)
    if bar.disable and total >= MANY:
        print(f'{text}: {total:,}', file=sys.stderr, flush=True)
    return bar


def refuse(bad: dict[Path, str], files: list[Path]) -> None:
    """Raises one UserError with the number and names of the images of `bad`, {path: reason}, among `files`, if any."""
    if bad:
        raise UserError(f'{len(bad)} of {len(set(files))} images cannot be used; replace or remove them, or add '
                        f'--skip_bad: {bad_ones(bad)}')


def bad_ones(bad: dict[Path, str]) -> str:
    """The images of `bad`, {path: reason}, on one line; if they are many, it names a file that lists all."""
    faults = [f'{shown(path)} ({reason})' for path, reason in bad.items()]
    if len(faults) <= SHOWN:
        return listed(faults)
    for folder in Path(), Path(tempfile.gettempdir()):
        with suppress(UserError):
            write_bytes(folder / LISTED, ''.join(f'{fault}\n' for fault in faults).encode(errors='backslashreplace'))
            return f'{listed(faults)}, all listed in {folder / LISTED}'
    return listed(faults)


def listed(faults: list[str]) -> str:
    """The first `faults` on one line, and the number of the others."""
    return '; '.join(faults[:SHOWN]) + (f'; and {len(faults) - SHOWN} more' if len(faults) > SHOWN else '')


class TestSet:
    """A named set of test images; iterating it yields (name, hr), hr uint8 (1, 3, H, W), H and W multiples of scale."""
    __test__ = False  # not a test case of pytest

    def __init__(self, name: str, files: list[Path], scale: int) -> None:
        self.name, self.files, self.scale = name, files, scale

    def __len__(self) -> int:
        return len(self.files)

    def named(self) -> list[tuple[str, Path]]:
        """A list of (name, path), all names different: the stem, else the file name, else the file name after as many
        parent folders as needed."""
        choices = [[path.stem, *('_'.join(path.parts[-n:]) for n in range(1, len(path.parts)))] for path in self.files]
        taken = Counter(name for names in choices for name in set(names))
        return [(next((name for name in names if taken[name] == 1), names[-1]), path)
                for names, path in zip(choices, self.files, strict=True)]

    def cropped(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (height, width) of an image of `size` after cropping to multiples of the scale."""
        return tuple(side - side % self.scale for side in size)

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, path in self.named():
            hr = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)[None]                  # (1, 3, H, W)
            height, width = self.cropped(hr.shape[-2:])
            yield name, hr[..., :height, :width].contiguous()
