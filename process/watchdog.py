"""A thread that ends this process while it waits for another rank, when Python's signal handlers do not run."""
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from process.signals import AGAIN, SIGNALS


class Watchdog:
    """Ends this process if it was asked to stop but is stuck waiting for other ranks; asks it to stop if the torchrun
    that started it is gone. rank: of this process; stuck(): whether it has waited too long."""

    def __init__(self, rank: int, stuck: Callable[[], bool]) -> None:
        self._rank, self._stuck = rank, stuck
        self._heard, self._signalled = socket.socketpair()
        self._signalled.setblocking(False)
        self._before = None
        self._launcher = os.getppid() if 'TORCHELASTIC_RUN_ID' in os.environ else None
        if threading.current_thread() is threading.main_thread():
            self._before = signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        asked = False
        self._heard.settimeout(0.2)
        while True:
            with suppress(TimeoutError):
                data = self._heard.recv(64)
                if not data:
                    return
                asked = asked or not SIGNALS.isdisjoint(data)
            if self._launcher not in (None, os.getppid()):
                self._launcher = None
                os.kill(os.getpid(), signal.SIGTERM)
            if asked and self._stuck():
                os.write(2, f'error: rank {self._rank}: stopped while waiting for another rank\n'.encode())
                os._exit(AGAIN)

    def close(self) -> None:
        """Stop receiving signals and end the thread."""
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
        self._signalled.close()
