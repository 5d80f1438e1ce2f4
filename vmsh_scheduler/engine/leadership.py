"""Who leads: elected on its own timer, renewed while healthy, given up before the lock can be somebody else's."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.errors import StoreDown, StoreRefuses
from vmsh_scheduler.ports import Clock, Lease, Leases

LOCK = "scheduler"
SAFE = 0.8
"""Of its time to live, how much a lock that is not renewed is worth (reliability D2)."""
ASK_AGAIN: Millis = 100
"""After a renewal that was not answered."""

Term = Callable[[Lease, asyncio.Event], Awaitable[None]]
"""What a leader does. Returns soon after the event is set; cancelled, it writes nothing more."""
FreeIn = Callable[[], Awaitable[Millis | None]]
"""When the lock is free at the latest, if nobody renews it; None: nobody has it."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one lock, in ms."""

    ttl: Millis = 5 * SECOND
    renew: Millis = 1_666
    wait_min: Millis = 150
    wait_max: Millis = 2 * SECOND


class Leadership:
    """`lease`: None for a follower. `trouble`: why nobody could be asked, "" = somebody could."""

    def __init__(self, leases: Leases, clock: Clock, timing: Timing, term: Term, free_in: FreeIn) -> None:
        self.lease: Lease | None = None
        self.trouble = ""
        self.acquired = 0
        self.lost = 0
        self.backed_off = 0
        self.renewed_at: Millis | None = None
        self.looked_at: Millis = 0
        """On Clock.elapsed(): the last time that the store answered."""
        self._leases = leases
        self._clock = clock
        self.timing = timing
        self._term = term
        self._free_in = free_in
        self._until: Millis = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Follow and lead in turns until `stop`; an orderly end gives the lock back. Raises what a term raises."""
        wait = again = self.timing.wait_min
        while not stop.is_set():
            lease = await self._acquire()
            if lease is None:
                self.backed_off += 1
                await _pause(await self._patience(wait), stop)
                wait = min(wait * 2, self.timing.wait_max)
                continue
            began, wait = self._clock.elapsed(), self.timing.wait_min
            await self._lead(lease, stop)
            if self._clock.elapsed() - began >= self.timing.ttl:
                again = self.timing.wait_min
                continue
            # Whatever ended so short a term will end the next one too, also where some of its writes went through.
            await _pause(again, stop)
            again = min(again * 2, max(self.timing.wait_max, self.timing.ttl))

    async def _acquire(self) -> Lease | None:
        asked = self._clock.elapsed()
        try:
            lease = await self._leases.acquire(LOCK)
        except StoreDown as down:
            self._unanswered(down)
            return None
        self._answered()
        self._until = asked + self.timing.ttl
        return lease

    async def _patience(self, wait: Millis) -> Millis:
        """Never past the moment at which the lock runs out."""
        with suppress(StoreDown):
            left = await self._free_in()
            if left is not None:
                return max(1, min(wait, left + 1))
        return wait

    async def _lead(self, lease: Lease, stop: asyncio.Event) -> None:
        self.lease, self.renewed_at = lease, self._clock.now()
        self.acquired += 1
        over = asyncio.Event()
        term = asyncio.ensure_future(self._term(lease, over))
        guard = asyncio.ensure_future(self._keep(lease))
        stopped = asyncio.create_task(_set(stop))
        try:
            await asyncio.wait({term, guard, stopped}, return_when=asyncio.FIRST_COMPLETED)
            over.set()
            if not guard.done():  # an orderly end takes its time, and the lock is kept meanwhile
                await asyncio.wait({term, guard}, return_when=asyncio.FIRST_COMPLETED)
            self.lost += guard.done()
        finally:
            self.lease = None
            await _end(term, guard, stopped)
        with suppress(StoreDown):
            await self._leases.release(lease)

    async def _keep(self, lease: Lease) -> None:
        """Returns when the lock is lost, or may be: a process that was stopped finds its time over."""
        pause = self.timing.renew
        while True:
            await asyncio.sleep(max(0.0, min(pause, self._left())) / SECOND)
            asked, left = self._clock.elapsed(), self._left()
            if left <= 0:
                return
            renewed = await self._renew(lease, left)
            if renewed is False:
                return
            if renewed:
                self._until = asked + self.timing.ttl
            pause = self.timing.renew if renewed else ASK_AGAIN

    def _left(self) -> float:
        return self._until - self.timing.ttl * (1 - SAFE) - self._clock.elapsed()

    async def _renew(self, lease: Lease, left: float) -> bool | None:
        """None: nobody answered in time."""
        try:
            async with asyncio.timeout(left / SECOND):
                renewed = await self._leases.renew(lease)
        except (StoreDown, TimeoutError) as down:
            self._unanswered(down)
            return None
        self._answered()
        self.renewed_at = self._clock.now()
        return renewed

    def _unanswered(self, down: StoreDown | TimeoutError) -> None:
        """A refusal is an answer: somebody is there."""
        if isinstance(down, StoreRefuses):
            self._answered()
        else:
            self.trouble = str(down) or "the lock was not renewed in time"

    def _answered(self) -> None:
        self.trouble = ""
        self.looked_at = self._clock.elapsed()


async def _set(event: asyncio.Event) -> None:
    await event.wait()


async def _pause(wait: Millis, stop: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait / SECOND):
            await stop.wait()


async def _end(term: "asyncio.Future[None]", *others: "asyncio.Future[None]") -> None:
    """Whatever goes on is cancelled; raises what the term raised."""
    for task in (term, *others):
        task.cancel()
    await asyncio.gather(term, *others, return_exceptions=True)
    if not term.cancelled():
        term.result()
