"""A disk that refuses for a while makes the engine forget no job: not a new one, not a changed one, none at all."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from tests.support.builders import NOON, cadence
from tests.support.world import FailingStates, SlowStates, World
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.decision import Note, Reason
from vmsh_scheduler.domain.job import Job, Overlap
from vmsh_scheduler.domain.trigger import HOUR, SECOND, Interval, Millis
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.errors import NotFound, StateWriteFailed
from vmsh_scheduler.ports import Change


def world_of(*jobs: Job) -> tuple[World, FailingStates]:
    states = FailingStates()
    return World(*jobs, states=states), states


def slower(job: Job, every_s: float) -> Job:
    return replace(job, trigger=Interval(int(every_s * SECOND)), revision="r2")


@pytest.mark.parametrize("command", ["fire", "pause", "resume", "reset"])
async def test_s5_a_refused_command_leaves_its_job_on_the_agenda(command: str) -> None:
    world, states = world_of(cadence(10))
    await world.start()
    await world.tick()
    control = Control(world.engine)
    commands: dict[str, Callable[[], Awaitable[object]]] = {
        "fire": lambda: control.fire("ns/fast", by="me"),
        "pause": lambda: control.pause("ns/fast", until=None, note="", by="me"),
        "resume": lambda: control.resume("ns/fast", by="me"),
        "reset": lambda: control.reset("ns/fast", by="me"),
    }
    states.full = True
    with pytest.raises(StateWriteFailed, match="not done"):
        await commands[command]()
    states.full = False
    await world.go(20 * SECOND)
    assert world.slots() == [NOON, NOON + 10 * SECOND, NOON + 20 * SECOND]


async def test_s5_a_refused_resolve_leaves_its_job_on_the_agenda() -> None:
    world, states = world_of(cadence(10))
    await world.start()
    await world.tick()
    run = world.executor.runs[0]
    await states.apply([Change("ns/fast", world.state()._replace(held=run))])
    states.full = True
    with pytest.raises(StateWriteFailed, match="not done"):
        await Control(world.engine).resolve(run.id, "retry", by="me")
    states.full = False
    await world.go(10 * SECOND)
    assert world.decisions[-1].reason is Reason.HELD
    await Control(world.engine).resolve(run.id, "failed", by="me")
    with pytest.raises(NotFound):
        await Control(world.engine).resolve(run.id, "failed", by="me")


async def test_s5_a_command_nobody_waits_for_any_more_leaves_its_job_on_the_agenda() -> None:
    states = SlowStates()
    world = World(cadence(10), states=states)
    await world.start()
    await world.tick()
    states.gate.clear()
    asked = asyncio.ensure_future(Control(world.engine).reset("ns/fast", by="me"))
    await world.settle()
    asked.cancel()
    await asyncio.wait({asked})
    states.gate.set()
    await world.go(10 * SECOND)
    assert world.slots() == [NOON, NOON + 10 * SECOND]


@pytest.mark.parametrize("known", [True, False])
async def test_s5_a_refused_registration_leaves_what_there_was(known: bool) -> None:
    world, states = world_of(cadence(10))
    await world.start()
    await world.tick()
    job = slower(cadence(10, id="ns/fast" if known else "ns/new"), 3600)
    states.full = True
    assert not await world.engine.put(job, world.state(job.id), Note("x", NOON, job.id))
    assert not await world.engine.drop("ns/fast", Note("x", NOON, "ns/fast"))
    states.full = False
    await world.go(10 * SECOND)
    assert world.slots() == [NOON, NOON + 10 * SECOND]
    assert world.slots("ns/new") == []


async def test_s5_a_job_added_while_the_disk_refuses_runs_when_it_does_not() -> None:
    """Also one that is taken out again meanwhile is not begun."""
    world, states = world_of(cadence(10))
    await world.start()
    await world.tick()
    states.full = True
    new, brief = cadence(10, id="b/new"), cadence(10, id="b/brief")
    await world.engine.sync({**world.jobs, "b/new": new, "b/brief": brief}, "cfg2")
    await world.go(3 * SECOND)
    await world.engine.sync({**world.jobs, "b/new": new}, "cfg3")
    await world.go(2 * SECOND)
    assert world.slots("b/new") == []
    states.full = False
    await world.go(16 * SECOND)
    assert world.slots("b/new") == [NOON, NOON + 10 * SECOND, NOON + 20 * SECOND]
    assert world.slots("b/brief") == []
    assert world.state("b/new").revision == "r1"
    assert world.engine.board.unplanned == {}


async def test_s5_a_job_changed_while_the_disk_refuses_is_planned_anew_when_it_does_not() -> None:
    """A run that ends meanwhile, whose job would otherwise be looked at when the old plan says."""
    world, states = world_of(cadence(3600))
    world.executor.hold = True
    await world.start()
    await world.tick()
    states.full = True
    await world.engine.sync({"ns/fast": slower(world.jobs["ns/fast"], 10)}, "cfg2")
    await world.go(3 * SECOND)
    states.full = False
    world.executor.finish(world.executor.runs[0])
    world.executor.hold = False
    await world.go(17 * SECOND)
    assert world.slots() == [NOON, NOON + 10 * SECOND, NOON + 20 * SECOND]
    assert world.state().revision == "r2"


async def test_s5_a_first_start_on_a_disk_that_refuses_begins_later() -> None:
    world, states = world_of(cadence(10), cadence(3600, id="ns/cold"))
    states.full = True
    await world.start()
    await world.go(2 * SECOND)
    states.full = False
    await world.go(8 * SECOND)
    assert world.slots() == [NOON, NOON + 10 * SECOND]
    assert world.slots("ns/cold") == [NOON]


async def test_s5_lost_states_that_cannot_be_written_down_still_wait_a_period() -> None:
    """Even if the job is changed before they can."""
    world, states = world_of(cadence(10))
    world.clock.move(3 * SECOND)
    states.full = True
    await world.start(lost=True)
    await world.engine.sync({"ns/fast": slower(cadence(10), 20)}, "cfg2")
    states.full = False
    await world.go(17 * SECOND)
    assert world.slots() == []
    assert {decision.reason for decision in world.decisions} == {Reason.STATE_LOST}
    await world.go(20 * SECOND)
    assert len(world.slots()) == 1


@pytest.mark.parametrize(("by", "journaled"), [(-6 * HOUR, 1), (-3 * SECOND, 0)])
async def test_t2_a_clock_set_back_while_the_disk_refuses_freezes_nothing(by: Millis, journaled: int) -> None:
    """The next start comes within one period of the disk's being well again. A small step is made good by then."""
    world, states = world_of(cadence(10))
    await world.start()
    await world.tick()
    world.clock.move(2 * SECOND)
    states.full = True
    world.clock.step(by)
    await world.go(2 * SECOND)
    states.full = False
    await world.go(11 * SECOND)
    assert world.slots() == [NOON, NOON + 10 * SECOND]
    assert [note.details for note in states.journal.notes()] == [{"by_ms": by}] * journaled


