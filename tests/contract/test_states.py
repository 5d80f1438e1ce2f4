"""ports.States: what both twins promise, and what only the one on disk does across a restart."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contract.world import NOW, FixedClock, busy_state, decision, execution
from tests.support.redis_keys import SharedRedis
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change, Journal, States
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.load import Condition
from vmsh_scheduler.stores.local.store import LocalStore, open_store
from vmsh_scheduler.stores.memory import MemoryStates
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.journal import RedisJournal
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.states import RedisStates

Flush = Callable[[], object]


@pytest.fixture(params=["memory", "local", "redis"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[States, Journal, Flush]]:
    if request.param == "memory":
        memory = MemoryStates()
        yield memory, memory.journal, lambda: True
        return
    if request.param == "redis":
        shared: SharedRedis = request.getfixturevalue("shared_redis")
        async with shared.client() as client:
            with shared.reader() as reader:
                yield await leading(client, shared.keys), RedisJournal(reader, shared.keys), lambda: True
        return
    store = open_store(tmp_path / "state" / "scheduler.json", FixedClock())
    yield store.states, store.journal, lambda: caught_up(store)
    await store.close()


async def leading(client: Client, keys: Keys, **options: Any) -> RedisStates:
    """States of whoever holds the lock now."""
    await client.set(keys.leader_lock, "me", px=60_000)
    states = RedisStates(client, keys, FixedClock(), **options)
    await states.load()
    states.lead("me")
    return states


def caught_up(store: LocalStore) -> bool:
    store.journal.reached(store.states.synced)
    return store.journal.flush()


async def test_a_change_is_seen_at_once_and_replaced_by_the_next(stores: tuple[States, Journal, Flush]) -> None:
    states, _, _ = stores
    assert states.get("dao:x/fast") is None
    await states.apply([Change("dao:x/fast", JobState(level=1)), Change("_agents/a", busy_state())])
    await states.apply([Change("dao:x/fast", JobState(level=2))], durable=False)
    assert states.get("dao:x/fast") == JobState(level=2)
    assert states.all() == {"dao:x/fast": JobState(level=2), "_agents/a": busy_state()}


async def test_a_change_without_a_state_drops_the_job(stores: tuple[States, Journal, Flush]) -> None:
    states, _, _ = stores
    await states.apply([Change("a/b", JobState(level=1))])
    await states.apply([Change("a/b", None), Change("never/there", None)])
    assert states.all() == {}


async def test_the_view_of_all_states_stands_still(stores: tuple[States, Journal, Flush]) -> None:
    states, _, _ = stores
    await states.apply([Change("a/b", JobState(level=1))])
    view = states.all()
    await states.apply([Change("c/d", JobState(level=1))])
    assert set(view) == {"a/b"}


async def test_no_changes_are_no_change(stores: tuple[States, Journal, Flush]) -> None:
    states, _, _ = stores
    await states.apply([])
    assert states.all() == {}


async def test_the_journal_gives_back_what_was_applied_newest_first(stores: tuple[States, Journal, Flush]) -> None:
    states, journal, flush = stores
    for n in range(1, 4):
        change = Change(
            "a/b", JobState(started=n), (decision("a/b", n),), execution("a/b", n), (Note("resume", NOW + n),)
        )
        await states.apply([change, Change("c/d", JobState(), (decision("c/d", n),))])
    assert flush()
    assert journal.decisions("a/b") == [decision("a/b", n) for n in (3, 2, 1)]
    assert [row.slot for row in journal.decisions(limit=3)] == [decision("", n).slot for n in (3, 3, 2)]
    assert journal.decisions("c/d", before=decision("", 3).at, limit=1) == [decision("c/d", 2)]
    assert journal.executions("a/b", limit=2) == [execution("a/b", 3), execution("a/b", 2)]
    assert journal.executions("c/d") == []
    assert journal.execution("run-2") == execution("a/b", 2)
    assert journal.execution("run-9") is None
    assert [note.at for note in journal.notes(limit=2)] == [NOW + 3, NOW + 2]
    assert journal.verify() == []
    assert journal.verify("a/b") == []


async def test_of_equal_instants_the_later_row_comes_first(stores: tuple[States, Journal, Flush]) -> None:
    states, journal, flush = stores
    rows = tuple(decision("a/b", 1, slot=slot) for slot in (10, 20, 30))
    await states.apply([Change("a/b", JobState(), rows)])
    assert flush()
    assert journal.decisions("a/b") == list(reversed(rows))


async def test_values_json_cannot_say_break_nothing(stores: tuple[States, Journal, Flush]) -> None:
    states, journal, flush = stores
    odd = JobState(mean_ms=float("nan"), last_error="\ud800 \x00 \n", result={"x": float("inf"), "y": {1: object()}})
    await states.apply([Change("odd/\udfff", odd, (decision("odd/\udfff", 1),), notes=(Note("x", NOW, "odd/\udfff"),))])
    assert flush()
    assert len(journal.decisions()) == 1
    assert journal.verify() == []


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "state" / "scheduler.json"
    first = open_store(path, FixedClock())
    assert first.opened.condition is Condition.FRESH
    await first.states.apply([Change("dao:x/fast", busy_state()), Change("_agents/a", JobState(level=9))])
    await first.states.apply([Change("gone/x", JobState()), Change("gone/x", None)])
    first.states.note_config("abc")
    await first.close()
    second = open_store(path, FixedClock())
    assert second.opened.condition is Condition.LOADED
    assert second.opened.findings == ()
    assert second.opened.config_hash == "abc"
    assert second.states.all() == {"dao:x/fast": busy_state(), "_agents/a": JobState(level=9)}
    await second.close()


async def test_odd_values_survive_a_restart_as_far_as_json_can(tmp_path: Path) -> None:
    path = tmp_path / "state" / "scheduler.json"
    store = open_store(path, FixedClock())
    await store.states.apply(
        [Change("a/b", JobState(mean_ms=float("inf"), last_error="\ud800", result={"x": float("nan")}))]
    )
    await store.close()
    again = open_store(path, FixedClock())
    assert again.states.get("a/b") == JobState(last_error="\ud800", result={"x": None})
    await again.close()


async def test_a_caller_that_gave_up_waiting_does_not_undo_its_change(tmp_path: Path) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    task = asyncio.ensure_future(store.states.apply([Change("a/b", JobState(level=3))]))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    await store.close()
    again = open_store(tmp_path / "scheduler.json", FixedClock())
    assert again.states.get("a/b") == JobState(level=3)
    await again.close()


async def test_a_failed_write_leaves_the_states_as_they_were(tmp_path: Path) -> None:
    full = [False]
    store = open_store(tmp_path / "scheduler.json", FixedClock(), disk=failing_disk(full))
    await store.states.apply([Change("a/b", JobState(level=1))])
    full[0] = True
    failing = [store.states.apply([Change("a/b", JobState(level=n)), Change("c/d", JobState())]) for n in (2, 3)]
    results = await asyncio.gather(*failing, return_exceptions=True)
    assert [type(result) for result in results] == [StateWriteFailed, StateWriteFailed]
    assert store.states.all() == {"a/b": JobState(level=1)}
    full[0] = False
    await store.states.apply([Change("a/b", JobState(level=4))])
    await store.close()
    again = open_store(tmp_path / "scheduler.json", FixedClock())
    assert again.states.all() == {"a/b": JobState(level=4)}
    assert again.opened.findings == ()
    await again.close()


def failing_disk(full: list[bool]) -> Disk:
    def write(fd: int, data: memoryview) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)

    return Disk(write=write)
