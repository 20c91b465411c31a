"""Files written whole or not at all, and logs that only grow."""
import errno
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from utility import UserError, shown

TEMPORARY = '.writing.'  # how names of files begin that are not whole yet
BLOCK = 1 << 20  # bytes

Buffer = bytes | bytearray | memoryview

UMASK = os.umask(0)  # can only be read by setting it: once, before any thread starts
os.umask(UMASK)


def write_bytes(path: str | Path, data: Buffer) -> None:
    """Write `data` to `path`: see write_parts."""
    write_parts(path, [data])


def write_parts(path: str | Path, parts: Iterable[Buffer], durable: bool = True) -> None:
    """Write `parts`, bytes one after the other, to `path` so that a crash at any moment leaves the old file or the new
    one, never half of one. Without `durable` this holds for a crash of this process alone, not of the machine: many
    small files are written much faster.

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


def _temporary(path):
    """How the names of unfinished versions of the file `path` begin."""
    return f'{TEMPORARY}{hashlib.sha1(os.fsencode(path.name)).hexdigest()[:16]}.'


def _way_out(error: OSError) -> str:
    """What to do about an OSError while writing."""
    refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)
    return 'choose another place' if refused else 'free some space or choose another place'


def append_text(path: str | Path, text: str) -> None:
    """Append `text` to a log; what UTF-8 cannot hold, such as a foreign file name, is written as an escape.

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
    """Append `blocks` of bytes to a file, each on its way to the disk when the next one is taken.

    What was appended stays, whatever `blocks` raises. Raises UserError with the path if it cannot be written.
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
                                'or choose another place') from error


def reserve(folder: Path, what: str, n_bytes: int = 0) -> None:
    """See that `folder`, made if need be, takes a file of `n_bytes`, by writing one and removing it.

    what: what an error calls that which is to be written. Raises UserError with the folder if it cannot be.
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
    """Remove what processes that were killed while they wrote have left in `folder`: unfinished versions of the file
    `name`, or of all files. For the holder of its lock only."""
    for leftover in folder.glob(f'{_temporary(folder / name) if name else TEMPORARY}*'):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename itself durable; Windows cannot open folders and needs no such step."""
    if os.name == 'posix':
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
