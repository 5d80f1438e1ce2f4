"""ports.Dedupe: an idempotency key is new, busy while somebody sends it, and done once it was taken."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from tests.contract.world import FixedClock
from tests.support.redis_keys import SharedRedis
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.ports import Dedupe, Known
from vmsh_scheduler.stores.memory import MOST_KEYS, MemoryDedupe
from vmsh_scheduler.stores.redis.dedupe import RedisDedupe

LEASE_MS = 100
Expire = Callable[[], Awaitable[object]]
"""Lets a lease of LEASE_MS run out."""


@pytest.fixture(params=["memory", "redis"])
async def dedupe(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Dedupe, Expire]]:
    if request.param == "memory":
        clock = FixedClock()

        async def step() -> None:
            clock.at += LEASE_MS

        yield MemoryDedupe(clock, lease_ms=LEASE_MS, done_ms=60_000), step
        return
    shared: SharedRedis = request.getfixturevalue("shared_redis")
    async with shared.client() as client:

        async def gone() -> None:
            async with asyncio.timeout(30):
                while await client.exists(shared.keys.dedupe_lease("k")):  # noqa: ASYNC110  the server has no event for it
                    await asyncio.sleep(0.01)

        yield RedisDedupe(client, shared.keys, lease_ms=LEASE_MS, done_ms=60_000), gone


async def test_what_was_taken_is_never_sent_again(dedupe: tuple[Dedupe, Expire]) -> None:
    keys, expire = dedupe
    assert await keys.begin("k", "a") is Known.NEW
    await keys.done("k", "a")
    assert await keys.begin("k", "a") is Known.DONE
    await expire()
    assert await keys.begin("k", "b") is Known.DONE
    assert await keys.begin("other", "b") is Known.NEW


async def test_d6_a_key_that_somebody_else_sends_is_busy(dedupe: tuple[Dedupe, Expire]) -> None:
    keys, expire = dedupe
    assert await keys.begin("k", "a") is Known.NEW
    assert await keys.begin("k", "b") is Known.BUSY
    await expire()
    assert await keys.begin("k", "b") is Known.NEW


async def test_what_failed_may_be_sent_at_once_by_anybody(dedupe: tuple[Dedupe, Expire]) -> None:
    keys, _ = dedupe
    assert await keys.begin("k", "a") is Known.NEW
    await keys.failed("k", "a")
    assert await keys.begin("k", "b") is Known.NEW


async def test_only_the_owner_ends_a_lease(dedupe: tuple[Dedupe, Expire]) -> None:
    keys, _ = dedupe
    assert await keys.begin("k", "b") is Known.NEW
    await keys.failed("k", "a")
    await keys.done("k", "a")
    assert await keys.begin("k", "c") is Known.BUSY


async def test_a_lease_that_ran_out_does_not_undo_what_was_taken(dedupe: tuple[Dedupe, Expire]) -> None:
    keys, expire = dedupe
    assert await keys.begin("k", "a") is Known.NEW
    await expire()
    await keys.done("k", "a")
    assert await keys.begin("k", "b") is Known.DONE


async def test_many_at_once_are_answered_each_for_itself(dedupe: tuple[Dedupe, Expire]) -> None:
    """More than one script takes; of two who ask for one key at the same time one gets it."""
    keys, _ = dedupe
    asked = [(f"k{n // 2}", f"owner{n % 2}") for n in range(500)]
    await keys.done("k7", "before")
    said = await asyncio.gather(*(keys.begin(*each) for each in asked))
    pairs = list(zip(said[::2], said[1::2], strict=True))
    assert pairs.pop(7) == (Known.DONE, Known.DONE)
    assert set(pairs) == {(Known.NEW, Known.BUSY)}
    await asyncio.gather(*(keys.done(f"k{n}", "owner0") for n in range(250)))
    assert set(await asyncio.gather(*(keys.begin(f"k{n}", "later") for n in range(250)))) == {Known.DONE}


async def test_a_store_that_is_down_is_told_to_all_who_asked(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        keys = RedisDedupe(client, shared_redis.keys, lease_ms=60_000, done_ms=90_000)
        shared_redis.server.pause()
        try:
            asked = (keys.begin(f"k{n}", "a") for n in range(5))
            said = await asyncio.gather(*asked, return_exceptions=True)
        finally:
            shared_redis.server.resume()
        assert [type(each) for each in said] == [StoreDown] * 5
        assert await keys.begin("k0", "a") is Known.NEW


async def test_the_names_are_those_of_the_original(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        keys = RedisDedupe(client, shared_redis.keys, lease_ms=60_000, done_ms=90_000)
        await keys.begin("k", "a")
        lease, done = (f"{shared_redis.keys.prefix}:callback_dedupe:k:{what}" for what in ("lease", "done"))
        assert await client.get(lease) == "a"
        assert 0 < await client.pttl(lease) <= 60_000
        await keys.done("k", "a")
        assert await client.get(done) == "1"
        assert 60_000 < await client.pttl(done) <= 90_000
        assert not await client.exists(lease)


async def test_memory_forgets_the_oldest_before_it_grows_without_end() -> None:
    keys = MemoryDedupe(FixedClock(), lease_ms=LEASE_MS, done_ms=60_000)
    for n in range(MOST_KEYS + 1):
        await keys.begin(f"k{n}", "a")
    assert await keys.begin(f"k{MOST_KEYS}", "b") is Known.BUSY
    assert await keys.begin("k0", "b") is Known.NEW
