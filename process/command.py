"""Common to every command: standard streams that cannot end it, errors in one line, an exit status."""
import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import TextIO

from process.signals import ending
from utility import UserError, out_of_memory

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # disk full, quota exceeded, file too large


class Stream:
    """A standard stream whose failure does not end the program: if its disk is full, its terminal gone, or it was
    closed from the start, output is dropped. `error` is the first failure to write, or None.

    A closed pipe (`| head`) raises BrokenPipeError unless `silent`.
    """

    def __init__(self, stream: TextIO | None, silent: bool = False) -> None:
        self._stream, self._silent = stream or _nowhere(), silent
        self.error: Exception | None = None
        if hasattr(self._stream, 'reconfigure'):
            self._stream.reconfigure(errors='backslashreplace')  # file names may hold what a terminal cannot show

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write `text`, or drop it; returns its length."""
        self._attempt(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or drop it."""
        self._attempt(self._stream.flush)

    def _attempt(self, call, *what):
        try:
            call(*what)
        except (OSError, ValueError) as error:  # disk full or terminal gone; closed
            nowhere = _nowhere()
            try:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # for what is buffered
            except (OSError, ValueError):  # no file descriptor
                self._stream = nowhere
            if isinstance(error, BrokenPipeError) and not self._silent:
                raise
            self.error = self.error or error


def _nowhere():
    return open(os.devnull, 'w', encoding='utf-8')


def _occupy_standard_streams():
    """Open closed standard streams on the null device: otherwise the next file opened would take their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open() takes the lowest free number


def command_line(afterwards: str = '') -> Callable:
    """A decorator for the main(argv=None) of a program. It makes main return the exit status: what main returns, or 0;
    2 after an error (wrong input, a full disk, a removed folder, out of memory), reported in one line; 75 if running it
    again may work; 1 if the reader of its output is gone; 128 + the number of the signal that ended it: 130 after
    Ctrl-C, 143 after SIGTERM. Cleanup runs in all cases.

    afterwards: appended to the message after such a signal, such as how to resume.
    """
    def decorate(main):
        @wraps(main)
        def guarded(argv=None):
            _occupy_standard_streams()
            before, stdout = (sys.stdout, sys.stderr), Stream(sys.stdout)
            sys.stdout, sys.stderr = stdout, Stream(sys.stderr, silent=True)
            try:
                with ending():
                    return _finish(_status(main, argv, afterwards), stdout)
            except SystemExit as end:  # after --help
                if _finish(end.code, stdout) == end.code:
                    raise
                return 2
            finally:
                sys.stdout, sys.stderr = before
        return guarded
    return decorate


def _status(main, argv, afterwards):
    """The exit status of main(argv); what it raises is reported in one line."""
    try:
        return main(argv) or 0
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return error.status
    except BrokenPipeError:
        return 1
    except OSError as error:
        print(f'error: {error.filename or "input or output"}: {error.strerror or error}', file=sys.stderr)
    except KeyboardInterrupt as end:
        print(f'\ninterrupted{afterwards}', file=sys.stderr)
        return 128 + getattr(end, 'number', signal.SIGINT)
    except Exception as error:
        if out_of_memory(error):
            print('error: out of memory; use a smaller network, batch or image, or end other programs',
                  file=sys.stderr)
        else:
            traceback.print_exc()
            text = ' '.join(str(error).split())[:200]
            print(f'error: {type(error).__name__}: {text}; this is a bug in the program or an extension: the traceback '
                  'above shows where', file=sys.stderr)
    return 2


def _finish(status, stdout):
    """Flush stdout; returns `status`, or 2 if the disk was full."""
    with suppress(BrokenPipeError):
        stdout.flush()
    if getattr(stdout.error, 'errno', None) in FULL:
        print(f'error: standard output: {stdout.error.strerror}; the output is incomplete', file=sys.stderr)
        return status or 2
    return status
