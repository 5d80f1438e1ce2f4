"""A Redis that refuses some of what is asked: nothing is done by halves, and what it refuses is named."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.world import NOW, FixedClock, decision, execution
from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import RedisServer, administering, serving
from tests.support.virtual_time import LoopClock
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateWriteFailed, StoreRefuses
from vmsh_scheduler.ports import Change, Task
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch
from vmsh_scheduler.stores.redis.instances import Instance, Instances
from vmsh_scheduler.stores.redis.keys import AGENTS
from vmsh_scheduler.stores.redis.leases import RedisLeases
from vmsh_scheduler.stores.redis.refusals import LATELY, Refusals, watch
from vmsh_scheduler.stores.redis.states import RedisStates
from vmsh_scheduler.stores.redis.wakes import Wakes

AGENT = "_agents/u:x"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(tmp_path / "redis") as running:
        yield running


@pytest.fixture
def shared(server: RedisServer) -> SharedRedis:
    return SharedRedis(server, "{p}:q")


@pytest.fixture
async def client(shared: SharedRedis) -> AsyncIterator[Client]:
    async with shared.client() as connected:
        yield connected


@pytest.fixture
def admin(server: RedisServer) -> Iterator[Any]:
    with administering(server) as found:
        yield found


def contender(client: Client, shared: SharedRedis, instance: str = "a", ttl_ms: int = 60_000) -> RedisLeases:
    return RedisLeases(client, shared.keys, SystemClock(), instance=instance, ttl_ms=ttl_ms)


def mirror(job: str, state: JobState | None) -> tuple[str, str, int | None] | None:
    return (job.removeprefix("_agents/"), "{}", NOW) if job == AGENT else None


async def leading(client: Client, shared: SharedRedis) -> RedisStates:
    leases = contender(client, shared)
    lease = await leases.acquire("engine")
    assert lease is not None
    states = RedisStates(client, shared.keys, FixedClock(), mirror)
    await states.load()
    states.lead(leases.lock_value(lease))
    return states


def everything(admin: Any) -> dict[str, object]:
    """But the lock, which is renewed."""
    return {key: admin.dump(key) for key in admin.scan_iter() if not key.endswith(":leader_lock")}


def batch(first: int) -> list[Change]:
    """All that a batch may hold: rows, states, an agent's mirror, a run that was settled, a job that is gone."""
    ended = execution(AGENT, first)
    return [
        Change("a/first", JobState(slot=NOW + first), (decision("a/first", first),)),
        Change("a/second", JobState(slot=NOW + first), (decision("a/second", first),)),
        Change(AGENT, JobState(slot=NOW + first), execution=ended),
        Change("a/gone", None, notes=(Note("removed", NOW, "a/gone"),)),
    ]


async def test_a_batch_with_a_key_of_somebody_else_in_it_is_not_written_at_all(
    client: Client, shared: SharedRedis, admin: Any
) -> None:
    states = await leading(client, shared)
    await states.apply(batch(1))
    admin.delete(shared.keys.journal("a/second"))
    admin.set(shared.keys.journal("a/second"), "mine")
    before = everything(admin)
    with pytest.raises(StateWriteFailed, match=r"journal:a/second holds a string, not a stream .*WRONGTYPE"):
        await states.apply(batch(2))
    assert everything(admin) == before


@pytest.mark.parametrize("name", ["meta", "journal_recent", "outcomes", "agent_schedule"])
async def test_a_key_that_became_somebody_elses_in_mid_term_is_named(
    client: Client, shared: SharedRedis, admin: Any, name: str
) -> None:
    states = await leading(client, shared)
    await states.apply(batch(1))
    admin.delete(shared.keys.named(name))
    admin.rpush(shared.keys.named(name), "mine")
    before = everything(admin)
    with pytest.raises(StateWriteFailed, match="WRONGTYPE"):
        await states.apply(batch(2))
    assert everything(admin) == before


