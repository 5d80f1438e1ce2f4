"""`overlap: allow`: a slot that has not begun starts beside the runs of others, and each leaves its one decision."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pytest

from tests.support.builders import NOON, cadence
from tests.support.ledger import slots_of
from tests.support.world import FailingStates, World
from vmsh_scheduler.domain.decision import Reason
from vmsh_scheduler.domain.explain import will
from vmsh_scheduler.domain.job import Job, Overlap
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Recovery, Status, Trace
from vmsh_scheduler.domain.trigger import MINUTE, SECOND, Millis
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.errors import StateWriteFailed, Usage
from vmsh_scheduler.ports import Change

DOWN = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit_1", "down")
NO_PROCESSES = Outcome(Status.FAILED, ErrorClass.UNKNOWN, "resources", "no processes")


class RefusedOnce(FailingStates):
    """Refuses one intent: the next one if `refuses`."""

    refuses = False

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        if self.refuses and durable and not soon:
            self.refuses = False
            raise StateWriteFailed("input/output error")
        await super().apply(changes, durable=durable, soon=soon)


def beside(every_s: float = 10, **policy: Any) -> Job:
    return cadence(every_s, overlap=Overlap.ALLOW, misfire_grace=MINUTE, crash_exact=True, **policy)


async def world_of(job: Job, *, concurrency: int = 2) -> tuple[World, RefusedOnce]:
    """Its runs go on until they are told to end."""
    states = RefusedOnce()
    world = World(job, states=states, concurrency=concurrency)
    world.executor.hold = True
    await world.start()
    return world, states


def decided(world: World) -> Counter[Millis]:
    return Counter((slot - NOON) // SECOND for row in world.decisions for slot in slots_of(row))


def begun(world: World) -> list[Millis]:
    return [(slot - NOON) // SECOND for slot in world.slots()]


@pytest.mark.parametrize("word", ["reset", "pause and resume"])
async def test_g7_a_slot_that_a_person_takes_out_of_the_queue_starts_beside_the_others(word: str) -> None:
    world, _ = await world_of(beside())
    await world.go(20 * SECOND)
    control = Control(world.engine)
    if word == "reset":
        await control.reset("ns/fast", by="me")
    else:
        await control.pause("ns/fast", until=None, note="", by="me")
        await control.resume("ns/fast", by="me")
    await world.go(SECOND)
    world.executor.finish(world.executor.runs[0])
    await world.go(SECOND)
    assert begun(world) == [0, 10, 20]
    await world.go(8 * SECOND)
    world.executor.finish(world.executor.runs[1])
    await world.tick()
    assert begun(world) == [0, 10, 20, 30]
    assert decided(world) == dict.fromkeys([0, 10, 20, 30], 1)


async def test_g7_a_slot_whose_intent_was_refused_is_tried_again_beside_the_others() -> None:
    world, states = await world_of(beside())
    await world.go(20 * SECOND)
    states.refuses = True
    world.executor.finish(world.executor.runs[0])
    await world.go(0)
    assert not states.refuses
    await world.go(2 * SECOND)
    assert begun(world) == [0, 10, 20]
    assert decided(world) == dict.fromkeys([0, 10, 20], 1)


async def test_a_start_that_the_machine_refused_is_tried_again_beside_the_others() -> None:
    world, _ = await world_of(beside())
    await world.go(10 * SECOND)
    world.executor.finish(world.executor.runs[1], NO_PROCESSES)
    await world.go(2 * SECOND)
    assert begun(world) == [0, 10, 10]
    assert world.state().started == 2


async def test_a_failed_slot_waits_out_its_backoff_and_no_longer() -> None:
    world, _ = await world_of(beside())
    await world.go(10 * SECOND)
    world.executor.finish(world.executor.runs[1], DOWN)
    await world.go(4 * SECOND)
    assert begun(world) == [0, 10]
    await world.go(5 * SECOND)
    assert begun(world) == [0, 10, 10]
    world.executor.finish(world.executor.runs[2], DOWN)
    await world.go(2 * SECOND)
    assert begun(world) == [0, 10, 10]
    assert world.decisions[-1].reason is Reason.BACKOFF


async def test_a_slot_that_is_lost_in_a_crash_is_run_again_beside_the_one_that_goes_on() -> None:
    world, _ = await world_of(beside())
    await world.go(10 * SECOND)
    first, second = world.executor.runs
    world.executor.traces = {first.id: Recovery(Trace.RUNNING), second.id: Recovery(Trace.UNKNOWN)}
    world.boot(2)
    await world.start()
    recovering = asyncio.ensure_future(world.engine.recover())
    await world.settle()
    await world.tick()
    assert begun(world) == [0, 10, 0, 10]
    assert not [run for run in world.state().runs if run.id == second.id]
    world.engine.hurry()
    await recovering


async def test_a_trigger_starts_beside_what_runs() -> None:
    world, _ = await world_of(beside(3_600), concurrency=3)
    await world.tick()
    world.clock.move(5 * SECOND)
    assert await Control(world.engine).fire("ns/fast", by="me") == NOON + 5 * SECOND
    await world.tick()
    assert begun(world) == [0, 5]
    assert [row.reason for row in world.decisions] == [Reason.FIRST_SIGHT, Reason.MANUAL]
    world.executor.finish(world.executor.runs[1])
    world.executor.finish(world.executor.runs[0])
    await world.go(SECOND)
    assert (world.state().succeeded, world.state().slot, world.state().newest_slot) == (2, None, NOON + 5 * SECOND)


async def test_a_trigger_beside_runs_does_not_hurry_a_slot_that_waits_for_its_permit() -> None:
    world, _ = await world_of(beside(), concurrency=1)
    await world.go(10 * SECOND)
    with pytest.raises(Usage, match="running already"):
        await Control(world.engine).fire("ns/fast", by="me")


async def test_a_trigger_tries_the_slot_in_backoff_at_once_while_others_run() -> None:
    world, _ = await world_of(beside())
    await world.go(10 * SECOND)
    world.executor.finish(world.executor.runs[1], DOWN)
    await world.go(SECOND)
    assert await Control(world.engine).fire("ns/fast", by="me") == NOON + 10 * SECOND
    await world.tick()
    assert begun(world) == [0, 10, 10]


@pytest.mark.parametrize("overlap", [Overlap.SKIP, Overlap.WAIT])
async def test_nothing_starts_beside_a_run_without_allow(overlap: Overlap) -> None:
    world, _ = await world_of(cadence(10, overlap=overlap, misfire_grace=MINUTE))
    await world.tick()
    await Control(world.engine).reset("ns/fast", by="me")
    await world.go(25 * SECOND)
    assert begun(world) == [0]
    with pytest.raises(Usage, match="running already"):
        await Control(world.engine).fire("ns/fast", by="me")


async def test_why_tells_of_the_run_and_of_no_slot_that_is_done_for() -> None:
    world, _ = await world_of(beside())
    await world.go(10 * SECOND)
    job = world.jobs["ns/fast"]
    assert will(job, world.state(), world.clock.wall).verdict == "running"
    for run in list(world.executor.runs):
        world.executor.finish(run)
    await world.settle()
    told = will(job, world.state(), world.clock.wall)
    assert (told.verdict, told.slot) == ("will", NOON + 20 * SECOND)


@pytest.mark.parametrize("seed", range(40))
async def test_g7_whatever_happens_every_slot_has_one_decision(seed: int) -> None:
    chance = Random(seed)
    world, states = await world_of(beside(), concurrency=chance.choice([1, 2, 3]))
    for _ in range(40):
        await _something(world, states, chance)
        await world.go(chance.choice([1, 3, 10]) * SECOND)
    states.refuses = False
    await Control(world.engine).resume("ns/fast", by="me")
    for _ in range(12):
        for run in _going(world):
            world.executor.finish(run)
        await world.go(10 * SECOND)
    rows = Counter(slot - NOON for row in world.decisions for slot in slots_of(row))
    grid = {slot for slot in rows if slot % (10 * SECOND) == 0}
    assert {slot: rows[slot] for slot in rows if rows[slot] != 1} == {}
    assert grid == set(range(0, max(grid) + 1, 10 * SECOND))
    assert max(begun(world)) > (world.clock.wall - NOON) // SECOND - 40


def _going(world: World) -> list[Any]:
    return [run for run in world.executor.runs if run.id in world.executor._open]


async def _something(world: World, states: RefusedOnce, chance: Random) -> None:
    control = Control(world.engine)
    words: list[Callable[[], Awaitable[object]]] = [
        lambda: control.reset("ns/fast", by="me"),
        lambda: control.pause("ns/fast", until=world.clock.wall + 7 * SECOND, note="", by="me"),
        lambda: control.resume("ns/fast", by="me"),
        lambda: control.fire("ns/fast", by="me"),
    ]
    states.refuses = chance.random() < 0.2
    if chance.random() < 0.4:
        try:
            await chance.choice(words)()
        except (Usage, StateWriteFailed):
            return
    for run in _going(world):
        if chance.random() < 0.3:
            world.executor.finish(run, chance.choice([Outcome(Status.OK), DOWN, NO_PROCESSES]))
