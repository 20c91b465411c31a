"""What every program of this project does alike: standard streams that cannot end it, errors in one line, a status."""
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

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk, a quota, a file


class Stream:
    """A standard stream that ends no program: once its disk is full or its terminal gone, or where it was closed from
    the start, what is written to it is dropped. `error` is the first failure to write, or None.

    A reader that has gone, as `head` does, raises BrokenPipeError unless `silent`.
    """

    def __init__(self, stream: TextIO | None, silent: bool = False) -> None:
        self._stream, self._silent = stream or _nowhere(), silent
        self.error: Exception | None = None
        if hasattr(self._stream, 'reconfigure'):
            self._stream.reconfigure(errors='backslashreplace')  # a terminal may not know what a file is called

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
        except (OSError, ValueError) as error:  # full, or gone; closed
            nowhere = _nowhere()
            try:
                os.dup2(nowhere.fileno(), self._stream.fileno())  # what is buffered goes there too
            except (OSError, ValueError):  # it has no number: closed, or no file
                self._stream = nowhere
            if isinstance(error, BrokenPipeError) and not self._silent:
                raise
            self.error = self.error or error


def _nowhere():
    return open(os.devnull, 'w', encoding='utf-8')


def _occupy_standard_streams():
    """Open a standard stream that is closed on nothing: else the next file that is opened would become it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free


def command_line(afterwards: str = '') -> Callable:
    """A decorator for the main(argv=None) of a program, which then returns its exit status: what main returns or 0;
    2 if something given was wrong or the system refused something (a full disk, a folder taken away, memory), told in
    one line; 75 if it may work later; 1 if it ended since nobody reads the output any longer; 128 + the number of the
    signal that ended it: 130 after Ctrl-C, 143 after SIGTERM. Whatever was begun is cleaned up then.

    afterwards: what to do after such a signal, in words.
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
    """The exit status of main(argv); what it raises is told in one line."""
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
            print('error: memory runs out; take a smaller network, batch or image, or end other programs',
                  file=sys.stderr)
        else:
            traceback.print_exc()
            text = ' '.join(str(error).split())[:200]
            print(f'error: {type(error).__name__}: {text}; a fault of the program, or of an extension: the lines above '
                  'say where', file=sys.stderr)
    return 2


def _finish(status, stdout):
    """Write out what was printed; `status`, but 2 if a full disk did not take it."""
    with suppress(BrokenPipeError):
        stdout.flush()
    if getattr(stdout.error, 'errno', None) in FULL:
        print(f'error: standard output: {stdout.error.strerror}; what was printed is not complete', file=sys.stderr)
        return status or 2
    return status
