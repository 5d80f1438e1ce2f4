"""ports.Counters."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.support.redis_keys import SharedRedis
from vmsh_scheduler.ports import Counters
from vmsh_scheduler.stores.memory import MOST_KEYS, MemoryCounters
from vmsh_scheduler.stores.redis.counters import RedisCounters


@pytest.fixture(params=["memory", "redis"])
async def counters(request: pytest.FixtureRequest) -> AsyncIterator[Counters]:
    if request.param == "memory":
        yield MemoryCounters()
        return
    shared: SharedRedis = request.getfixturevalue("shared_redis")
    async with shared.client() as client:
        yield RedisCounters(client, shared.keys)


async def test_every_attempt_counts_by_key_and_window(counters: Counters) -> None:
    assert [await counters.hit("u:read", 7, 60_000) for _ in range(3)] == [1, 2, 3]
    assert await counters.hit("u:write", 7, 60_000) == 1
    assert await counters.hit("u:read", 8, 60_000) == 1
    assert await counters.hit("u:read", 7, 60_000) == 4


async def test_none_is_lost_when_many_ask_at_once(counters: Counters) -> None:
    counted = await asyncio.gather(*(counters.hit("u:read", 1, 60_000) for _ in range(200)))
    assert sorted(counted) == list(range(1, 201))


async def test_it_ends_a_second_after_its_window_under_the_name_of_the_original(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        counters = RedisCounters(client, shared_redis.keys)
        await counters.hit("u:read", 7, 60_000)
        await counters.hit("u:read", 7, 60_000)
        name = f"{shared_redis.keys.prefix}:quota:u:read:7"
        assert await client.get(name) == "2"
        assert 50_000 < await client.pttl(name) <= 61_000


async def test_a_counter_that_somebody_left_without_an_end_gets_one(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        name = shared_redis.keys.quota("u:read", 7)
        await client.set(name, "5")
        assert await RedisCounters(client, shared_redis.keys).hit("u:read", 7, 60_000) == 6
        assert await client.pttl(name) > 0


async def test_memory_forgets_the_oldest_before_it_grows_without_end() -> None:
    counters = MemoryCounters()
    for n in range(MOST_KEYS + 1):
        await counters.hit(f"u{n}", 1, 1_000)
    assert await counters.hit(f"u{MOST_KEYS}", 1, 1_000) == 2
    assert await counters.hit("u0", 1, 1_000) == 1
