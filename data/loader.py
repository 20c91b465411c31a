"""Batches of training patches from worker processes, and the watch over these: no worker hangs a run."""
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import connection

import cv2
import torch
from torch.utils.data import DataLoader, get_worker_info

from data.sampling import EpochSampler, PatchDataset
from utility import UserError, shown

START_LOOKS = 15  # waits of `patience` seconds that worker processes may need to start


class TrainLoader(DataLoader):
    """Batches of patches, uint8 (B, 3, size, size); `.batch_sampler.start(epoch, first_batch)` sets which come next.

    Raises UserError with the files in work if a worker process was ended from outside, or hangs: spends more than
    `patience` seconds on one image. That is known after at most twice as long: below 10 seconds.
    """

    def __init__(self, dataset: PatchDataset, sampler: EpochSampler, n_threads: int, pin_memory: bool = False,
                 patience: float = 4):
        dataset.progress = torch.tensor([[0, -1, 0]] * n_threads).share_memory_() if n_threads else None
        super().__init__(dataset, batch_sampler=sampler, num_workers=n_threads, pin_memory=pin_memory,
                         persistent_workers=n_threads > 0, timeout=patience if n_threads else 0,
                         worker_init_fn=_init_worker)

    def __iter__(self) -> Iterator[torch.Tensor]:
        with _own_sigchld():
            batches = super().__iter__()
        looks = []  # at the workers' progress, since the last batch
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (UserError, RuntimeError) as error:
                if not self.num_workers:
                    raise
                self._judge(error, looks)
                continue
            looks.clear()
            yield batch

    def _judge(self, error, looks):
        """Return if the workers are merely slow; raise what is wrong otherwise."""
        if isinstance(error, UserError):  # the last line of a worker's traceback: 'utility.UserError: text'
            raise UserError(str(error).strip().splitlines()[-1].partition('Error: ')[2]) from None
        looks.append(self.dataset.progress.clone())
        in_work = [shown(self.dataset.files[index]) for _, index, _ in looks[-1].tolist() if index >= 0]
        in_work = 'in work: ' + (', '.join(in_work) or 'no image')
        if 'exited unexpectedly' in str(error) or 'killed by signal' in str(error):
            self._end_workers()
            raise UserError(f'a process that loads training images was ended from outside, perhaps for lack of memory '
                            f'({in_work}); run again, with a lower --n_threads if it happens again') from error
        if 'timed out' not in str(error):
            raise error
        before, now = looks[-2:] if len(looks) > 1 else (looks[-1] - 1, looks[-1])
        stuck = ((before == now).all(dim=1) & (now[:, 1] >= 0)).any()
        never_started = len(looks) > START_LOOKS and torch.equal(looks[0], now)
        if stuck or never_started:
            self._end_workers()
            raise UserError(f'loading training images hangs ({in_work}); see whether that disk answers, '
                            'or give --n_threads 0') from error

    def _end_workers(self):
        """At once, as DataLoader would wait 5 seconds for each."""
        own = set(self.dataset.progress[:, 2].tolist())
        for process in multiprocessing.active_children():
            if process.pid in own:
                process.kill()


@contextmanager
def _own_sigchld():
    """Undo what DataLoader does to SIGCHLD: a dead worker would raise wherever the program happens to be."""
    child = getattr(signal, 'SIGCHLD', None)  # Windows has none
    before = signal.getsignal(child) if child else None
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(child, before)


def _init_worker(worker):
    """One thread of work; Ctrl-C is for the main process, which ends the workers; they end with it, even if killed."""
    get_worker_info().dataset.progress[worker, 2] = os.getpid()
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process().sentinel], daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(sentinel):
    """End this process when the one that `sentinel` stands for has. DataLoader does so where processes are forked or
    spawned, but not where a server starts them, as with Python 3.14: server and workers would wait for each other."""
    connection.wait([sentinel])
    os._exit(1)
