"""The lock of a run folder: one training at a time; released when its process ends."""
import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from utility import UserError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None

NAME = 'lock'


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is created if missing, and removed again if nothing else was put there.

    The system releases it when the process ends, however that happens. Data loader workers do not inherit it.
    Raises UserError with the holder's process id and start time if another process has it.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    file = _take(folder)
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)
        file.close()
        with suppress(OSError):  # not empty
            for place in made:
                place.rmdir()


def _take(folder: Path) -> TextIO:
    """The locked, open lock file."""
    path = folder / NAME
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = open(path, 'a+', encoding='utf-8')  # noqa: SIM115 - open as long as the lock is held
        except OSError as error:
            raise UserError(f'{folder}: the run folder cannot be written ({error.strerror})') from error
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                file.seek(0)
                raise UserError(f'{folder}: {file.read().strip() or "another process"} is training here; wait for it, '
                                'or choose another --save') from error
            # Any other error: a file system without locks, where one training at a time still works.
        with suppress(OSError):  # the previous holder may have removed the file after it was opened here
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                break
        file.close()
    file.truncate(0)
    file.write(f'process {os.getpid()} on {socket.gethostname()}, started {time.strftime("%Y-%m-%d %H:%M:%S")},')
    file.flush()
    return file
