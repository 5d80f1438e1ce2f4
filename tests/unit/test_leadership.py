"""One leader at a time: elected, renewed, given up in time, replaced."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from tests.support.virtual_time import LoopClock, run_virtual
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.leadership import Leadership, Timing
from vmsh_scheduler.errors import StoreDown, StoreRefuses
from vmsh_scheduler.ports import Lease

TIMING = Timing()
CLOCK = LoopClock()


@dataclass
class Lock:
    """A lock with a time to live, as a store keeps it; `down` while nobody answers."""

    holder: str = ""
    until: Millis = 0
    fence: int = 0
    down: bool = False
    refuses: bool = False
    renewals: list[Millis] = field(default_factory=list)

    def free(self) -> bool:
        return not self.holder or CLOCK.elapsed() >= self.until

    def ask(self) -> None:
        if self.down:
            raise StoreDown("connection refused")
        if self.refuses:
            raise StoreRefuses("you may not")


@dataclass
class Seat:
    """ports.Leases of one contender."""

    lock: Lock
    name: str

    async def acquire(self, name: str) -> Lease | None:
        self.lock.ask()
        if not self.lock.free():
            return None
        self.lock.holder, self.lock.fence = self.name, self.lock.fence + 1
        self.lock.until = CLOCK.elapsed() + TIMING.ttl
        return Lease(name, self.lock.fence, self.lock.until)

    async def renew(self, lease: Lease) -> bool:
        self.lock.ask()
        if self.lock.free() or self.lock.holder != self.name or self.lock.fence != lease.fence:
            return False
        self.lock.until = CLOCK.elapsed() + TIMING.ttl
        self.lock.renewals.append(CLOCK.elapsed())
        return True

    async def release(self, lease: Lease) -> None:
        self.lock.ask()
        if self.lock.holder == self.name:
            self.lock.holder = ""

    async def free_in(self) -> Millis | None:
        self.lock.ask()
        return None if not self.lock.holder else max(0, self.lock.until - CLOCK.elapsed())


@dataclass
class Contender:
    """One instance; `terms` are (fence, from, to)."""

    seat: Seat
    terms: list[tuple[int, Millis, Millis]] = field(default_factory=list)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    lingers_s: float = 0.0
    fails: Exception | None = None
    brief: bool = False
    """Its terms end by themselves, at once."""

    def __post_init__(self) -> None:
        self.leadership = Leadership(self.seat, CLOCK, TIMING, self.term, self.seat.free_in)

    async def term(self, lease: Lease, over: asyncio.Event) -> None:
        began = CLOCK.elapsed()
        try:
            if self.fails is not None:
                raise self.fails
            if self.brief:
                return
            await over.wait()
            await asyncio.sleep(self.lingers_s)
        finally:
            self.terms.append((lease.fence, began, CLOCK.elapsed()))

    def start(self) -> "asyncio.Task[None]":
        return asyncio.get_running_loop().create_task(self.leadership.run(self.stop))


def contender(lock: Lock, name: str, **more: object) -> Contender:
    return Contender(Seat(lock, name), **more)  # type: ignore[arg-type]  # its own fields


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110  virtual time: nothing polls for real
        await asyncio.sleep(0.01)


def test_a_healthy_leader_keeps_its_lock_for_ever() -> None:
    """forge-os D15: it lost it every few seconds."""

    async def story() -> None:
        lock = Lock()
        first, second = contender(lock, "a"), contender(lock, "b")
        tasks = [first.start(), second.start()]
        await asyncio.sleep(3_600)
        assert (lock.holder, lock.fence) == ("a", 1)
        assert second.leadership.lease is None
        gaps = [b - a for a, b in zip(lock.renewals, lock.renewals[1:], strict=False)]
        assert max(gaps) <= TIMING.ttl / 3 + 1
        for each in (first, second):
            each.stop.set()
        await asyncio.gather(*tasks)
        assert lock.holder == ""

    run_virtual(story())


def test_an_orderly_end_keeps_the_lock_until_the_term_is_over() -> None:
    async def story() -> None:
        lock = Lock()
        first, second = contender(lock, "a", lingers_s=20.0), contender(lock, "b")
        tasks = [first.start(), second.start()]
        await asyncio.sleep(1)
        first.stop.set()
        await asyncio.sleep(19)
        assert lock.holder == "a"
        await until(lambda: lock.holder == "b")
        assert second.leadership.lease is not None
        assert second.leadership.lease.fence == 2
        second.stop.set()
        await asyncio.gather(*tasks)
        assert second.terms[0][1] - first.terms[0][2] <= TIMING.wait_max

    run_virtual(story())


def test_d2_a_leader_without_a_store_steps_down_at_80_percent_of_its_time() -> None:
    async def story() -> None:
        lock = Lock()
        first = contender(lock, "a")
        task = first.start()
        await asyncio.sleep(100)
        lock.down, last = True, lock.renewals[-1]
        await until(lambda: first.terms)
        assert TIMING.ttl * 0.6 <= first.terms[0][2] - last <= TIMING.ttl * 0.8 + 50
        assert first.leadership.lease is None
        assert first.leadership.lost == 1
        assert first.leadership.trouble == "connection refused"
        lock.down = False
        await until(lambda: first.leadership.lease)
        assert lock.fence == 2
        assert first.leadership.trouble == ""
        first.stop.set()
        await task

    run_virtual(story())


def test_a_dead_leader_is_replaced_as_soon_as_its_lock_runs_out() -> None:
    async def story() -> None:
        lock = Lock()
        first, second = contender(lock, "a"), contender(lock, "b")
        task, other = first.start(), second.start()
        await asyncio.sleep(60)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        lock.holder, free = "a", lock.until
        await until(lambda: second.leadership.lease)
        assert 0 <= second.leadership.looked_at - free <= 50
        second.stop.set()
        await other

    run_virtual(story())


def test_somebody_who_took_the_lock_ends_the_term_at_the_next_renewal() -> None:
    async def story() -> None:
        lock = Lock()
        first = contender(lock, "a")
        task = first.start()
        await asyncio.sleep(10)
        lock.holder, lock.fence, lock.until = "b", 9, CLOCK.elapsed() + 100_000
        await until(lambda: first.terms)
        await asyncio.sleep(1)
        assert lock.holder == "b"
        first.stop.set()
        await task

    run_virtual(story())


def test_terms_that_end_at_once_do_not_follow_each_other_at_once() -> None:
    """Something in the store that cannot be read ended 500 terms a second, each with its line in the log."""

    async def story() -> None:
        first = contender(Lock(), "a", brief=True)
        task = first.start()
        await asyncio.sleep(60)
        assert 15 <= len(first.terms) <= 18
        first.brief = False
        await until(lambda: first.leadership.lease)
        assert CLOCK.elapsed() - first.terms[-1][2] <= TIMING.ttl + 50
        first.stop.set()
        await task

    run_virtual(story())


def test_a_term_that_fails_fails_loudly() -> None:
    async def story() -> None:
        first = contender(Lock(), "a", fails=RuntimeError("a defect"))
        with pytest.raises(RuntimeError, match="a defect"):
            await first.start()

    run_virtual(story())


def test_a_store_that_is_down_at_start_is_waited_for() -> None:
    async def story() -> None:
        lock = Lock(down=True)
        first = contender(lock, "a")
        task = first.start()
        await asyncio.sleep(60)
        assert first.leadership.backed_off >= 30
        assert first.leadership.trouble == "connection refused"
        lock.down = False
        await until(lambda: first.leadership.lease)
        first.stop.set()
        await task

    run_virtual(story())


def test_a_store_that_refuses_the_lock_is_there_and_asked_no_more_often() -> None:
    async def story() -> None:
        lock = Lock(refuses=True)
        first = contender(lock, "a")
        task = first.start()
        await asyncio.sleep(60)
        assert 30 <= first.leadership.backed_off <= 40
        assert first.leadership.trouble == ""
        lock.refuses = False
        await until(lambda: first.leadership.lease)
        lock.refuses = True
        await until(lambda: not first.leadership.lease)
        assert first.leadership.trouble == ""
        first.stop.set()
        await task

    run_virtual(story())
