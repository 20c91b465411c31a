"""Batches are the same for any number of workers, and no worker hangs a run."""
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
from torch.utils.data import get_worker_info

from data.cache import PixelCache
from data.images import read_rgb, write_rgb
from data.loader import TrainLoader, shared_memory_fits
from data.sampling import EpochSampler, PatchDataset
from utility import Unavailable, UserError


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


def test_batches_do_not_depend_on_workers_or_interruptions(files, tmp_path):
    cache = PixelCache(tmp_path / 'cache')
    alone, two = loader(files), loader(files, 2, cache.read)
    first, second = epoch(alone, 1), epoch(alone, 2)
    assert not torch.equal(first, second)
    assert torch.equal(epoch(two, 1), first) and torch.equal(epoch(two, 2), second)
    assert torch.equal(epoch(two, 1, 4), first[4:])
    two.batch_sampler.start(1)
    next(iter(two))                                       # an abandoned epoch has no effect
    assert torch.equal(epoch(two, 2), second)
    assert not torch.equal(epoch(loader(files, seed=2), 1), first)


class Trap:
    """Reads like read_rgb, but calls `action` at the file `name`."""

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


@pytest.mark.parametrize('action,words', [(sleep, 'takes more than 1 s'), (die, 'a data loader worker was killed')])
def test_worker_that_hangs_or_dies(files, action, words):
    before, start = signal.getsignal(signal.SIGCHLD), time.monotonic()
    train = loader(files, 2, Trap(files[3].name, action), patience=1)
    with pytest.raises(Unavailable, match=words) as error:
        list(train)
    assert error.value.status == 75
    del train
    gc.collect()
    assert time.monotonic() - start < 10 and not multiprocessing.active_children()
    assert files[3].name in str(error.value) and '\n' not in str(error.value)
    assert signal.getsignal(signal.SIGCHLD) == before


def test_slow_worker_is_reported_once(files, monkeypatch, capsys):
    monkeypatch.setattr('data.loader.LOOK', 0.2)
    monkeypatch.setattr('data.loader.SLOW', 0.5)
    slow = loader(files, 1, Trap(files[3].name, nap), batches=2, patience=9)
    assert torch.equal(epoch(slow, 1), epoch(loader(files, batches=2), 1))
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(files[3].name in line and '--data_timeout allows 9 s' in line for line in lines)
    assert len(lines) <= 2                                # once for each batch that was waited for


def test_signal_is_handled_while_a_disk_does_not_respond(files):
    class Stop(BaseException):
        pass

    def stop():
        raise Stop
    train = loader(files, 1, Trap(files[3].name, sleep))
    train.on_wait, start = stop, time.monotonic()
    with pytest.raises(Stop):
        list(train)
    del train
    gc.collect()
    assert time.monotonic() - start < 10 and not multiprocessing.active_children()


def test_disk_that_stops_responding_loses_no_training(cli, monkeypatch, capsys):
    reads = []

    def read(path):
        if get_worker_info() is not None:
            reads.append(path)
            time.sleep(60 if len(reads) > 16 else 0)
        return read_rgb(path)
    monkeypatch.setattr('data.cache.read_rgb', read)
    flags = ['--n_threads', 1, '--ext', 'img', '--test_every', 100, '--data_timeout', 0.02]
    assert cli('--stage', 1, '--epochs_sr', 1, *flags) == 75
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith('error: reading ') and '.png takes more than 1 s' in error
    assert list(Path('experiment/stage1_x2_bicubic_iso/model').glob('state_0_*.pt'))


def test_workers_that_never_start_time_out(files, monkeypatch):
    monkeypatch.setattr('data.loader._init_worker', asleep)
    with pytest.raises(Unavailable, match='starting the data loader workers takes more than 1 s'):
        list(loader(files, 1, patience=1))


def asleep(_):
    time.sleep(60)


# ---------------------------------------------------------------- little shared memory

def test_batches_through_pipes_are_the_same(files):
    train = TrainLoader(PatchDataset(files, 16, 1), EpochSampler(5, 6, 4, 1), 2, through_pipes=True)
    batches = epoch(train, 1)
    assert batches.dtype == torch.uint8 and torch.equal(batches, epoch(loader(files), 1))


def test_small_shared_memory_is_detected_beforehand(monkeypatch):
    monkeypatch.setattr('data.loader.SHARED', '/')
    usage = shutil._ntuple_diskusage(10 ** 9, 0, 64 * 2 ** 20)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    batch = 64 * 3 * 256 ** 2                             # the paper's: 64 patches of 4 times 64 pixels
    assert shared_memory_fits(batch, 1) == (True, True, '') == shared_memory_fits(batch, 0)
    possible, fits, text = shared_memory_fits(batch, 4)
    assert possible and not fits and '67,108,864 bytes free' in text and '--shm-size' in text
    assert shared_memory_fits(batch // 2, 1, ranks=4)[1] is False


def test_without_shared_memory_the_main_process_loads_images(monkeypatch):
    def refuse():
        raise OSError(38, 'Function not implemented')
    monkeypatch.setattr(multiprocessing, 'Lock', refuse)
    possible, fits, text = shared_memory_fits(1, 4)
    assert not possible and not fits and 'Function not implemented' in text and '--n_threads 0' in text


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
def test_image_removed_during_training_is_one_line(files, workers):
    train = loader(files, workers)
    files[3].unlink()
    with pytest.raises(UserError) as error:
        list(train)
    assert str(error.value).startswith(str(files[3])) and '\n' not in str(error.value)
