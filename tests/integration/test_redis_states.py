"""What the leader's writes leave in Redis: the journal's chains, what is trimmed, and what readers of agents see."""

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.contract.world import NOW, FixedClock, busy_state, decision, execution
from tests.support.redis_keys import SharedRedis, tidy
from tests.support.redis_server import RedisServer, serving
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.engine.handed import Collector
from vmsh_scheduler.errors import StateUnreadable, StateWriteFailed, StoreDown
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.redis.batch import GONE_FOR
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch
from vmsh_scheduler.stores.redis.journal import RedisJournal
from vmsh_scheduler.stores.redis.states import RedisStates

JOB = "a/b"
AGENT = "_agents/u:x"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture
def shared(server: RedisServer, tmp_path: Path) -> Iterator[SharedRedis]:
    with tidy(server, f"p-{tmp_path.name}") as found:
        yield found


@pytest.fixture
async def client(shared: SharedRedis) -> AsyncIterator[Client]:
    async with shared.client() as connected:
        yield connected


@pytest.fixture
def journal(shared: SharedRedis) -> Iterator[RedisJournal]:
    with shared.reader() as reader:
        yield RedisJournal(reader, shared.keys)


def mirror(job: str, state: JobState | None) -> tuple[str, str, int | None] | None:
    """`_agents/<key>` is an agent; its level stands for all of its record."""
    agent = job.removeprefix("_agents/")
    if agent == job:
        return None
    if state is None:
        return agent, "", None
    return agent, json.dumps({"level": state.level}), None if state.pause else (state.slot or NOW)


async def leading(client: Client, shared: SharedRedis, rows: int = 1000) -> RedisStates:
    await client.set(shared.keys.leader_lock, "me", px=60_000)
    states = RedisStates(client, shared.keys, FixedClock(), mirror, rows=rows)
    await states.load()
    states.lead("me")
    return states


async def write(states: RedisStates, first: int, last: int) -> None:
    """Decisions first..last of JOB, each a change of its own."""
    changes = [Change(JOB, JobState(level=n), (decision(JOB, n),)) for n in range(first, last + 1)]
    await asyncio.gather(*(states.apply([change]) for change in changes))


async def test_old_rows_go_and_the_chain_still_verifies(
    client: Client, shared: SharedRedis, journal: RedisJournal
) -> None:
    states = await leading(client, shared, rows=50)
    stream = shared.keys.journal(JOB)
    for n in range(10):
        await write(states, 100 * n + 1, 100 * n + 100)
        assert await client.xlen(stream) < 50 + 12 + 100
        assert journal.verify() == []
    assert [row.slot - NOW for row in journal.decisions(JOB, limit=50)] == list(range(1000, 950, -1))
    assert await client.hget(shared.keys.journal_base, JOB) is not None
    states = await leading(client, shared, rows=50)  # a new leader goes on from there
    await write(states, 1001, 1400)
    assert await client.xlen(stream) < 50 + 12 + 100
    assert journal.verify(JOB) == []


