"""ports.Leases: one holder at a time, fences that only rise."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.contract.world import NOW, FixedClock
from vmsh_scheduler.ports import Lease, Leases
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.load import load
from vmsh_scheduler.stores.local.lock import LocalLeases, StateLock
from vmsh_scheduler.stores.local.states import LocalStates
from vmsh_scheduler.stores.memory import MemoryLeases
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.leases import RedisLeases

Holder = Callable[[int], Leases]
"""A new contender, as another process would be, whose clock shows the given time."""


@pytest.fixture(params=["memory", "local", "redis"])
async def contender(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Holder]:
    table: dict[str, tuple[Lease, bool]] = {}
    if request.param == "redis":
        shared = request.getfixturevalue("shared_redis")
        async with shared.client() as client:
            yield redis_holder(client, shared.keys)
        return
    async with AsyncExitStack() as stack:

        def local(now: int) -> Leases:
            directory = open_directory(tmp_path / "scheduler.json")
            stack.callback(directory.close)
            states = LocalStates(directory, load(directory), FixedClock(now), lambda position: None)
            stack.push_async_callback(states.close)
            lock = StateLock(directory, FixedClock(now))
            stack.callback(lock.close)
            return LocalLeases(lock, states, FixedClock(now))

        yield local if request.param == "local" else lambda now: MemoryLeases(FixedClock(now), table)


def redis_holder(client: Client, keys: Keys) -> Holder:
    """Redis has a clock of its own: the newest fence is put to where the test's clock was a moment ago."""

    def contend(now: int) -> Leases:
        leases = RedisLeases(client, keys, FixedClock(now), instance="one", ttl_ms=60_000)
        leases.saw(NOW - 1)
        return leases

    return contend


async def test_only_one_holds_it(contender: Holder) -> None:
    first = contender(NOW)
    lease = await first.acquire("engine")
    assert lease is not None
    assert lease.fence == NOW
    assert await first.acquire("engine") is None
    assert await contender(NOW).acquire("engine") is None
    assert await first.renew(lease)


async def test_released_is_free_and_the_fence_rises_even_when_the_clock_falls(contender: Holder) -> None:
    first = contender(NOW)
    lease = await first.acquire("engine")
    assert lease is not None
    await first.release(lease)
    assert not await first.renew(lease)
    second = contender(NOW - 5000)
    again = await second.acquire("engine")
    assert again is not None
    assert again.fence == NOW + 1
    await first.release(lease)
    assert await second.renew(again)


async def test_a_lease_that_is_over_renews_nothing(contender: Holder) -> None:
    first = contender(NOW)
    lease = await first.acquire("engine")
    assert lease is not None
    await first.release(lease)
    second = contender(NOW)
    newer = await second.acquire("engine")
    assert newer is not None
    assert newer.fence > lease.fence
    assert not await first.renew(lease)
    assert await first.acquire("engine") is None
    assert await second.renew(newer)
