"""Training patches: a raw-pixel cache, random crops that depend on (seed, epoch, position) alone, their loader."""
import io
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from hashlib import blake2b
from multiprocessing import connection
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data.images import ImageError, read_rgb, read_size
from store.files import write_bytes
from utility import UserError, derive_seed, expand, shown

WRITING = threading.Lock()  # one raw file is written at a time, while other threads decode
START_LOOKS = 15  # waits of `patience` seconds that worker processes may need to start


def default_cache():
    """The folder for raw copies: mrda in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or expand('~/.cache')) / 'mrda'


class PixelCache:
    """HR images as uint8 arrays (H, W, 3): decoded each time (folder None), or once into a raw file in `folder`.

    A raw file is an ordinary .npy file, memory-mapped so that a crop touches its own bytes only. Behind the pixels
    it holds what it was made from: path, size and modification time. It is made again if these, or its own length
    or shape, do not fit. Where the folder cannot take it, images are decoded each time; `trouble` then says why.
    """

    def __init__(self, folder=None):
        self.folder = None if folder is None else expand(folder)
        self.trouble = None

    def reserve(self, sources):
        """Before the first raw file is written: does the folder take those that are missing?"""
        if self.folder is None:
            return
        with ThreadPoolExecutor(8) as pool:
            need = sum(pool.map(self._missing_bytes, sources))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                free = shutil.disk_usage(self.folder).free
        except OSError as error:
            self._give_up(f'{shown(self.folder)}: {error.strerror}')
            return
        if need > free:
            self._give_up(f'{shown(self.folder)}: raw copies need {need:,} bytes, {free:,} are free')

    def _missing_bytes(self, source):
        if self._path(source).exists():
            return 0
        try:
            height, width = read_size(source)
        except ImageError:
            return 0  # for scan() to report
        return height * width * 3

    def _path(self, source):
        return self.folder / f'{blake2b(os.fsencode(os.path.realpath(source)), digest_size=16).hexdigest()}.npy'

    def _give_up(self, reason):
        self.trouble = f'images are decoded for every patch, which is slow: {reason}; --dir_cache names another folder'
        self.folder = None

    def read(self, source, remake=False):
        """uint8 array (H, W, 3), not to be written to. Raises ImageError as read_rgb does."""
        path = self._path(source) if self.folder else None
        if path is None:
            return read_rgb(source)
        stamp = self._stamp(source)  # before decoding: a file that changes meanwhile then looks changed
        array = None if remake else self._open(path, stamp)
        if array is None:
            array = read_rgb(source)
            self._write(path, array, stamp)
        return array

    def _write(self, path, array, stamp):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        file.write(stamp)
        try:
            with WRITING:
                write_bytes(path, file.getbuffer())
        except UserError as error:
            self._give_up(str(error))

    def _stamp(self, source):
        try:
            status = os.stat(source)
        except OSError as error:
            raise ImageError.of(source, error.strerror) from error
        return os.fsencode(f'{os.path.realpath(source)}\n{status.st_size}\n{status.st_mtime_ns}\n')

    def _open(self, path, stamp):
        """The raw file's pixels, or None if there is none that fits."""
        try:
            array = np.load(path, mmap_mode='r', allow_pickle=False)
            end = array.offset + array.nbytes
            with open(path, 'rb') as file:
                file.seek(end)
                whole = file.read() == stamp
        except Exception:  # missing, or damaged: on headers that are, np.load raises nearly anything
            return None
        return array if whole and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 else None


class PatchDataset(Dataset):
    """Random square patches of the images `files`, all of them at least `size` pixels high and wide.

    read: path → uint8 array (H, W, 3), as PixelCache.read. An item's key is (epoch, position, image index); the item,
    uint8 (3, size, size), depends on the seed and the key alone. augment: horizontal flip, vertical flip and
    transpose, each with probability 1/2.
    """

    def __init__(self, files, size, seed, read=read_rgb, augment=True):
        self.files, self.size, self.seed, self.read, self.augment = files, size, seed, read, augment
        self.progress = None  # TrainLoader's: per worker the steps made, the image in work or -1, the process id


    def __getitem__(self, key):
        epoch, position, index = key
        self._report(index)
        image = self.read(self.files[index])                                             # (H, W, 3)
        draw = np.random.default_rng(derive_seed(self.seed, 'patch', epoch, position))
        top, left = (draw.integers(side - self.size + 1) for side in image.shape[:2])
        patch = image[top:top + self.size, left:left + self.size].transpose(2, 0, 1)     # (3, size, size)
        if self.augment:
            flip_x, flip_y, transpose = draw.integers(2, size=3)
            patch = patch[:, ::1 - 2 * flip_y, ::1 - 2 * flip_x]
            patch = patch.swapaxes(1, 2) if transpose else patch
        patch = torch.from_numpy(np.array(patch, order='C'))
        self._report(-1)
        return patch

    def _report(self, index):
        if self.progress is not None:
            mine = self.progress[get_worker_info().id]
            mine[0] += 1
            mine[1] = index


class EpochSampler:
    """Yields one list of keys for PatchDataset per batch: `batches` of them, from where start() says.

    The images come in shuffles of all of them, one after the other: position k of an epoch lies in its shuffle
    number k // n_images. Everything follows from (seed, epoch, position), so going on within an epoch is exact.
    share: (rank, ranks) of a process that takes its even part of each batch only.
    """

    def __init__(self, n_images, batches, batch_size, seed, share=(0, 1)):
        self.n_images, self.batches, self.batch_size, self.seed = n_images, batches, batch_size, seed
        self.share = share
        self.start(1)

    def start(self, epoch, first_batch=0):
        """Batch `first_batch` (from 0) of `epoch` comes next."""
        self.epoch, self.first_batch = epoch, first_batch

    def __len__(self):
        return self.batches - self.first_batch

    def __iter__(self):
        number, shuffle = None, None
        for batch in range(self.first_batch, self.batches):
            keys = []
            for position in range(batch * self.batch_size, (batch + 1) * self.batch_size):
                wanted, place = divmod(position, self.n_images)
                if wanted != number:
                    number, shuffle = wanted, self._shuffle(wanted)
                keys.append((self.epoch, position, int(shuffle[place])))
            rank, ranks = self.share
            yield keys[len(keys) * rank // ranks:len(keys) * (rank + 1) // ranks]

    def images(self, epoch, batch):
        """Indices of the images in batch number `batch` (from 0) of `epoch`, all ranks' parts together."""
        other = copy(self)
        other.share = (0, 1)
        other.start(epoch, batch)
        return [index for _, _, index in next(iter(other))]

    def _shuffle(self, number):
        return np.random.default_rng(derive_seed(self.seed, 'order', self.epoch, number)).permutation(self.n_images)


class TrainLoader(DataLoader):
    """Batches of patches, uint8 (B, 3, size, size); `.batch_sampler.start(epoch, first_batch)` sets which come next.

    Raises UserError with the files in work if a worker process was ended from outside, or hangs: spends more than
    `patience` seconds on one image. That is known after at most twice as long: below 10 seconds.
    """

    def __init__(self, dataset, sampler, n_threads, pin_memory=False, patience=4):
        dataset.progress = torch.tensor([[0, -1, 0]] * n_threads).share_memory_() if n_threads else None
        super().__init__(dataset, batch_sampler=sampler, num_workers=n_threads, pin_memory=pin_memory,
                         persistent_workers=n_threads > 0, timeout=patience if n_threads else 0,
                         worker_init_fn=_init_worker)

    def __iter__(self):
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
