"""Atomic writes of files, and logs that are only appended to."""
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from utility import UserError, shown

TEMPORARY = '.writing.'  # prefix of files being written
BLOCK = 1 << 20  # bytes

Buffer = bytes | bytearray | memoryview

UMASK = os.umask(0)  # can only be read by setting it: once, before any thread starts
os.umask(UMASK)


def write_bytes(path: str | Path, data: Buffer) -> None:
    """Write `data` to `path`: see write_parts."""
    write_parts(path, [data])


def write_parts(path: str | Path, parts: Iterable[Buffer], durable: bool = True) -> None:
    """Write the concatenated `parts` to `path` atomically: a crash at any moment leaves the old file or the new one.

    durable: also if the machine crashes, not only this process; many small files are written much faster without.

    Raises UserError with the path and the size so far if it cannot be written.
    """
    path, temporary, size = Path(path), None, 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=_temporary(path), delete=False) as file:
            temporary = file.name
            for part in parts:
                size += len(part)
                file.write(part)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~UMASK)
        os.replace(temporary, path)
        if durable:
            _sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C too
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise UserError(f'{path}: cannot write {size:,} bytes ({error.strerror or error}); {_way_out(error)}'
                            ) from error
        raise


def digest(name: str) -> str:
    """A file name as 16 characters, for names of files that belong to it."""
    return hashlib.sha1(os.fsencode(name)).hexdigest()[:16]


def _temporary(path):
    """Prefix of temporary files for the file `path`."""
    return f'{TEMPORARY}{digest(path.name)}.'


def _way_out(error: OSError) -> str:
    """What the user can do about an OSError while writing."""
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
    return 'choose another folder' if refused else 'free some space or choose another folder'


def append_text(path: str | Path, text: str) -> None:
    """Append `text` to a log; what UTF-8 cannot encode, such as some file names, is escaped.

    Raises UserError with the path if it cannot be written.
    """
    try:
        with open(path, 'a', encoding='utf-8', errors='backslashreplace') as file:
            file.write(text)
    except OSError as error:
        raise UserError(f'{path}: cannot write {len(text):,} characters ({error.strerror or error}); {_way_out(error)}'
                        ) from error


def read_text(path: Path) -> str:
    """The text of a file in UTF-8. Raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{shown(path)}: cannot be read ({getattr(error, "strerror", None) or error})') from error


def append_blocks(path: str | Path, blocks: Iterable[Buffer]) -> None:
    """Append `blocks` of bytes to a file, each written before the next one is requested.

    If `blocks` raises, what was appended is kept. Raises UserError with the path if it cannot be written.
    """
    try:
        file = open(path, 'ab', buffering=0)  # noqa: SIM115 - closed by the next `with`
    except OSError as error:
        raise UserError(f'{path}: cannot be written ({error.strerror or error})') from error
    with file:
        for block in blocks:
            rest = memoryview(block)
            try:
                while rest:
                    rest = rest[file.write(rest):]
            except OSError as error:
                raise UserError(f'{path}: cannot be written ({error.strerror or error}); free some space, '
                                'or choose another folder') from error


def reserve(folder: Path, what: str, n_bytes: int = 0) -> None:
    """Check that a file of `n_bytes` can be written in `folder`, created if missing, by writing one and removing it.

    what: name of the file in the error. Raises UserError with the folder if it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(0, n_bytes, BLOCK):
                file.write(bytes(BLOCK))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f'{shown(folder)}: cannot hold {what} ({error.strerror or error}); {_way_out(error)}'
                        ) from error


def sweep(folder: Path, name: str = '') -> None:
    """Remove partial files that killed processes left in `folder`, of the file `name` or of all. For the holder of its
    lock only."""
    for leftover in folder.glob(f'{_temporary(folder / name) if name else TEMPORARY}*'):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; Windows cannot open folders and needs no such step."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
