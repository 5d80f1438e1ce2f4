"""The real clock of everything that waits. Programs that need the time once: wallclock.py."""

import asyncio
import ctypes
import errno
import os
import time

from vmsh_scheduler.domain.trigger import Millis

_TFD_FLAGS = os.O_CLOEXEC | os.O_NONBLOCK
_ABSOLUTE_CANCEL_ON_SET = 0b11


class SystemClock:
    """Wall clock with microsecond wake-ups: one timerfd on CLOCK_REALTIME, which the kernel also fires when
    somebody sets the clock. epoll alone rounds up to a whole millisecond."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = self._libc.timerfd_create(time.CLOCK_REALTIME, _TFD_FLAGS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wakeup: asyncio.Event | None = None

    def now(self) -> Millis:
        return time.time_ns() // 1_000_000

    def elapsed(self) -> Millis:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

    async def sleep_until(self, when: Millis, wakeup: asyncio.Event) -> None:
        if wakeup.is_set():
            return
        self._wakeup = wakeup
        if self._fd < 0 or not self._arm(when):
            await self._sleep_roughly(when, wakeup)
            return
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(self._fd, self._fired)
        await wakeup.wait()

    def close(self) -> None:
        if self._fd >= 0:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _arm(self, when: Millis) -> bool:
        at_ns = max(when, 1) * 1_000_000
        spec = (ctypes.c_long * 4)(0, 0, at_ns // 1_000_000_000, at_ns % 1_000_000_000)
        result: int = self._libc.timerfd_settime(self._fd, _ABSOLUTE_CANCEL_ON_SET, spec, None)
        return result == 0

    def _fired(self) -> None:
        try:
            os.read(self._fd, 8)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
        if self._wakeup is not None:
            self._wakeup.set()

    async def _sleep_roughly(self, when: Millis, wakeup: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(max(0.0, (when - self.now()) / 1000)):
                await wakeup.wait()
        except TimeoutError:
            return


def boot_id() -> str:
    """Changes with every boot of the machine: run records of another boot prove nothing (decision 9)."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def stopwatch() -> float:
    """Seconds on a clock that never steps, for measuring how long something took."""
    return time.perf_counter()
