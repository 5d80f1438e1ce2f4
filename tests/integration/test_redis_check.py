"""`redis check` over a server on which nothing can go on: it says so, and names what stops it."""

import asyncio
import uuid
from collections.abc import Iterator

import pytest

from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import RedisServer, serving
from vmsh_scheduler.stores.redis import admin
from vmsh_scheduler.stores.redis.connect import RedisOptions
from vmsh_scheduler.stores.redis.instances import Instance, Instances
from vmsh_scheduler.stores.redis.keys import Keys

NAMES = sorted(Keys("x").types())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as running:
        yield running


@pytest.fixture
def shared(server: RedisServer) -> SharedRedis:
    return SharedRedis(server, f"t{uuid.uuid4().hex}")


def findings(shared: SharedRedis) -> list[str]:
    found: list[str] = admin.check(RedisOptions(shared.server.url, shared.keys.prefix))["findings"]
    return found


@pytest.mark.parametrize("name", [name.removeprefix("x:") for name in NAMES])
def test_a_key_of_somebody_else_is_named_with_the_way_out(shared: SharedRedis, name: str) -> None:
    key = shared.keys.named(name)
    with shared.server.client() as client:
        assert findings(shared) == []
        client.sadd(key, "mine")
        (found,) = findings(shared)
        assert found.startswith(f"{key} holds a set, not a {shared.keys.types()[key]} of ours")
        assert found.endswith(f"redis-cli DEL {key}")


def test_all_of_them_are_named_at_once(shared: SharedRedis) -> None:
    with shared.server.client() as client:
        for key in shared.keys.types():
            client.sadd(key, "mine")
    assert [line.split(" ")[0] for line in findings(shared)] == list(shared.keys.types())


def test_instances_of_which_none_leads_are_a_finding(shared: SharedRedis) -> None:
    async def said() -> None:
        async with shared.client() as client:
            await Instances(client, shared.keys).beat(Instance("a", "host", "config", {"": 1}))

    asyncio.run(said())
    (found,) = findings(shared)
    assert found.startswith("1 instances are there and none leads")
    with shared.server.client() as client:
        client.set(shared.keys.leader_lock, "a:uuid|1|a", px=60_000)
    assert findings(shared) == []


def test_a_redis_that_is_full_is_a_finding(shared: SharedRedis) -> None:
    with shared.server.client() as client:
        used = int(client.info("memory")["used_memory"])
        try:
            client.config_set("maxmemory", used + 30_000)
            (found,) = findings(shared)
            client.config_set("maxmemory", used * 2)
            assert findings(shared) == []
        finally:
            client.config_set("maxmemory", 0)
    assert "KiB of maxmemory are used: Redis refuses writes" in found


def test_the_fence_of_somebody_else_hides_nothing_else(shared: SharedRedis) -> None:
    with shared.server.client() as client:
        client.rpush(shared.keys.leader_fence, "mine")
        client.hset(shared.keys.states, "a/b", "{")
        client.set(shared.keys.specs_version, "many")
    assert [line.split(" ")[0] for line in findings(shared)] == [
        shared.keys.leader_fence,
        shared.keys.specs_version,
        "the",
    ]
