"""Hours in milliseconds: an event loop whose sleeps take no time, and the clock that goes with it."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

from tests.support.builders import NOON
from vmsh_scheduler.domain.trigger import Millis

T = TypeVar("T")


class _Jump(selectors.DefaultSelector):
    """Instead of waiting, the time moves to the next timer."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout is not None:
            self.waited += timeout
        return ready if timeout is not None or ready else super().select(None)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Real sockets and processes have no place in it."""

    def __init__(self) -> None:
        self._jump = _Jump()
        super().__init__(self._jump)

    def time(self) -> float:
        return 1_000.0 + self._jump.waited


class LoopClock:
    """Wall and elapsed time of a virtual loop."""

    def now(self) -> Millis:
        return NOON + self.elapsed()

    def elapsed(self) -> Millis:
        return round(asyncio.get_running_loop().time() * 1000)

    async def sleep_until(self, when: Millis, wakeup: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(max(0, when - self.now()) / 1000):
                await wakeup.wait()
        except TimeoutError:
            pass


def run_virtual(work: Coroutine[object, object, T]) -> T:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