async def test_a_chain_that_was_set_back_by_hand_stops_its_batch_and_is_named(
    client: Client, shared: SharedRedis, admin: Any
) -> None:
    states = await leading(client, shared)
    for n in range(3):
        await states.apply(batch(n))
    admin.hset(shared.keys.journal_heads, "a/second", "1 abc")
    await states.load()
    before = everything(admin)
    with pytest.raises(StateWriteFailed, match="journal:a/second ends at row 3, but its head says that row 2 is next"):
        await states.apply(batch(4))
    assert everything(admin) == before


@pytest.mark.parametrize("command", ["hset", "hdel", "xadd", "zadd", "del", "pexpire", "xrevrange"])
async def test_a_command_that_is_taken_away_in_mid_term_leaves_no_half_batch(
    client: Client, shared: SharedRedis, admin: Any, command: str
) -> None:
    states = await leading(client, shared)
    await states.apply(batch(1))
    admin.execute_command("ACL", "SETUSER", "default", f"-{command}")
    before = everything(admin)
    with pytest.raises(StateWriteFailed, match="NOPERM"):
        await states.apply(batch(2))
    assert everything(admin) == before


@pytest.mark.parametrize("command", ["xadd", "hset", "rpush", "zrem", "del"])
async def test_who_could_not_write_as_the_leader_takes_neither_lock_nor_fence(
    client: Client, shared: SharedRedis, admin: Any, command: str
) -> None:
    admin.execute_command("ACL", "SETUSER", "default", f"-{command}")
    leases = contender(client, shared)
    with pytest.raises(StoreRefuses, match=rf"{command.upper()} \(NOPERM\)"):
        await leases.acquire("engine")
    assert [key for key in admin.scan_iter() if not key.endswith("_probe")] == []
    admin.execute_command("ACL", "SETUSER", "default", "+@all")
    assert await leases.acquire("engine") is not None
    assert sorted(admin.scan_iter()) == [shared.keys.leader_fence, shared.keys.leader_lock]


@pytest.mark.parametrize("junk", ["inf", "nan", "-5", "1e15", "0x10", "", "12.5"])
async def test_a_fence_that_is_no_number_is_replaced_by_one_above_all_that_were_given(
    client: Client, shared: SharedRedis, junk: str
) -> None:
    leases = contender(client, shared)
    first = await leases.acquire("engine")
    assert first is not None
    await leases.release(first)
    await client.set(shared.keys.leader_fence, junk)
    async with asyncio.timeout(30):  # nobody remembers it any more, so the clock has to be another
        time = (0, 0)
        while time[0] * 1000 + time[1] // 1000 <= first.fence:
            time = await client.time()
    other = await contender(client, shared, "b").acquire("engine")
    assert other is not None
    assert other.fence > first.fence
    assert await client.get(shared.keys.leader_fence) == str(other.fence)


@pytest.mark.parametrize("high", ["99999999999999999", "9007199254740991", "9" * 400])
async def test_a_fence_too_large_to_count_on_is_named_with_the_way_out(
    client: Client, shared: SharedRedis, high: str
) -> None:
    await client.set(shared.keys.leader_fence, high)
    leases = contender(client, shared)
    with pytest.raises(StoreRefuses, match=r"leader_fence holds 9.*too large.*redis-cli DEL \{p\}:q:leader_fence"):
        await leases.acquire("engine")
    await client.delete(shared.keys.leader_fence)
    lease = await leases.acquire("engine")
    assert lease is not None
    assert lease.fence < 10**15


async def test_a_lock_with_an_absurd_fence_locks_out_nobody_when_it_is_over(
    client: Client, shared: SharedRedis
) -> None:
    leases = contender(client, shared)
    for fence in ("9999999999999999", "9007199254740990", "1000000000000000"):
        await client.set(shared.keys.leader_lock, f"q|{fence}|q", px=60_000)
        assert await leases.acquire("engine") is None
        await client.delete(shared.keys.leader_lock)
    lease = await leases.acquire("engine")
    assert lease is not None
    assert lease.fence < 10**15
    assert await leases.renew(lease)