async def test_an_outcome_stays_while_its_settlement_is_not_acknowledged(
    client: Client, shared: SharedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever leads next needs it, if the settlement was lost on its way."""
    states, ended = await leading(client, shared), execution(JOB, 1)
    await states.apply([Change(JOB, JobState(runs=(ended.run,)))])
    await client.hset(shared.keys.outcomes, ended.run.id, '{"status":"ok"}')
    lost = asyncio.Event()

    async def on_its_way(*_words: object) -> object:
        await lost.wait()
        raise TimeoutError

    async with shared.client() as other:
        dispatch = RedisDispatch(other, shared.keys, SystemClock(), "a")
        dispatch.lead("me")
        monkeypatch.setattr(client, "evalsha", on_its_way)
        settling = asyncio.create_task(states.apply([Change(JOB, JobState(), execution=ended)]))
        await asyncio.sleep(0)
        assert states.all()[JOB].runs == ()
        for _ in range(2):
            assert states.open_runs() == {ended.run.id}
            await Collector(dispatch, SystemClock(), lambda _event: None, states.open_runs).tick()
            assert await dispatch.outcomes() == [ended.run.id]
            lost.set()
            with pytest.raises(StateWriteFailed):
                await settling


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("cut the middle", "rows 5 to 5 are missing"),
        ("cut the end", "the chain ends at row 9"),
        ("cut the beginning", "rows 1 to 3 are missing"),
        ("forget all", "the chain ends at row 0"),
        ("edit", "row 5 was edited"),
        ("move in time", "row 5 is filed under another time"),
        ("garble the head", "cannot be read"),
        ("add one", "the chain ends at row 11"),
    ],
)
async def test_a_journal_that_was_tampered_with_is_found_out(
    client: Client, shared: SharedRedis, journal: RedisJournal, harm: str, found: str
) -> None:
    await write(await leading(client, shared), 1, 10)
    stream = shared.keys.journal(JOB)
    rows = await client.xrange(stream)
    if harm == "garble the head":
        await client.hset(shared.keys.journal_heads, JOB, "x")
    elif harm == "forget all":
        await client.delete(stream)
    elif harm == "add one":
        await client.xadd(stream, rows[9][1], id="11-0")
    elif harm.startswith("cut"):
        gone = {"cut the middle": rows[4:5], "cut the end": rows[9:], "cut the beginning": rows[:3]}[harm]
        await client.xdel(stream, *(id for id, _ in gone))
    else:
        await client.delete(stream)
        changed = {"body": rows[4][1]["body"].replace("due", "dux")} if harm == "edit" else {"at": "7"}
        for n, (id, fields) in enumerate(rows):
            await client.xadd(stream, fields | changed if n == 4 else fields, id=id)
    assert any(found in line for line in journal.verify())
    assert any(found in line for line in journal.verify(JOB))


@pytest.mark.parametrize("rows", [50, 600], ids=["one part", "several parts"])
async def test_a_journal_that_is_written_meanwhile_is_no_damaged_one(
    client: Client, shared: SharedRedis, journal: RedisJournal, rows: int
) -> None:
    states = await leading(client, shared, rows=rows)
    await write(states, 1, rows)
    loop = asyncio.get_running_loop()
    looking = loop.run_in_executor(None, lambda: [journal.verify() for _ in range(60)])
    written = rows
    while not looking.done():
        await write(states, written + 1, written + 20)
        written += 20
    assert [lines for lines in await looking if lines] == []
    assert written > 2 * rows  # so that rows went meanwhile
    assert journal.verify() == []


async def test_rows_of_a_job_that_is_gone_run_out(client: Client, shared: SharedRedis, journal: RedisJournal) -> None:
    states = await leading(client, shared)
    stream = shared.keys.journal(JOB)
    await write(states, 1, 3)
    await states.apply([Change(JOB, None, notes=(Note("removed", NOW, JOB),))])
    assert GONE_FOR - 60_000 < await client.pttl(stream) <= GONE_FOR
    assert journal.verify() == []
    await write(states, 4, 4)  # it is back in time
    assert await client.pttl(stream) == -1
    assert len(journal.decisions(JOB)) == 4
    await states.apply([Change(JOB, None)])
    await client.delete(stream)  # as if they had run out
    assert journal.verify() == []
    states = await leading(client, shared)
    await write(states, 5, 6)
    assert [row.slot - NOW for row in journal.decisions(JOB)] == [6, 5]
    assert journal.verify() == []


async def test_lists_of_all_jobs_are_bounded(client: Client, shared: SharedRedis) -> None:
    states = await leading(client, shared, rows=50)
    for n in range(11):
        await write(states, 1000 * n, 1000 * n + 999)
    assert 10_000 <= await client.xlen(shared.keys.journal_recent) < 10_200


async def test_what_a_settled_run_leaves_behind_goes_with_it(client: Client, shared: SharedRedis) -> None:
    states = await leading(client, shared)
    await client.hset(shared.keys.outcomes, mapping={"run-1": "{}", "run-2": "{}"})
    await client.set(shared.keys.agent_lease("u:x"), "{}", px=60_000)
    await states.apply([Change(AGENT, JobState(level=1))])
    assert await client.exists(shared.keys.agent_lease("u:x"))
    await states.apply([Change(AGENT, JobState(level=1), execution=execution(AGENT, 1))])
    assert await client.hkeys(shared.keys.outcomes) == ["run-2"]
    assert not await client.exists(shared.keys.agent_lease("u:x"))


async def test_agents_read_as_the_original_writes_them(client: Client, shared: SharedRedis) -> None:
    states = await leading(client, shared)
    agents, schedule = f"{shared.keys.prefix}:agents", f"{shared.keys.prefix}:agent_schedule"
    await states.apply([Change(AGENT, JobState(level=1, slot=NOW + 5)), Change(JOB, JobState())])
    assert await client.hgetall(agents) == {"u:x": '{"level": 1}'}
    assert await client.zscore(schedule, "u:x") == NOW + 5
    await states.apply([Change(AGENT, JobState(level=2, pause=Pause(NOW)))])
    assert await client.hgetall(agents) == {"u:x": '{"level": 2}'}
    assert await client.zcard(schedule) == 0
    await states.apply([Change(AGENT, None)])
    assert await client.exists(agents, schedule) == 0


@pytest.mark.parametrize(
    "text",
    [
        "junk",
        "[]",
        '{"runs": 7}',
        '{"runs": ["x"]}',
        '{"upcoming": [1e999, 1]}',
        '{"upcoming": ["1"]}',
        '{"level": "x"}',
        '{"slot": 10000000000000000000000}',
        "[" * 100_000,
    ],
)
async def test_a_state_that_cannot_be_read_is_named_and_left_alone(
    client: Client, shared: SharedRedis, text: str
) -> None:
    await client.hset(shared.keys.states, mapping={JOB: text, "other": "{}"})
    states = await leading(client, shared)
    assert states.all() == {"other": JobState()}
    assert states.harmed.keys() == {JOB}
    assert states.harmed[JOB].startswith(f"the field {JOB!r} of {shared.keys.states} cannot be read: ")
    await states.apply([Change("other", JobState(level=1))])
    assert await client.hget(shared.keys.states, JOB) == text
    await states.apply([Change(JOB, JobState(level=2))])
    assert states.harmed == {}


@pytest.mark.parametrize("which", ["journal_heads", "journal_base"])
async def test_a_chain_that_cannot_be_continued_bars_its_job(client: Client, shared: SharedRedis, which: str) -> None:
    first = await leading(client, shared)
    await first.apply([Change(JOB, JobState(level=1)), Change("other", JobState(level=1))])
    await client.hset(getattr(shared.keys, which), JOB, "junk")
    states = await leading(client, shared)
    assert states.all().keys() == {"other"}
    assert states.barred == states.harmed.keys() == {JOB}


async def test_a_chain_of_no_job_that_cannot_be_read_is_named(client: Client, shared: SharedRedis) -> None:
    """Nothing could be held back for it: the program's own notes go there."""
    await client.hset(shared.keys.journal_heads, "", "junk")
    with pytest.raises(StateUnreadable, match=f"the field '' of {shared.keys.journal_heads} cannot be read"):
        await leading(client, shared)


@pytest.mark.parametrize("text", ["abc", "-1", "1.0", "007", "1e3", "99999999999999999999"])
async def test_a_count_of_writes_that_is_none_is_named_with_the_way_out(
    client: Client, shared: SharedRedis, text: str
) -> None:
    states = await leading(client, shared)
    await states.apply([Change(JOB, JobState(level=1))])
    await client.hset(shared.keys.meta, "writes", text)
    with pytest.raises(StoreDown, match=f"field writes of {shared.keys.meta} holds '{text}'") as caught:
        await RedisStates(client, shared.keys, FixedClock()).load()
    assert f"HSET {shared.keys.meta} writes $(date" in str(caught.value)
    await client.hset(shared.keys.meta, "writes", int(time.time()))
    again = await leading(client, shared)
    await again.apply([Change(JOB, JobState(level=2))])
    assert (await leading(client, shared)).all() == {JOB: JobState(level=2)}


async def test_many_states_are_read_in_parts(client: Client, shared: SharedRedis) -> None:
    states = await leading(client, shared)
    await states.apply([Change(f"j/{n}", JobState(level=n + 1)) for n in range(3_000)])
    again = await leading(client, shared)
    assert again.all() == states.all()
    assert len(again.all()) == 3_000


async def test_reading_many_states_keeps_nobody_waiting(client: Client, shared: SharedRedis) -> None:
    """The lock is renewed on the same loop. Counted in the processor's time: others may be busy beside."""
    states = await leading(client, shared)
    for n in range(10):
        await states.apply([Change(f"j/{n}/{m}", busy_state()) for m in range(1_000)])
    waits: list[float] = []

    async def watch() -> None:
        while True:
            began = time.thread_time()
            await asyncio.sleep(0)
            waits.append(time.thread_time() - began)

    gc.collect()
    gc.freeze()  # as the daemon does: looking through all that this test run has in memory takes longer than a state
    try:
        watching = asyncio.ensure_future(watch())
        await states.load()
        for _ in range(3):  # it is seen to the end
            await asyncio.sleep(0)
        watching.cancel()
    finally:
        gc.unfreeze()
    assert max(waits) < 0.1
    assert len(states.all()) == 10_000


async def test_a_follower_sees_what_changed(client: Client, shared: SharedRedis) -> None:
    states, follower = await leading(client, shared), RedisStates(client, shared.keys, FixedClock())
    await states.apply([Change("j/1", JobState(level=1)), Change("j/2", JobState(level=1))])
    assert await follower.refresh()
    await states.apply([Change("j/1", JobState(level=2)), Change("j/2", None), Change("j/3", JobState())])
    assert follower.all() == {"j/1": JobState(level=1), "j/2": JobState(level=1)}
    assert await follower.refresh()
    assert follower.all() == states.all() == {"j/1": JobState(level=2), "j/3": JobState()}
    assert not await follower.refresh()


async def test_a_look_that_ends_after_the_election_changes_nothing(client: Client, shared: SharedRedis) -> None:
    states, follower = await leading(client, shared), RedisStates(client, shared.keys, FixedClock())
    await states.apply([Change("j/1", JobState(level=1))])

    async def elected() -> bool:
        await follower.load()
        follower.lead("me")
        await follower.apply([Change("j/1", JobState(level=2))])
        return True

    assert not await follower.refresh(elected)
    assert follower.all() == {"j/1": JobState(level=2)}
    await follower.apply([Change("j/1", JobState(level=3))])


async def test_a_look_at_a_store_that_was_emptied_is_not_believed(client: Client, shared: SharedRedis) -> None:
    states, follower = await leading(client, shared), RedisStates(client, shared.keys, FixedClock())
    await states.apply([Change("j/1", JobState(level=1))])
    assert await follower.refresh()
    await client.delete(shared.keys.states, shared.keys.meta)

    async def emptied() -> bool:
        return False

    assert not await follower.refresh(emptied)
    assert follower.all() == {"j/1": JobState(level=1)}


async def test_a_run_is_found_by_its_name_when_it_is_no_longer_recent(
    client: Client, shared: SharedRedis, journal: RedisJournal
) -> None:
    states = await leading(client, shared)
    await states.apply([Change(JOB, JobState(), execution=execution(JOB, 1))])
    await client.delete(shared.keys.journal_recent)
    assert journal.execution("run-1") == execution(JOB, 1)
    assert journal.execution("run-2") is None
    assert journal.execution("") is None
