"""Signals that ask the program to stop: a training finishes its step and saves; its exit status means "run again"."""
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN = 75  # exit status of a training that was stopped: EX_TEMPFAIL of sysexits.h, "run me again"
SIGNALS = {getattr(signal, name) for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if hasattr(signal, name)}
REPEATED = 30  # seconds in which torchrun may forward a signal that every rank has received already


class Stopped(KeyboardInterrupt):
    """A signal asked to stop. Not an Exception, so that no `except Exception` mistakes it for a damaged image."""


class Ended(KeyboardInterrupt):
    """A signal, `number`, ends the program."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def _end(number: int, _: FrameType | None) -> None:
    raise Ended(number)


@contextmanager
def ending() -> Iterator[None]:
    """A context in which SIGINT, SIGTERM and SIGHUP raise Ended, so that what was begun is cleaned up, where they would
    have ended the process at once. Signals that are ignored or have handlers of their own stay so."""
    before = {}
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        before = {number: signal.signal(number, _end) for number in SIGNALS
                  if signal.getsignal(number) == signal.SIG_DFL}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Stopper:
    """As a context: the first SIGINT, SIGTERM or SIGHUP raises Stopped at once or, while `deferred`, at the next
    check(); the second one ends the process as it would without this context."""

    def __init__(self) -> None:
        self.number = None     # of the signal received
        self.deferred = False  # whether a step must be finished and saved first
        self.agreed = None     # with several ranks: whether all know that one received a signal
        self.quiet = False     # whether rank 0 prints instead
        self._since = 0.0
        self._before = {}

    def __enter__(self) -> 'Stopper':
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            for number in SIGNALS:                                 # Windows has no SIGHUP
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup sets it
                    self._before[number] = signal.signal(number, self._heard)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises Stopped if a signal was received; with several ranks, once all of them know."""
        if self.number and self.agreed is not False:
            raise Stopped

    def join(self, is_rank0: bool) -> None:
        """Become one of several ranks, which stop together."""
        self.agreed, self.quiet = False, not is_rank0

    def agree(self, stop: bool) -> None:
        """stop: whether any rank has received a signal; the same on all ranks."""
        self.agreed = stop
        if stop:
            self.number = self.number or signal.SIGTERM

    def status(self, training: bool) -> int:
        """The exit status of a program that was stopped."""
        return AGAIN if training else 128 + (self.number or signal.SIGINT)

    def _heard(self, number: int, _: FrameType | None) -> None:
        if self.number and self.agreed is not None and time.monotonic() - self._since < REPEATED:
            return
        if self.number:
            for child in multiprocessing.active_children():
                child.kill()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number, self._since = number, time.monotonic()
        if not self.deferred:
            raise Stopped
        if not self.quiet:
            print(f'\n{signal.Signals(number).name}: stopping after this step; a second signal quits at once',
                  file=sys.stderr)
