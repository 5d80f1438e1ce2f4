"""Anything in a real Redis where this program reads: a value, or the failure that each reader names."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.world import NOW, FixedClock, busy_state, decision, execution
from tests.support.near_json import raw
from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import RedisServer, serving
from vmsh_scheduler.domain.codec import decision_to_json, execution_to_json, note_to_json, outcome_to_json
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.errors import StateUnreadable, StoreDown, StoreRefuses
from vmsh_scheduler.originals import import_agents
from vmsh_scheduler.stores.local.text import state_text
from vmsh_scheduler.stores.memory import MemorySpecs
from vmsh_scheduler.stores.redis.connect import RedisOptions, answers
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch
from vmsh_scheduler.stores.redis.identity import Identity
from vmsh_scheduler.stores.redis.instances import Instance, Instances
from vmsh_scheduler.stores.redis.journal import RedisJournal
from vmsh_scheduler.stores.redis.requests import Requests
from vmsh_scheduler.stores.redis.specs import RedisSpecs, check_agent
from vmsh_scheduler.stores.redis.states import RedisStates
from vmsh_scheduler.stores.redis.values import MOST_TOLD, Junk, Unreadable

RECORD = {"id": "x", "userId": "u", "walletAddress": "kaspa:q", "nextRunAt": NOW, "failureCount": 2, "createdAt": NOW}
ROWS = {
    "decision": decision_to_json(decision("a/b", 1)),
    "execution": execution_to_json(execution("a/b", 1)),
    "note": note_to_json(Note("n", NOW, "a/b")),
}
ANYTHING = {
    "state": raw(json.loads(state_text(busy_state()))),
    "spec": raw({"document": RECORD, "version": 1, "created_at": NOW, "updated_at": NOW, "by": "u"}),
    "instance": raw({"permits": {"": 1}, "running": 0, "fence": 1, "started_at": NOW}),
    "request": raw({"id": "1", "verb": "pause", "document": {"by": "x", "job": "a/b"}}),
    "task": raw({"queueKey": "u:x", "vmsh": {"job": "a/b"}}),
    "outcome": raw(outcome_to_json(execution("a/b", 1).outcome)),
    "record": raw(RECORD),
    **{kind: raw(row) for kind, row in ROWS.items()},
    "count": st.binary(max_size=20) | st.integers().map(lambda n: str(n).encode()),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def shared(server: RedisServer) -> Iterator[SharedRedis]:
    yield SharedRedis(server, "p")
    with server.client() as client:
        client.flushall()


def plant(shared: SharedRedis, values: dict[str, bytes]) -> None:
    keys = shared.keys
    with shared.reader() as client:
        client.flushall()
        client.set(keys.leader_lock, "me|1|me")
        client.set(keys.leader_fence, values["count"])
        client.hset(keys.meta, mapping={"writes": values["count"], "store": values["count"]})
        client.set(keys.specs_version, values["count"])
        client.hset(keys.states, mapping={"a/b": values["state"]})
        client.hset(keys.journal_heads, mapping={"a/b": values["count"]})
        client.hset(keys.specs("agent"), mapping={"_agents/u/x": values["spec"]})
        soon = str(int(client.time()[0]) * 1000 + 4_000).encode()
        client.hset(keys.instances, mapping={"x": soon + b" " + values["instance"]})
        client.rpush(keys.requests, values["request"], b"99999999999999 " + values["request"])
        client.hset(keys.queue("agents").payloads, mapping={"t": values["task"]})
        client.rpush(keys.queue("agents").ready, "t")
        client.hset(keys.outcomes, mapping={"r": values["outcome"]})
        client.hset(keys.agents, mapping={"u:x": values["record"]})
        for kind in ROWS:
            client.xadd(keys.journal_recent, {"kind": kind, "at": values["count"], "run": "r", "body": values[kind]})


async def look(shared: SharedRedis) -> None:
    """Every reader of a daemon, once. What each names as its failure is let pass, nothing else."""
    keys, junk = shared.keys, Junk()
    async with shared.client() as client:
        for reader in (
            RedisStates(client, keys, FixedClock()).load,
            RedisSpecs(client, keys, check=check_agent).refresh,
        ):
            await named(reader(), StoreRefuses)
        assert all(free >= 0 for each in await Instances(client, keys, junk).beat(ME) for free in each.permits.values())
        dispatch = RedisDispatch(client, keys, FixedClock(), "me", junk=junk)
        assert len(await dispatch.claim("agents", 5, 1_000)) == 1
        assert isinstance((await dispatch.ended(["r"]))["r"], dict)
        assert await Identity(client, keys).stands()
        records = (await client.hgetall(keys.agents)).values()
        await import_agents(records, MemorySpecs(), {}, 1_000, NOW)
        await serve(Requests(client, keys, junk), client, junk)


ME = Instance("me", "h", "c", {})


async def named(work: Any, failure: type[Exception]) -> None:
    try:
        await work
    except failure:
        return


async def serve(requests: Requests, client: Any, junk: Junk) -> None:
    """The one entry that has a time is answered, or is left out."""
    answered, before = asyncio.Event(), junk.count

    async def answer(verb: str, document: Any) -> dict[str, object]:
        assert isinstance(verb, str)
        assert isinstance(document, dict)
        answered.set()
        return {}

    serving = asyncio.ensure_future(requests.serve("me|1|me", answer))
    async with asyncio.timeout(30):
        while not (answered.is_set() or junk.count > before or serving.done()):
            await client.ping()
    assert not serving.done(), serving.exception()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


def read_rows(shared: SharedRedis) -> None:
    with shared.reader() as client:
        journal = RedisJournal(client, shared.keys)
        for reader in (journal.decisions, journal.executions, journal.notes):
            try:
                reader()
            except StateUnreadable:
                continue


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.fixed_dictionaries(ANYTHING))
def test_whatever_stands_there_no_reader_fails_otherwise_than_it_says(
    shared: SharedRedis, values: dict[str, bytes]
) -> None:
    plant(shared, values)
    asyncio.run(look(shared))
    read_rows(shared)


@pytest.fixture
async def client(shared: SharedRedis) -> AsyncIterator[Any]:
    async with shared.client() as connected:
        yield connected


@pytest.mark.parametrize("name", ["caf\u00e9", "half \ud800 surrogate", "plain"])
async def test_names_come_back_as_they_were_sent_and_other_bytes_are_no_lost_connection(
    client: Any, shared: SharedRedis, name: str
) -> None:
    await client.hset("p:names", name, name)
    assert await client.hgetall("p:names") == {name: name}
    with shared.server.client() as other:
        other.set("p:bytes", b"\xff\xfe")
    assert not (await client.get("p:bytes")).isascii()
    assert await client.ping()


@pytest.mark.parametrize("host", ["h" * 70, "h..x"])
async def test_a_host_that_cannot_be_one_is_said_to_be_that(host: str) -> None:
    down = await answers(RedisOptions(f"redis://{host}:6379/0"))
    assert isinstance(down, StoreDown)
    assert "no name that there can be" in str(down)


async def test_what_is_left_out_is_told_once_each_and_of_so_many() -> None:
    junk, told = Junk(), list[str]()
    junk.tell = told.append
    for n in range(3 * MOST_TOLD):
        for _ in range(2):
            junk.found(f"entry {n}", Unreadable("it is not JSON"))
    assert (junk.count, len(told), len(set(told))) == (6 * MOST_TOLD, MOST_TOLD, MOST_TOLD)
