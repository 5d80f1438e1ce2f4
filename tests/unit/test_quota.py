"""Fixed windows, every attempt counted, bounded memory."""

import pytest

from vmsh_scheduler.api.quota import MOST_PRINCIPALS, Quotas, Refusal, SharedQuotas
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.stores.memory import MemoryCounters

WINDOW_MS = 60_000
START = 30_000_000 * WINDOW_MS


class World:
    """Quotas of three buckets, and the time."""

    def __init__(self, **limits: int) -> None:
        self.now = START
        self.quotas = Quotas(WINDOW_MS, limits, lambda: self.now)

    def passed(self, attempts: int, sub: str = "ana", bucket: str = "tick") -> int:
        return sum(self.quotas.hit(sub, bucket) is None for _ in range(attempts))


def test_as_many_as_the_limit_pass() -> None:
    world = World(tick=2)
    assert [world.quotas.hit("ana", "tick") for _ in range(4)] == [None, None, Refusal(2, 60), Refusal(2, 60)]


def test_subjects_and_buckets_count_for_themselves() -> None:
    world = World(tick=2, write=3)
    assert (world.passed(9), world.passed(9, "bob"), world.passed(9, bucket="write")) == (2, 2, 3)


def test_names_that_look_joined_are_not_mixed_up() -> None:
    world = World(**{"tick": 1, "b:tick": 1})
    assert (world.passed(3, "a:b"), world.passed(3, "a", "b:tick")) == (1, 1)


def test_windows_lie_on_multiples_of_their_length() -> None:
    world = World(tick=1)
    world.now += 59_999
    assert world.passed(2) == 1
    world.now += 1
    assert world.passed(2) == 1


@pytest.mark.parametrize(("into", "seconds"), [(0, 60), (1, 60), (30_000, 30), (59_000, 1), (59_999, 1)])
def test_a_refusal_says_when_the_window_ends(into: int, seconds: int) -> None:
    world = World(tick=0)
    world.now += into
    assert world.quotas.hit("ana", "tick") == Refusal(0, seconds)


def test_refused_attempts_do_not_reach_into_the_next_window() -> None:
    world = World(tick=2)
    world.passed(100)
    world.now += WINDOW_MS
    assert world.passed(3) == 2


def test_a_bucket_without_a_limit_is_free() -> None:
    world = World(tick=1)
    assert world.passed(50, bucket="") == 50
    assert len(world.quotas) == 0


def test_d28_memory_is_bounded_and_the_oldest_window_goes_first() -> None:
    world = World(tick=1)
    world.passed(1, "kept")
    world.passed(1, "old")
    world.now += WINDOW_MS
    world.passed(1, "kept")
    for number in range(MOST_PRINCIPALS - 1):
        world.passed(1, f"sub-{number}")
    assert len(world.quotas) == MOST_PRINCIPALS
    assert world.passed(1, "kept") == 0
    world.now -= WINDOW_MS
    assert world.passed(1, "old") == 1


def test_a6_three_principals_get_their_share_exactly() -> None:
    world = World(write=240)
    passed = {sub: world.passed(3_333, sub, "write") for sub in ("ana", "bob", "eve")}
    assert passed == {"ana": 240, "bob": 240, "eve": 240}


class Shaky(MemoryCounters):
    """Shared by two, until it is away."""

    away = False
    asked = 0

    async def hit(self, key: str, window: int, length: Millis) -> int:
        self.asked += 1
        if self.away:
            raise StoreDown("away")
        return await super().hit(key, window, length)


async def test_a6_two_share_one_quota_and_each_keeps_its_own_while_the_store_is_away() -> None:
    store, now = Shaky(), 1_000 * WINDOW_MS
    here, there = (SharedQuotas(WINDOW_MS, {"write": 10}, lambda: now, store) for _ in range(2))
    found = [await (here, there)[number % 2].spend("ana", "write") for number in range(12)]
    assert found == [None] * 10 + [Refusal(10, 60)] * 2
    store.away, store.asked = True, 0
    assert [await here.spend("ana", "write") for _ in range(6)] == [None] * 4 + [Refusal(10, 60)] * 2
    assert store.asked == 1, "left alone for a while"
    assert await here.spend("ana", "none") is None
