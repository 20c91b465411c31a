"""A cache of decoded images: each is decoded once and memory-mapped from then on."""
import io
import os
import shutil
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np

from data.images import ImageError, read_rgb, read_size
from store.files import write_bytes
from utility import UserError, expand, shown

WRITING = threading.Lock()  # one raw file is written at a time, while other threads decode


def default_cache() -> Path:
    """The folder for raw copies: mrda in $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get('XDG_CACHE_HOME') or expand('~/.cache')) / 'mrda'


class PixelCache:
    """HR images as uint8 arrays (H, W, 3): decoded each time (folder None), or once into a raw file in `folder`.

    A raw file is an ordinary .npy file, memory-mapped so that a crop touches its own bytes only. Behind the pixels
    it holds what it was made from: path, size and modification time. It is made again if these, or its own length
    or shape, do not fit. Where the folder cannot take it, images are decoded each time; `trouble` then says why.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = None if folder is None else expand(folder)
        self.trouble: str | None = None

    def reserve(self, sources: list[Path]) -> None:
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

    def read(self, source: Path, remake: bool = False) -> np.ndarray:
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
