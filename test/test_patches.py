"""Patches depend on seed, epoch and position alone; the raw cache is exact and checked; no worker hangs a run."""
import gc
import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from survival import alive, wait_for

from data.images import read_rgb, write_rgb
from data.patches import EpochSampler, PatchDataset, PixelCache, TrainLoader, default_cache
from utility import UserError


def noise(height, width, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / 'images' / f'{i} ü.png' for i in range(5)]
    for i, path in enumerate(paths):
        write_rgb(path, noise(20 + i, 30 - i, i))
    return paths


def loader(files, workers=0, read=read_rgb, seed=1, batches=6, patience=5):
    return TrainLoader(PatchDataset(files, 16, seed, read), EpochSampler(len(files), batches, 4, seed), workers,
                       patience=patience)


def epoch(train, number, first=0):
    train.batch_sampler.start(number, first)
    return torch.stack(list(train))


# ---------------------------------------------------------------- patches

def turns(image):
    """The eight flips and transposes of (H, W, 3), as (3, h, w)."""
    image = image.transpose(2, 0, 1)
    return [turn for x in (1, -1) for y in (1, -1) for flip in (image[:, ::y, ::x],)
            for turn in (flip, flip.swapaxes(1, 2))]


def test_a_patch_is_a_turned_crop(files):
    image = read_rgb(files[2])
    crops = {turn.tobytes() for top in range(image.shape[0] - 15) for left in range(image.shape[1] - 15)
             for turn in turns(image[top:top + 16, left:left + 16])}
    patches = [PatchDataset(files, 16, 1)[1, position, 2] for position in range(200)]
    assert all(patch.numpy().tobytes() in crops for patch in patches)
    assert patches[0].shape == (3, 16, 16) and patches[0].dtype == torch.uint8 and patches[0].is_contiguous()
    assert len({patch.numpy().tobytes() for patch in patches}) > 150


def test_epoch_position_and_seed_all_matter(files):
    keys = [(epoch, position, 2) for epoch in range(1, 4) for position in range(4)]
    patches = {PatchDataset(files, 16, seed)[key].numpy().tobytes() for seed in (1, 2) for key in keys}
    assert len(patches) > 20                              # of 24; there are 560 that can be drawn


def test_all_eight_turns_equally_often(tmp_path):
    write_rgb(tmp_path / 'a.png', noise(8, 8))
    turned = [turn.tobytes() for turn in turns(read_rgb(tmp_path / 'a.png'))]
    dataset = PatchDataset([tmp_path / 'a.png'], 8, 3)
    counts = np.bincount([turned.index(dataset[1, k, 0].numpy().tobytes()) for k in range(800)], minlength=8)
    assert counts.min() > 60 and counts.max() < 145      # 100 ± 9.4


def test_every_corner_is_reached(tmp_path):
    write_rgb(tmp_path / 'a.png', np.dstack([*np.mgrid[:11, :10], np.zeros((11, 10))]).astype(np.uint8))
    dataset = PatchDataset([tmp_path / 'a.png'], 8, 3, augment=False)
    corners = {tuple(dataset[1, k, 0][:2, 0, 0].tolist()) for k in range(300)}
    assert corners == {(y, x) for y in range(4) for x in range(3)}


def test_no_augment_turns_nothing(files):
    dataset = PatchDataset(files, 16, 1, augment=False)
    image = read_rgb(files[0])
    crops = {image[y:y + 16, x:x + 16].transpose(2, 0, 1).tobytes() for y in range(5) for x in range(15)}
    assert all(dataset[1, k, 0].numpy().tobytes() in crops for k in range(50))


