"""A cache of decoded images: each image is decoded once, then memory-mapped."""
import io
import os
import shutil
import tempfile
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path

import numpy as np

from data.dataset import watched
from data.images import ImageError, read_rgb, read_size
from store.files import TEMPORARY, write_parts
from utility import UserError, expand, shown

WRITING = threading.Lock()  # one file is written at a time, while other threads decode
DIGITS = 8  # of a checksum
LEFTOVER = 86400  # seconds after which a partial file is no longer being written


def default_cache() -> tuple[Path | None, str]:
    """(folder, warning): mrda in $XDG_CACHE_HOME or ~/.cache, and ''; if that is not writable or unknown, a folder for
    temporary files and the reason; None if that is not writable either."""
    try:
        folder = Path(os.environ.get('XDG_CACHE_HOME') or expand('~/.cache')) / 'mrda'
        _try(folder)
        return folder, ''
    except (UserError, OSError) as error:
        reason = f'{shown(folder)}: {error.strerror}' if isinstance(error, OSError) else 'no home folder'
    try:
        folder = Path(tempfile.gettempdir()) / f'mrda-{getattr(os, "getuid", int)()}'
        _try(folder)
    except OSError:
        return None, f'decoding images for every patch, which is slow: {reason}; give a folder by --dir_cache'
    return folder, f'decoded images are cached in {shown(folder)} ({reason}); --dir_cache sets another folder'


def _try(folder):
    """Raises OSError unless `folder`, created if missing, is writable."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class PixelCache:
    """Decoded images, uint8 arrays (H, W, 3): decoded once into files in `folder`, or each time if folder is None.

    An entry is an .npy file, memory-mapped so that a crop reads its own bytes only. After the pixels it holds its
    source (path, size, modification and change time, inode) and a checksum of the pixels, verified when first opened
    unless another process has just done so (verify=False). A mismatch makes the entry anew. If the folder is not
    writable or full, images are decoded each time, and `trouble` says why. checksums: {path: checksum} of the images
    read, which identify them by content.
    """

    def __init__(self, folder: str | Path | None = None, verify: bool = True) -> None:
        self.folder = None if folder is None else expand(folder)
        self.verify = verify
        self.trouble: str | None = None
        self.checksums: dict[Path, str] = {}

    def reserve(self, sources: list[Path]) -> None:
        """Check that the folder is writable and has space for the entries of `sources` that are missing."""
        if self.folder is None:
            return
        with ThreadPoolExecutor(8) as pool:
            need = sum(watched(pool.map(self._missing_bytes, sources), 'reading image sizes', len(sources)))
        try:
            _try(self.folder)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            self._give_up(f'{shown(self.folder)}: {error.strerror}')
            return
        if need > free:
            self._give_up(f'{shown(self.folder)}: decoded images need {need:,} bytes, only {free:,} are free')

    def _missing_bytes(self, source):
        if self._path(source).exists():
            return 0
        try:
            height, width = read_size(source)
        except ImageError:
            return 0  # scan() reports it
        return height * width * 3

    def _path(self, source):
        return self.folder / f'{blake2b(os.fsencode(os.path.realpath(source)), digest_size=16).hexdigest()}.npy'

    def _give_up(self, reason):
        self.trouble = f'decoding images for every patch, which is slow: {reason}; give another folder by --dir_cache'
        self.folder = None

    def read(self, source: Path, remake: bool = False) -> np.ndarray:
        """The image, uint8 (H, W, 3), read-only. Raises ImageError as read_rgb does."""
        path = self._path(source) if self.folder else None
        if path is not None:
            stamp = _stamp(source)  # before decoding, so that a change in the meantime is noticed
            array = None if remake else self._open(path, stamp, source)
            if array is not None:
                return array
        array = read_rgb(source)
        if source not in self.checksums or path is not None:
            self.checksums[source] = _checksum(array)
        if path is not None:
            self._write(path, array, stamp + self.checksums[source].encode())
        return array

    def _open(self, path, stamp, source):
        """The pixels of an entry, or None if there is none that matches."""
        try:
            array, trailer = _load(path)
            checksum = trailer.removeprefix(stamp).decode()
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not trailer.startswith(stamp):
                return None
            known = self.checksums.get(source) or (_checksum(array) if self.verify else checksum)
            if checksum != known or len(checksum) != DIGITS:
                return None
        except Exception:  # missing, or damaged: np.load raises nearly anything then
            return None
        self.checksums[source] = checksum
        return array

    def _write(self, path, array, trailer):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        file.write(trailer)
        try:
            with WRITING:
                write_parts(path, [file.getbuffer()], durable=False)  # the checksum shows damage by a crash
        except UserError as error:
            self._give_up(str(error))


def _load(path):
    """(memory-mapped pixels, the bytes after them) of an entry."""
    array = np.load(path, mmap_mode='r', allow_pickle=False)
    with open(path, 'rb') as file:
        file.seek(array.offset + array.nbytes)
        return array, file.read()


def _stamp(source):
    try:
        status = os.stat(source)
    except OSError as error:
        raise ImageError.of(source, error.strerror) from error
    facts = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return os.fsencode(os.path.realpath(source)) + ''.join(f'\n{fact}' for fact in facts).encode() + b'\n'


def _checksum(array):
    """CRC-32 of the pixels and their shape, in hexadecimal digits."""
    return f'{zlib.crc32(array, zlib.crc32(repr(array.shape).encode())):0{DIGITS}x}'


def stale_entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """(all files of the cache in `folder`, the stale ones: their image is gone or has changed, or they are partial)."""
    entries = sorted(folder.glob('*.npy'))
    unfinished = sorted(folder.glob(f'{TEMPORARY}*'))
    partial = [path for path in unfinished if time.time() - path.stat().st_mtime > LEFTOVER]
    return entries + unfinished, [path for path in entries if not _is_current(path)] + partial


def _is_current(path):
    try:
        _, trailer = _load(path)
        source = Path(os.fsdecode(trailer.rsplit(b'\n', 5)[0]))
        return trailer.startswith(_stamp(source))
    except Exception:  # damaged, or its image is gone
        return False
