import shutil
from dataclasses import replace

import numpy as np
import prepare_data
import pytest
import torch
from mirror import SMALL_SETS, Mirror, archives, sums
from skimage import data as photos

import main as program
import trainer
from data import download
from data.images import write_rgb
from data.sources import PARTS

torch.set_num_threads(1)  # small tensors: more threads are slower, and one thread makes runs bit-identical

SMALL = ['--scale', '2', '--n_feats', '8', '--n_blocks', '1', '--patch_size', '12', '--batch_size', '4',
         '--test_every', '3', '--epochs_sr', '2', '--n_threads', '0', '--task_iter', '2', '--test_iter', '2',
         '--meta_batch_size', '2', '--data_train', 'Photos', '--data_test', 'Set2', '--print_every', '1',
         '--device', 'cpu', '--sig', '1.2', '--sig_max', '2']


def pytest_addoption(parser):
    parser.addoption('--sweep', action='store_true', help='200 random kills, each write point, a hung process')
    parser.addoption('--seed', type=int, default=0, help='of the networks and images that a test draws (default: 0)')


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Seed every test in the same way, alone or among others, so that a failure can be repeated."""
    torch.manual_seed(item.config.getoption('--seed'))


@pytest.fixture(autouse=True)
def without_curves(request, monkeypatch):
    """Curves, half of the time of a small training, are drawn by other processes and in tests marked `curves` only."""
    if not request.node.get_closest_marker('curves'):
        monkeypatch.setattr(trainer, 'draw_curves', lambda *_: None)
        monkeypatch.setattr(trainer, 'draw_rate', lambda *_: None)


@pytest.fixture(scope='session')
def library(tmp_path_factory):
    """A data folder of three training photos and two test photos, one of them gray."""
    folder = tmp_path_factory.mktemp('library')
    for name, image in (('a', photos.astronaut()[:96, :80]), ('b', photos.coffee()[100:180, 100:220]),
                        ('c', photos.chelsea()[50:130, 100:200])):
        write_rgb(folder / 'Photos' / 'HR' / f'{name}.png', np.ascontiguousarray(image))
    for name, image in (('d', photos.chelsea()[100:161, 150:220]), ('e', photos.camera()[100:160, 200:271])):
        rgb = image if image.ndim == 3 else image[..., None].repeat(3, 2)
        write_rgb(folder / 'benchmark' / 'Set2' / 'HR' / f'{name}.png', np.ascontiguousarray(rgb))
    return folder


@pytest.fixture
def cli(library, tmp_path, monkeypatch):
    """cli(*flags) runs the program with a small network in an empty folder and returns its exit status. without: flags
    of SMALL to leave out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

    def run(*flags, without=()):
        small = [part for pair in zip(SMALL[::2], SMALL[1::2], strict=True) if pair[0] not in without for part in pair]
        return program.main([*small, '--dir_data', str(library), *map(str, flags)])
    return run


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """prepare(*words) runs prepare_data.py on the folder data/: (exit status, what it printed, its errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('NO_PROXY', '127.0.0.1')
    monkeypatch.setattr(download, 'PAUSE', 0)
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10 ** 12, 0, 10 ** 12))

    def run(*words, root='data'):
        status = prepare_data.main([*map(str, words), '--dir_data', str(root)])
        return status, *capsys.readouterr()
    return run


@pytest.fixture
def small_sets(monkeypatch):
    """The table of public data sets, with a few images each."""
    for name, count in SMALL_SETS.items():
        first = SMALL_SETS['DIV2K'] + 1 if name == 'DIV2K_valid' else 1
        monkeypatch.setitem(PARTS, name, replace(PARTS[name], count=count, first=first))
    return PARTS


@pytest.fixture
def mirror(small_sets, monkeypatch):
    """A server of small archives and their checksums, for prepare_data.py."""
    with Mirror(archives(small_sets)) as mirror:
        mirror.files['SHA256SUMS'] = sums(mirror.files)
        monkeypatch.setenv('MRDA_MIRROR', mirror.url)
        yield mirror