async def test_tasks_go_their_way_without_the_right_to_wake_anybody(
    client: Client, shared: SharedRedis, admin: Any
) -> None:
    clock = LoopClock()
    refusals = Refusals(clock.elapsed, calm=1_000)
    watch(client, refusals)
    leases = contender(client, shared)
    lease = await leases.acquire("engine")
    assert lease is not None
    dispatch = RedisDispatch(client, shared.keys, SystemClock(), "a")
    dispatch.lead(leases.lock_value(lease))
    admin.execute_command("ACL", "SETUSER", "default", "-publish")
    await dispatch.push([Task("one", AGENTS, "u:x", {"n": 1})])
    (claim,) = await dispatch.claim(AGENTS, 5, 10_000)
    assert await dispatch.finish(claim, {"status": "ok"})
    assert await dispatch.ended(["one"]) == {"one": {"status": "ok"}}
    assert ["PUBLISH" in why and "NOPERM" in why for why in refusals.now()] == [True]


async def test_who_may_not_listen_says_so_and_hears_as_soon_as_he_may(
    client: Client, shared: SharedRedis, admin: Any
) -> None:
    refusals = Refusals(SystemClock().elapsed, calm=0)
    watch(client, refusals)
    admin.execute_command("ACL", "SETUSER", "default", "-subscribe")
    heard: list[str] = []
    listening = asyncio.create_task(Wakes(client, shared.keys).listen(heard.append))
    try:
        async with asyncio.timeout(30):
            await until(refusals.now)
            assert "SUBSCRIBE" in refusals.now()[0]
            admin.execute_command("ACL", "SETUSER", "default", "+@all")
            await until(lambda: not refusals.now())
            await Wakes(client, shared.keys).say("ready")
            await until(lambda: "ready" in heard)
    finally:
        listening.cancel()


async def until(true: Callable[[], object]) -> None:
    while not true():  # noqa: ASYNC110  there is nothing to wait for
        await asyncio.sleep(0.01)


def test_a_refusal_is_shown_until_nothing_is_refused_for_a_while() -> None:
    now = 0
    refusals = Refusals(lambda: now, calm=1_000)
    refusals.refused("write", "no")
    refusals.refused("claim", "no")
    refusals.done("write")
    assert refusals.now() == ["no"]
    refusals.done("claim")
    now = 1_000
    assert refusals.now() == ["no"]
    now = 1_001
    assert refusals.now() == []
    refusals.refused("write", "never")
    now += LATELY
    assert refusals.now() == ["never"]
    now += 1
    assert refusals.now() == []


def instance(id: str) -> Instance:
    return Instance(id, "host", "config", {"": 1})


async def test_an_id_that_two_processes_have_is_told_to_both_and_a_restart_is_none(
    client: Client, shared: SharedRedis
) -> None:
    first, second, other = (Instances(client, shared.keys) for _ in range(3))
    await first.beat(instance("x"))
    await second.beat(instance("x"))  # as after kill -9: the first one's words still stand
    await second.beat(instance("x"))
    await other.beat(instance("y"))
    assert not any(each.shared_id for each in (first, second, other))
    await first.beat(instance("x"))
    await second.beat(instance("x"))
    seen = {each.id: each.shared_id for each in await first.beat(instance("x"))}
    assert (first.shared_id, second.shared_id, other.shared_id) == (True, True, False)
    assert seen == {"x": True, "y": False}
    await second.leave("x")
    assert [each.id for each in await other.beat(instance("y"))] == ["x", "y"]
    for _ in range(6):
        await first.beat(instance("x"))
    assert not first.shared_id
    await first.leave("x")
    assert [each.id for each in await other.beat(instance("y"))] == ["y"]
