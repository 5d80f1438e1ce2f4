"""ports.Specs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.dispatching import lock_value, take_lock
from tests.support.redis_keys import SharedRedis
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.errors import NotLeading, StateUnreadable, StateWriteFailed
from vmsh_scheduler.ports import Specs
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.specs import SqliteSpecs, open_specs
from vmsh_scheduler.stores.memory import MemorySpecs
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.specs import RedisSpecs

FIRST = Spec("agent", "u/a", {"name": "A", "cycleIntervalMs": 15_000, "note": "\u03c6 \U0001f600"}, 1, 100, 100, "u")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "scheduler.json"


@pytest.fixture(params=["memory", "local", "redis"])
async def specs(request: pytest.FixtureRequest, state: Path) -> AsyncIterator[Specs]:
    if request.param == "memory":
        yield MemorySpecs()
        return
    if request.param == "redis":
        shared: SharedRedis = request.getfixturevalue("shared_redis")
        async with shared.client() as client:
            yield await leading(client, shared)
        return
    opened = opener(state)()
    yield opened
    opened.close()


async def leading(client: Client, shared: SharedRedis, fence: int = 7) -> RedisSpecs:
    """Of the instance that has the lock from now on."""
    await take_lock(client, shared, "l", fence)
    return led(client, shared, fence)


def led(client: Client, shared: SharedRedis, fence: int = 7) -> RedisSpecs:
    """Of an instance that believes it has the lock."""
    specs = RedisSpecs(client, shared.keys)
    specs.lead(lock_value("l", fence))
    return specs


def opener(state: Path) -> Callable[[], SqliteSpecs]:
    return lambda: open_specs(open_directory(state))


async def test_what_is_saved_is_there(specs: Specs) -> None:
    assert specs.get("agent", "u/a") is None
    assert await specs.save(FIRST)
    assert specs.get("agent", "u/a") == FIRST
    assert specs.get("task", "u/a") is None
    assert list(specs.all("agent")) == ["u/a"]
    assert specs.all("task") == {}


async def test_who_does_not_follow_the_newest_version_is_told(specs: Specs) -> None:
    assert await specs.save(FIRST)
    assert not await specs.save(FIRST)
    second = replace(FIRST, document={"name": "B"}, version=2, updated_at=200)
    assert await specs.save(second)
    assert not await specs.save(replace(second, document={"name": "C"}))
    assert not await specs.save(replace(FIRST, id="u/b", version=2))
    assert specs.get("agent", "u/a") == second


async def test_deleted_is_gone_and_may_come_anew(specs: Specs) -> None:
    assert not await specs.delete("agent", "u/a")
    assert await specs.save(FIRST)
    assert await specs.delete("agent", "u/a")
    assert specs.get("agent", "u/a") is None
    assert await specs.save(FIRST)


async def test_documents_outlive_their_process_oldest_first(state: Path) -> None:
    specs = opener(state)()
    for number in (3, 1, 2):
        assert await specs.save(replace(FIRST, id=f"u/{number}", created_at=number))
    specs.close()
    again = opener(state)()
    assert list(again.all("agent")) == ["u/1", "u/2", "u/3"]
    assert again.get("agent", "u/1") == replace(FIRST, id="u/1", created_at=1)
    again.close()


@pytest.mark.parametrize("harm", [b"", b"not a database at all, but long enough to be looked at by SQLite as a file."])
async def test_a_damaged_file_is_never_begun_anew_in_silence(state: Path, harm: bytes) -> None:
    specs = opener(state)()
    assert await specs.save(FIRST)
    specs.close()
    file = state.with_name("scheduler-specs.db")
    file.write_bytes(harm + file.read_bytes()[len(harm) :] if harm else file.read_bytes()[:5_000])
    before = file.read_bytes()
    with pytest.raises(StateUnreadable, match=r"scheduler-specs\.db"):
        opener(state)()
    assert file.read_bytes() == before


async def test_others_see_what_was_saved_when_they_look_again(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        one, two = await leading(client, shared_redis), led(client, shared_redis)
        assert await one.refresh() == await two.refresh() == frozenset()
        older, newer = replace(FIRST, id="u/b", created_at=50), FIRST
        assert await one.save(newer)
        assert await one.save(older)
        assert await one.refresh() == frozenset()
        assert await two.refresh() == {("agent", "u/a"), ("agent", "u/b")}
        assert list(two.all("agent").values()) == [older, newer]
        assert not await two.save(newer)
        assert await two.save(replace(newer, version=2, document={}))
        assert not await one.save(replace(newer, version=2))
        assert await two.delete("agent", "u/b")
        assert await one.refresh() == {("agent", "u/a"), ("agent", "u/b")}
        assert one.all("agent") == two.all("agent") == {"u/a": replace(newer, version=2, document={})}


async def test_what_is_saved_during_a_look_is_not_lost_by_it(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        one, two = await leading(client, shared_redis), led(client, shared_redis)
        await one.refresh()
        assert await two.save(replace(FIRST, id="a"))

        async def meanwhile() -> bool:
            return await one.save(replace(FIRST, id="b"))

        assert await one.refresh(meanwhile) == frozenset()
        assert list(one.all("agent")) == ["b"]
        assert await one.refresh() == {("agent", "a")}
        assert list(one.all("agent")) == ["a", "b"]


async def test_a_look_at_a_store_that_was_emptied_is_not_believed(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        specs = await leading(client, shared_redis)
        await specs.refresh()
        assert await specs.save(FIRST)
        await client.delete(shared_redis.keys.specs("agent"), shared_redis.keys.specs_version)

        async def emptied() -> bool:
            return False

        assert await specs.refresh(emptied) == frozenset()
        assert list(specs.all("agent")) == [FIRST.id]


async def test_a_lost_picture_is_read_again_in_whole(shared_redis: SharedRedis) -> None:
    """Two who save by turns: neither takes the other's number for its own."""
    async with shared_redis.client() as client:
        one, two = await leading(client, shared_redis), led(client, shared_redis)
        await one.refresh()
        await two.refresh()
        assert await one.save(replace(FIRST, id="a"))
        assert await two.save(replace(FIRST, id="b"))
        assert await one.save(replace(FIRST, id="c"))
        assert await one.refresh() == {("agent", "b")}
        assert await two.refresh() == {("agent", "a"), ("agent", "c")}


