"""Batches of training patches from worker processes, which are monitored so that none hangs a run."""
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

SHARED = '/dev/shm'  # shared memory on Linux
LOOK = 2    # seconds between two checks of the workers while waiting for a batch
SLOW = 60   # seconds of reading one image, after which a line is printed


class TrainLoader(DataLoader):
    """Batches of patches, uint8 (B, 3, size, size); `.batch_sampler.start(epoch, first_batch)` sets the next batch.

    Raises Unavailable with the files being read if a worker was killed, or has read one image for more than `patience`
    seconds. on_wait(): called at each check of the workers while waiting for a batch; an exception from it ends them.
    through_pipes: workers send batches through pipes instead of shared memory, see shared_memory_fits().
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
        """Return if the workers are merely slow, otherwise raise the error."""
        if isinstance(error, UserError):  # the last line of a worker's traceback: 'utility.UserError: text'
            raise UserError(str(error).strip().splitlines()[-1].partition('Error: ')[2]) from None
        waits = [(seconds, index) for seconds, index in watch.check() if index >= 0]
        reading = 'reading: ' + (', '.join(self._name(index) for _, index in waits) or 'no image')
        if 'exited unexpectedly' in str(error) or 'killed by signal' in str(error):
            self._end_workers()
            raise Unavailable('a data loader worker was killed, perhaps when out of memory '
                              f'({reading}); run again, with a lower --n_threads if it recurs') from error
        if 'timed out' not in str(error):
            raise error
        longest, index = max(waits, default=(0, -1))
        if longest > self.patience or watch.idle() > self.patience:
            self._end_workers()
            what = f'reading {self._name(index)}' if waits else 'starting the data loader workers'
            raise Unavailable(f'{what} takes more than {self.patience:.0f} s; check that the disk responds, then run '
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
        """Kill the workers, as DataLoader would wait 5 seconds for each."""
        own = set(self.dataset.progress[:, 2].tolist())
        for process in multiprocessing.active_children():
            if process.pid in own:
                process.kill()


class Watch:
    """How long each worker has been reading its image while a batch is waited for. progress: PatchDataset's."""

    def __init__(self, progress: torch.Tensor) -> None:
        self._progress, self._seen = progress, progress.clone()
        self._since = [time.monotonic()] * len(progress)
        self._told = set()

    def check(self) -> list[tuple[float, int]]:
        """(seconds, index of the image being read or -1) of each worker."""
        now, current = time.monotonic(), self._progress.clone()
        for worker in (current != self._seen).any(dim=1).nonzero().flatten().tolist():
            self._since[worker] = now
        self._seen = current
        return [(now - since, index) for since, index in zip(self._since, current[:, 1].tolist(), strict=True)]

    def idle(self) -> float:
        """Seconds since any worker made progress; they may never have started."""
        return time.monotonic() - max(self._since)

    def first(self, index: int) -> bool:
        """Whether this is the first call for an image."""
        first = index not in self._told
        self._told.add(index)
        return first


def shared_memory_fits(batch_bytes: int, n_threads: int, ranks: int = 1) -> tuple[bool, bool, str]:
    """(whether worker processes can be used, whether their batches fit into shared memory, a warning or '').

    Containers often have 64 MB of shared memory. Without any, processes cannot use locks.
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
    return True, False, (f'{SHARED} has {free:,} bytes free, batches need {need:,}: using pipes instead, a little '
                         'slower; give containers more by --shm-size 1g')


def _stack(patches):
    """A batch (B, 3, size, size) as an array, which is sent without shared memory, unlike a tensor."""
    return np.stack([patch.numpy() for patch in patches])


@contextmanager
def _own_sigchld():
    """Restore the handler of SIGCHLD that DataLoader sets: it would raise at any point of the program."""
    child = getattr(signal, 'SIGCHLD', None)  # Windows has none
    before = signal.getsignal(child) if child else None
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(child, before)


def _init_worker(worker):
    """One thread per worker; Ctrl-C is left to the main process, with which the workers end, even if it is killed."""
    get_worker_info().dataset.progress[worker, 2] = os.getpid()
    threading.Thread(target=_end_with, args=[multiprocessing.parent_process().sentinel], daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _end_with(sentinel):
    """End this process when that of `sentinel` has ended. DataLoader does so for forked and spawned processes, but not
    with a fork server, the default of Python 3.14: server and workers would wait for each other."""
    connection.wait([sentinel])
    os._exit(1)
