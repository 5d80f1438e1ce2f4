"""Plain signal handlers on a socket pair. loop.add_signal_handler hangs under a storm (reliability 2-G, G3)."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Iterable

WATCHED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Signals:
    """Calls `on_signal(number)` on the loop, once per kind and turn however many arrived."""

    def __init__(self, on_signal: Callable[[int], None]) -> None:
        self._on_signal = on_signal
        self._pending: set[int] = set()
        self._reader, self._writer = socket.socketpair()
        self._before_fd = -1

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        loop.add_reader(self._reader.fileno(), self._wake)
        self._before_fd = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        for number in WATCHED:
            signal.signal(number, self._note)

    def remove(self, loop: asyncio.AbstractEventLoop) -> None:
        """The process ends: one more signal must not kill it while it saves, nor change its exit code."""
        _ignore(WATCHED)
        signal.set_wakeup_fd(self._before_fd)
        loop.remove_reader(self._reader.fileno())
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, frame: object) -> None:
        self._pending.add(number)

    def _wake(self) -> None:
        try:
            while len(self._reader.recv(4096)) == 4096:
                continue
        except BlockingIOError:
            pass
        pending, self._pending = self._pending, set()
        for number in sorted(pending):
            self._on_signal(number)


def _ignore(numbers: Iterable[int]) -> None:
    """One that some thread was just taking is reported on stderr by Python ("ignored due to race condition"), as nobody
    handles it any more: that is what was wanted."""
    sys.unraisablehook = _say_unless_late
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


def _say_unless_late(unraisable: "sys.UnraisableHookArgs") -> None:
    error = unraisable.exc_value
    if not (isinstance(error, OSError) and str(error).endswith("ignored due to race condition")):
        sys.__unraisablehook__(unraisable)
