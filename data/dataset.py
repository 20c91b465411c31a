"""Where the HR images of a data set are, and the checks that all of them pass before the first step."""
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from data.images import ImageError, is_image, read_rgb, shown
from utility import UserError

OFFICIAL = {  # the folders that the official archives unpack to: {set: (for training, for tests)}; all of a tuple are joined
    'df2k': (('DIV2K/DIV2K_train_HR', 'Flickr2K/Flickr2K_HR'),) * 2,
    'div2k': (('DIV2K/DIV2K_train_HR',), ('DIV2K/DIV2K_train_HR', 'DIV2K/DIV2K_valid_HR')),  # 801-810 are in valid
    'flickr2k': (('Flickr2K/Flickr2K_HR',),) * 2,
}
ALIASES = (('B100', 'BSD100', 'BSDS100'),)
BENCHMARKS = {'set5', 'set14', 'b100', 'bsd100', 'bsds100', 'urban100', 'manga109'}
SHOWN = 10  # names in an error about many files


def split_names(names):
    """The sets of --data_train and --data_test: 'A+B' → ['A', 'B'], but a path that holds a + stays whole."""
    if Path(names).is_dir():
        return [names]
    return [name.strip() for name in names.split('+') if name.strip()]


def find_images(dir_data, names, train, data_range=None):
    """Sorted paths of the HR images of the sets `names` ('A+B' joins A and B).

    Each set may lie in <dir_data>/<set>/HR, its official folders (DIV2K, Flickr2K, both together as DF2K),
    <dir_data>/<set>, the folder <set> itself, with or without HR, or <dir_data>/benchmark/<set>/HR, where tests look
    first. Capitals matter only if two folders differ in nothing else.
    data_range: --data_range, applied to each set; benchmarks are tested whole.
    Raises UserError that says what was looked for, where, and what lies there.
    """
    images = []
    for name in split_names(names):
        files, benchmark = _find_set(Path(dir_data).expanduser(), name, train)
        if data_range and not (benchmark and not train):
            files = _cut(files, name, data_range, train)
        images += files
    if not images:
        raise UserError(f'{_flag(train)} {names!r} names no data set')
    return images


def _flag(train):
    return '--data_train' if train else '--data_test'


def _find_set(root, name, train):
    """(images of one set, whether it is a benchmark)."""
    looked = []
    for folders in _places(name, train):
        images = [image for folder in folders for image in _list(_resolve(root, folder))]
        if images and all(_list(_resolve(root, folder)) for folder in folders):
            inside = _resolve(root, folders[0]).relative_to(root) if folders[0].startswith('benchmark/') else None
            return images, inside is not None or name.lower() in BENCHMARKS
        looked.append(' + '.join(folders))
    raise UserError(f'{_flag(train)} {name}: no images ({" ".join(s[1:] for s in ("",))}) found')


def _places(name, train):
    """Where a set may lie, best first: tuples of folders under dir_data that are joined."""
    names = next((group for group in ALIASES if name.lower() in map(str.lower, group)), (name,))
    names = sorted(names, key=lambda other: other != name)
    own = [(f'{name}/HR',) for name in names]
    own += [OFFICIAL[name.lower()][0 if train else 1]] if name.lower() in OFFICIAL else []
    own += [(name,) for name in names]
    benchmarks = [(f'benchmark/{name}{end}',) for name in names for end in ('/HR', '')]
    return own + benchmarks if train else benchmarks + own
