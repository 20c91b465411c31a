"""Batches of training patches from worker processes, and the watch over these: no worker hangs a run."""
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import connection

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, default_collate, get_worker_info
from tqdm import tqdm

from data.sampling import EpochSampler, PatchDataset
from utility import Unavailable, UserError, shown

SHARED = '/dev/shm'  # where Linux keeps memory that processes share
LOOK = 2    # seconds between two looks at the workers while a batch is awaited
SLOW = 60   # seconds of reading one image, after which a line says so


class TrainLoader(DataLoader):
    """Batches of patches, uint8 (B, 3, size, size); `.batch_sampler.start(epoch, first_batch)` sets which come next.

    Raises Unavailable with the files in work if a worker process was ended from outside, or has read one image for more
    than `patience` seconds. on_wait: called at each look at workers that let a batch wait; what it raises ends them.
    through_pipes: batches come from the workers through pipes instead of shared memory, see shared_memory_fits().
    """

    def __init__(self, dataset: PatchDataset, sampler: EpochSampler, n_threads: int, pin_memory: bool = False,
                 patience: float = 600, through_pipes: bool = False) -> None:
        dataset.progress = torch.tensor([[0, -1, 0]] * n_threads).share_memory_() if n_threads else None
        self.patience = patience
        self.on_wait: Callable[[], None] = lambda: None
        super().__init__(dataset, batch_sampler=sampler, num_workers=n_threads, pin_memory=pin_memory,
                         persistent_workers=n_threads > 0, timeout=min(LOOK, patience) if n_threads else 0,
                         worker_init_fn=_init_worker, collate_fn=_stack if through_pipes else default_collate)

    def __iter__(self) -> Iterator[torch.Tensor]:
        with _own_sigchld():
            batches = super().__iter__()
        watch = None  # since the last batch
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (UserError, RuntimeError) as error:
                if not self.num_workers:
                    raise
                watch = watch or Watch(self.dataset.progress)
                self._judge(error, watch)
                continue
            watch = None
            yield torch.as_tensor(batch)

    def _judge(self, error, watch):
        """Return if the workers are merely slow; raise what is wrong otherwise."""
        if isinstance(error, UserError):  # the last line of a worker's traceback: 'utility.UserError: text'
            raise UserError(str(error).strip().splitlines()[-1].partition('Error: ')[2]) from None
        waits = [(seconds, index) for seconds, index in watch.look() if index >= 0]
        in_work = 'in work: ' + (', '.join(self._name(index) for _, index in waits) or 'no image')
        if 'exited unexpectedly' in str(error) or 'killed by signal' in str(error):
            self._end_workers()
            raise Unavailable('a process that loads training images was ended from outside, perhaps for lack of memory '
                              f'({in_work}); run again, with a lower --n_threads if it happens again') from error
        if 'timed out' not in str(error):
            raise error
        longest, index = max(waits, default=(0, -1))
        if longest > self.patience or watch.all_still() > self.patience:
            self._end_workers()
            what = f'reading {self._name(index)}' if waits else 'starting the processes that load training images'
            raise Unavailable(f'{what} takes more than {self.patience:.0f} s; see whether its disk answers, then run '
                              'again, or raise --data_timeout (minutes)') from error
        if longest > SLOW and watch.first(index):
            tqdm.write(f'waiting for {self._name(index)}: {longest:.0f} s so far, --data_timeout allows '
                       f'{self.patience:.0f} s', file=sys.stderr)
        try:
            self.on_wait()
        except BaseException:
            self._end_workers()
            raise

    def _name(self, index):
        return shown(self.dataset.files[index])

    def _end_workers(self):
        """At once, as DataLoader would wait 5 seconds for each."""
        own = set(self.dataset.progress[:, 2].tolist())
        for process in multiprocessing.active_children():
            if process.pid in own:
                process.kill()


class Watch:
    """How long each worker has been at what it does, while one batch is awaited. progress: PatchDataset's."""

    def __init__(self, progress: torch.Tensor) -> None:
        self._progress, self._seen = progress, progress.clone()
        self._since = [time.monotonic()] * len(progress)
        self._told = set()

    def look(self) -> list[tuple[float, int]]:
        """(seconds, index of the image in work or -1) of each worker."""
        now, current = time.monotonic(), self._progress.clone()
        for worker in (current != self._seen).any(dim=1).nonzero().flatten().tolist():
            self._since[worker] = now
        self._seen = current
        return [(now - since, index) for since, index in zip(self._since, current[:, 1].tolist(), strict=True)]

    def all_still(self) -> float:
        """Seconds in which no worker did anything: they may never have started."""
        return time.monotonic() - max(self._since)

    def first(self, index: int) -> bool:
        """Whether this is asked for an image for the first time."""
        first = index not in self._told
        self._told.add(index)
        return first


def shared_memory_fits(batch_bytes: int, n_threads: int, ranks: int = 1) -> tuple[bool, bool, str]:
    """(whether worker processes can be used at all, whether batches fit into the memory that they share, what to say).

    Containers often have 64 MB of shared memory. Without any, processes cannot even wait for each other.
    """
    if not n_threads:
        return True, True, ''
    try:
        multiprocessing.Lock()
        torch.zeros(1).share_memory_()
        free = shutil.disk_usage(SHARED).free if os.path.isdir(SHARED) else None
    except (OSError, RuntimeError) as error:
        reason = getattr(error, 'strerror', None) or str(error).splitlines()[0]
        return False, False, f'no shared memory ({reason}): the main process loads images, as with --n_threads 0'
    need = batch_bytes * (2 * n_threads + 3) * ranks  # DataLoader keeps two for each worker; some are in use
    if free is None or need <= free:
        return True, True, ''
    return True, False, (f'{SHARED} has {free:,} bytes free, batches need {need:,}: they come through pipes, a little '
                         'slower; give a container more by --shm-size 1g')


def _stack(patches):
    """A batch (B, 3, size, size) that takes no shared memory on its way, as tensors do."""
    return np.stack([patch.numpy() for patch in patches])


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