async def test_t2_a_clock_set_back_twice_while_the_disk_refuses_is_journaled_once() -> None:
    world, states = world_of(cadence(10))
    await world.start()
    await world.tick()
    states.full = True
    world.clock.step(-2 * HOUR)
    await world.go(2 * SECOND)
    world.clock.step(-4 * HOUR)
    await world.go(2 * SECOND)
    states.full = False
    await world.go(11 * SECOND)
    assert len(world.slots()) == 2
    assert [note.details for note in states.journal.notes()] == [{"by_ms": -6 * HOUR}]


async def test_s5_a_refused_intent_is_tried_again_before_the_long_nap_is_over() -> None:
    """The engine sleeps, thinking that nothing is due, when the refusal comes."""
    states = SlowStates()
    world = World(cadence(3600, crash_exact=True), states=states)
    await world.start()
    states.gate.clear()
    await world.tick()
    world.engine.board.asleep_until = world.clock.wall + 10 * SECOND
    world.engine.wakeup.clear()
    states.refusals = 1
    states.gate.set()
    await world.settle()
    assert world.engine.wakeup.is_set()
    await world.go(SECOND)
    assert world.slots() == [NOON]


async def test_s5_a_job_changed_while_its_intent_waits_is_planned_by_what_came_of_it() -> None:
    states = SlowStates()
    world = World(cadence(3600, crash_exact=True), states=states)
    await world.start()
    states.gate.clear()
    await world.tick()
    await world.engine.sync({"ns/fast": slower(world.jobs["ns/fast"], 10)}, "cfg2")
    await world.go(2 * SECOND)
    states.refusals = 1
    states.gate.set()
    await world.settle()
    assert world.state().runs == ()
    await world.go(10 * SECOND)
    assert world.slots() == [NOON, NOON + 10 * SECOND]
    assert (world.state().started, world.state().succeeded) == (2, 2)


async def test_s5_what_a_person_says_waits_for_what_is_being_written() -> None:
    """A command upon a change that is refused a moment later would bring it back."""
    states = SlowStates()
    world = World(cadence(3600, crash_exact=True), states=states)
    await world.start()
    states.gate.clear()
    await world.tick()
    assert world.state().runs
    said = asyncio.ensure_future(Control(world.engine).pause("ns/fast", until=None, note="", by="me"))
    await world.settle()
    states.refusals = 1
    states.gate.set()
    await said
    assert world.state().pause is not None
    assert world.state().runs == ()


@pytest.mark.parametrize("ends", [1, 2])
async def test_s5_a_refused_outcome_of_one_run_counts_in_no_other(ends: int) -> None:
    """Two runs of one job go on and a third slot waits; what is written next must not take the refused one along."""
    states = SlowStates()
    world = World(cadence(10, overlap=Overlap.ALLOW), states=states, concurrency=2)
    world.executor.hold = True
    await world.start()
    await world.go(20 * SECOND)
    states.gate.clear()
    for run in world.executor.runs[:ends]:
        world.executor.finish(run)
    await world.tick()
    assert len(world.executor.runs) == 2
    states.refusals = 1
    states.gate.set()
    async with asyncio.timeout(30):
        while len(world.finished) < ends:
            await asyncio.sleep(0.01)
            await world.tick()
    assert (world.state().started, world.state().succeeded, len(world.state().runs)) == (3, ends, 3 - ends)


@pytest.mark.parametrize("stays", [True, False])
async def test_s5_a_job_changed_while_its_slot_is_written_down_starts_as_it_is_now(stays: bool) -> None:
    states = SlowStates()
    world = World(cadence(10, misfire_grace=60 * SECOND), cadence(10, id="b/fast"), states=states)
    await world.start()
    await world.tick()
    world.clock.move(30 * SECOND)
    states.gate.clear()
    tick = asyncio.ensure_future(world.engine.tick())
    await world.settle()
    after = {"b/fast": world.jobs["b/fast"]}
    if stays:
        after["ns/fast"] = replace(world.jobs["ns/fast"], action=Command(("new",)), revision="r2")
    await world.engine.sync(after, "cfg2")
    states.gate.set()
    await tick
    await world.go(10 * SECOND)
    assert len(world.slots("b/fast")) == 3
    commands = [job.action for job in world.executor.jobs if job.id == "ns/fast"]
    assert commands == [Command(("true",))] + [Command(("new",))] * (2 * stays)
    assert world.engine.board.waiting == {}