def test_patch_has_its_own_memory(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    dataset = PatchDataset(files, 16, 1, cache.read, augment=False)
    before = dataset[1, 0, 0].clone()
    dataset[1, 0, 0].fill_(7)
    assert torch.equal(dataset[1, 0, 0], before)
    assert torch.equal(PatchDataset(files, 16, 1, augment=False)[1, 0, 0], before)


# ---------------------------------------------------------------- order

def test_every_image_once_a_shuffle():
    sampler = EpochSampler(7, 10, 4, 1)
    keys = [key for batch in sampler for key in batch]
    assert [key[:2] for key in keys] == [(1, k) for k in range(40)]
    order = [key[2] for key in keys]
    shuffles = [order[i:i + 7] for i in range(0, 35, 7)]
    assert all(sorted(shuffle) == list(range(7)) for shuffle in shuffles)
    assert len(set(map(tuple, shuffles))) > 1


def test_resumed_epoch_is_the_same():
    sampler = EpochSampler(7, 10, 4, 1)
    sampler.start(3)
    whole = list(sampler)
    sampler.start(3, 6)
    assert len(sampler) == 4 and list(sampler) == whole[6:]
    sampler.start(4)
    assert [[key[2] for key in batch] for batch in sampler] != [[key[2] for key in batch] for batch in whole]


def test_any_number_of_workers_and_any_interruption(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    alone, two = loader(files), loader(files, 2, cache.read)
    first, second = epoch(alone, 1), epoch(alone, 2)
    assert not torch.equal(first, second)
    assert torch.equal(epoch(two, 1), first) and torch.equal(epoch(two, 2), second)
    assert torch.equal(epoch(two, 1, 4), first[4:])
    two.batch_sampler.start(1)
    next(iter(two))                                       # an epoch given up half-way leaves nothing behind
    assert torch.equal(epoch(two, 2), second)
    assert not torch.equal(epoch(loader(files, seed=2), 1), first)


# ---------------------------------------------------------------- cache

@pytest.fixture
def decodes(monkeypatch):
    """Paths decoded so far, in order."""
    done = []

    def counted(path):
        done.append(path)
        return read_rgb(path)
    monkeypatch.setattr('data.patches.read_rgb', counted)
    return done


def entry(folder):
    path, = folder.glob('*.npy')
    return path


def test_decoded_once_then_mapped(files, tmp_path, decodes):
    for _ in range(3):
        array = PixelCache(tmp_path / 'cache').read(files[0])
        assert np.array_equal(array, noise(20, 30))
    assert decodes == files[:1] and isinstance(array, np.memmap)
    assert np.array_equal(np.load(entry(tmp_path / 'cache')), noise(20, 30))   # an ordinary .npy file
    PixelCache(tmp_path / 'cache').read(files[0], remake=True)
    assert len(decodes) == 2


def test_changed_source_is_decoded_again(files, tmp_path, decodes):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    stat = files[0].stat()
    write_rgb(files[0], noise(20, 30, 9))                                        # same size in pixels
    os.utime(files[0], ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    assert np.array_equal(cache.read(files[0]), noise(20, 30, 9)) and len(decodes) == 2
    assert entry(tmp_path / 'cache')                                             # the old one is gone
    files[0].unlink()
    with pytest.raises(UserError, match=files[0].name):
        cache.read(files[0])


def test_links_share_one_raw_copy(files, tmp_path, decodes):
    (tmp_path / 'link.png').symlink_to(files[0])
    cache = PixelCache(tmp_path / 'cache')
    assert np.array_equal(cache.read(tmp_path / 'link.png'), cache.read(files[0])) and len(decodes) == 1


@pytest.mark.parametrize('keep', [0, 5, 60, 127, 128, 1000, 1928, -1])
def test_short_entry_is_made_again(files, tmp_path, keep, decodes):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    data = entry(tmp_path / 'cache').read_bytes()
    entry(tmp_path / 'cache').write_bytes(data[:keep])
    assert np.array_equal(cache.read(files[0]), noise(20, 30)) and len(decodes) == 2
    assert entry(tmp_path / 'cache').read_bytes() == data


@pytest.mark.parametrize('array', [np.zeros((20, 30), np.uint8), np.zeros((20, 30, 3), np.int8),
                                   np.zeros((10, 30, 3), np.uint8), np.zeros((20, 30, 4), np.uint8)])
def test_entry_of_another_shape_is_made_again(files, tmp_path, array):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    path = entry(tmp_path / 'cache')
    stamp = path.read_bytes()[128 + 1800:]
    np.save(path, array)
    if array.shape != (10, 30, 3):                                               # that one lacks its stamp
        path.write_bytes(path.read_bytes() + stamp)
    assert np.array_equal(cache.read(files[0]), noise(20, 30))


def test_damaged_header_is_never_believed(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    path = entry(tmp_path / 'cache')
    data = path.read_bytes()
    for position in range(128):
        for bit in (0, 3, 6):
            path.write_bytes(data[:position] + bytes([data[position] ^ 1 << bit]) + data[position + 1:])
            assert np.array_equal(cache.read(files[0]), noise(20, 30)), (position, bit)


def test_pickles_are_not_loaded(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    cache.read(files[0])
    np.save(entry(tmp_path / 'cache'), np.array([{}, []], object), allow_pickle=True)
    assert np.array_equal(cache.read(files[0]), noise(20, 30))


def test_too_small_disk_is_seen_before_writing(files, tmp_path, monkeypatch):
    need = sum((20 + i) * (30 - i) * 3 for i in range(5))
    for free, used in ((need - 1, None), (need, tmp_path / 'cache')):
        monkeypatch.setattr(shutil, 'disk_usage', lambda _, free=free: shutil._ntuple_diskusage(10 ** 9, 0, free))
        cache = PixelCache(tmp_path / 'cache')
        cache.reserve(files)
        assert cache.folder == used and (used or f'{need:,}' in cache.trouble)
    cache.read(files[0])                                                         # one less to come
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: shutil._ntuple_diskusage(10 ** 9, 0, need - 1800))
    cache.reserve(files)
    assert cache.trouble is None


def test_disk_that_fills_up_costs_speed_only(files, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    cache = PixelCache(tmp_path / 'cache')
    cache.reserve(files)
    monkeypatch.setattr(os, 'fsync', full)
    for i, path in enumerate(files):
        assert np.array_equal(cache.read(path), noise(20 + i, 30 - i, i))
    assert 'No space left' in cache.trouble and not list((tmp_path / 'cache').iterdir())


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_cache() == tmp_path / 'mrda'
    monkeypatch.setenv('XDG_CACHE_HOME', '')
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    assert default_cache() == tmp_path / 'home' / '.cache' / 'mrda'
    with pytest.raises(UserError, match='~no-such-user/x: no such user'):
        PixelCache('~no-such-user/x')


# ---------------------------------------------------------------- workers that fail

class Trap:
    """Reads like read_rgb, but what happens at the file `name` is `action`."""

    def __init__(self, name, action):
        self.name, self.action = name, action

    def __call__(self, path):
        if path.name == self.name:
            self.action()
        return read_rgb(path)


def sleep():
    time.sleep(60)


def nap():
    time.sleep(1.5)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize('action,words', [(sleep, 'hangs'), (die, 'ended from outside')])
def test_worker_that_hangs_or_dies(files, action, words):
    before, start = signal.getsignal(signal.SIGCHLD), time.monotonic()
    train = loader(files, 2, Trap(files[3].name, action), patience=1)
    with pytest.raises(UserError, match=words) as error:
        list(train)
    del train
    gc.collect()
    assert time.monotonic() - start < 10 and not multiprocessing.active_children()
    assert files[3].name in str(error.value) and '\n' not in str(error.value)
    assert signal.getsignal(signal.SIGCHLD) == before


def test_a_hang_is_known_within_ten_seconds(files):
    start = time.monotonic()
    train = TrainLoader(PatchDataset(files, 16, 1, Trap(files[3].name, sleep)), EpochSampler(5, 6, 4, 1), 1)
    with pytest.raises(UserError, match='hangs'):
        list(train)
    assert time.monotonic() - start < 10


def test_slow_worker_is_waited_for(files):
    slow = loader(files, 1, Trap(files[3].name, nap), batches=2, patience=1)
    assert torch.equal(epoch(slow, 1), epoch(loader(files, batches=2), 1))


def load_and_wait(files, method, worker):
    multiprocessing.set_start_method(method, force=True)
    batches = iter(loader(files, 2))
    next(batches)
    worker.send([process.pid for process in multiprocessing.active_children()])
    time.sleep(60)


@pytest.mark.skipif(not Path('/proc/self').exists(), reason='reads /proc')
@pytest.mark.parametrize('method', multiprocessing.get_all_start_methods())
def test_no_worker_outlives_a_killed_training(files, method):
    receiver, sender = multiprocessing.Pipe(duplex=False)
    training = multiprocessing.get_context('spawn').Process(target=load_and_wait, args=(files, method, sender))
    training.start()
    workers = receiver.recv()
    assert len(workers) == 2 and all(map(alive, workers))
    training.kill()
    wait_for(lambda: not any(map(alive, workers)), 10)
    training.join()


@pytest.mark.parametrize('workers', [0, 1])
def test_image_that_vanishes_during_training(files, workers):
    train = loader(files, workers)
    files[3].unlink()
    with pytest.raises(UserError) as error:
        list(train)
    assert str(error.value).startswith(str(files[3])) and '\n' not in str(error.value)