async def test_a_document_that_cannot_be_read_is_named_and_left_alone(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client:
        await client.hset(shared_redis.keys.specs("agent"), "u/a", "{")
        await client.incr(shared_redis.keys.specs_version)
        specs = await leading(client, shared_redis)
        await specs.save(replace(FIRST, id="u/b"))
        await specs.refresh()
        assert specs.harmed == {
            "u/a": f"the field 'u/a' of {shared_redis.keys.specs('agent')} cannot be read: it is not JSON"
        }
        assert list(specs.all("agent")) == ["u/b"]
        with pytest.raises(StateWriteFailed, match="u/a"):
            await specs.save(replace(FIRST, id="u/a"))
        assert await client.hget(shared_redis.keys.specs("agent"), "u/a") == "{"


async def test_instances_are_woken_by_a_change(shared_redis: SharedRedis) -> None:
    async with shared_redis.client() as client, client.pubsub() as channel:
        await channel.subscribe(shared_redis.keys.wake)
        specs = await leading(client, shared_redis)
        assert await specs.save(FIRST)
        assert await specs.delete("agent", FIRST.id)
        told = []
        async with asyncio.timeout(30):
            while len(told) < 2:
                message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
                told += [message["data"]] if message else []
        assert told == ["specs", "specs"]


async def test_a_leader_whose_lock_is_anothers_changes_no_document(shared_redis: SharedRedis) -> None:
    """It was stopped beyond its time: what the new one acknowledged since is not undone when it wakes."""
    async with shared_redis.client() as client:
        old = await leading(client, shared_redis, fence=1)
        assert await old.save(FIRST)
        new = await leading(client, shared_redis, fence=2)
        await new.refresh()
        paused = replace(FIRST, document={"status": "PAUSED"}, version=2)
        assert await new.save(paused)
        with pytest.raises(NotLeading):
            await old.delete("agent", FIRST.id)
        for version in (2, 3):
            with pytest.raises(NotLeading):
                await old.save(replace(FIRST, version=version))
        assert await old.refresh() == {("agent", FIRST.id)}
        assert old.get("agent", FIRST.id) == paused
        assert await new.refresh() == frozenset()
        old.follow()
        with pytest.raises(NotLeading):
            await old.save(replace(FIRST, version=3))


async def test_a_removal_that_arrives_late_takes_no_newer_document(shared_redis: SharedRedis) -> None:
    """Its answer was lost, and the agent has been changed since."""
    async with shared_redis.client() as client:
        late, specs = await leading(client, shared_redis), led(client, shared_redis)
        assert await late.save(FIRST)
        await specs.refresh()
        again = replace(FIRST, version=2)
        assert await specs.save(again)
        with pytest.raises(StateWriteFailed, match="meanwhile"):
            await late.delete("agent", FIRST.id)
        assert await late.refresh() == {("agent", FIRST.id)}
        assert late.get("agent", FIRST.id) == again
        assert await late.delete("agent", FIRST.id)
        assert not await specs.delete("agent", FIRST.id)
