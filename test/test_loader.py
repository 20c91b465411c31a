"""Batches are the same for any number of workers, and no worker hangs a run."""
import gc
import multiprocessing
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from survival import alive, wait_for

from data.cache import PixelCache
from data.images import read_rgb, write_rgb
from data.loader import TrainLoader
from data.sampling import EpochSampler, PatchDataset
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
