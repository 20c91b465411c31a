"""A cache of decoded images: each is decoded once and memory-mapped from then on."""
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

WRITING = threading.Lock()  # one copy is written at a time, while other threads decode
DIGITS = 8  # of a checksum
LEFTOVER = 86400  # seconds after which a copy that is half written belongs to no process any more


def default_cache() -> tuple[Path | None, str]:
    """(folder, warning): mrda in $XDG_CACHE_HOME or ~/.cache, and ''; where that cannot be written, or nobody knows the
    home folder, a temporary one, and why; None if there is none either."""
    try:
        folder = Path(os.environ.get('XDG_CACHE_HOME') or expand('~/.cache')) / 'mrda'
        _try(folder)
        return folder, ''
    except (UserError, OSError) as error:
        reason = f'{shown(folder)}: {error.strerror}' if isinstance(error, OSError) else 'there is no home folder'
    try:
        folder = Path(tempfile.gettempdir()) / f'mrda-{getattr(os, "getuid", int)()}'
        _try(folder)
    except OSError:
        return None, f'images are decoded for every patch, which is slow: {reason}; --dir_cache names a folder'
    return folder, f'decoded images are cached in {shown(folder)} ({reason}); --dir_cache names another folder'


def _try(folder):
    """Raises OSError unless `folder`, made if need be, takes files."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


class PixelCache:
    """HR images as uint8 arrays (H, W, 3): decoded each time (folder None), or once into a copy in `folder`.

    A copy is an ordinary .npy file, memory-mapped so that a crop touches its own bytes only. Behind the pixels it holds
    what it was made from (path, size, modification and change time, inode) and a checksum of the pixels, which is
    verified when a copy is first opened, unless another process has just done so (verify=False). It is made again if
    anything of this does not fit. Where the folder cannot take it, images are decoded each time; `trouble` then says
    why. checksums: {path: checksum} of what has been read, for telling images by their content.
    """

    def __init__(self, folder: str | Path | None = None, verify: bool = True) -> None:
        self.folder = None if folder is None else expand(folder)
        self.verify = verify
        self.trouble: str | None = None
        self.checksums: dict[Path, str] = {}

    def reserve(self, sources: list[Path]) -> None:
        """Before the first copy is written: does the folder take those that are missing?"""
        if self.folder is None:
            return
        with ThreadPoolExecutor(8) as pool:
            need = sum(watched(pool.map(self._missing_bytes, sources), 'looking at images', len(sources)))
        try:
            _try(self.folder)
            free = shutil.disk_usage(self.folder).free
        except OSError as error:
            self._give_up(f'{shown(self.folder)}: {error.strerror}')
            return
        if need > free:
            self._give_up(f'{shown(self.folder)}: decoded images need {need:,} bytes, {free:,} are free')

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
        if path is not None:
            stamp = _stamp(source)  # before decoding: a file that changes meanwhile then looks changed
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
        """The copy's pixels, or None if there is none that fits."""
        try:
            array, trailer = _load(path)
            checksum = trailer.removeprefix(stamp).decode()
            if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not trailer.startswith(stamp):
                return None
            known = self.checksums.get(source) or (_checksum(array) if self.verify else checksum)
            if checksum != known or len(checksum) != DIGITS:
                return None
        except Exception:  # missing, or damaged: on headers that are, np.load raises nearly anything
            return None
        self.checksums[source] = checksum
        return array

    def _write(self, path, array, trailer):
        file = io.BytesIO()
        np.save(file, array, allow_pickle=False)
        file.write(trailer)
        try:
            with WRITING:
                write_parts(path, [file.getbuffer()], durable=False)  # its checksum tells if the machine crashed
        except UserError as error:
            self._give_up(str(error))


def _load(path):
    """(pixels, memory-mapped; what stands behind them) of a copy."""
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
    """Of the pixels and their shape, in hexadecimal digits."""
    return f'{zlib.crc32(array, zlib.crc32(repr(array.shape).encode())):0{DIGITS}x}'


def old_copies(folder: Path) -> tuple[list[Path], list[Path]]:
    """(every file of the cache in `folder`, those of no further use: their image is gone or has changed, or they were
    left half written)."""
    copies = sorted(folder.glob('*.npy'))
    unfinished = sorted(folder.glob(f'{TEMPORARY}*'))
    stale = [path for path in unfinished if time.time() - path.stat().st_mtime > LEFTOVER]
    return copies + unfinished, [path for path in copies if not _is_of_use(path)] + stale


def _is_of_use(path):
    try:
        _, trailer = _load(path)
        source = Path(os.fsdecode(trailer.rsplit(b'\n', 5)[0]))
        return trailer.startswith(_stamp(source))
    except Exception:  # damaged, or its image is gone
        return False
