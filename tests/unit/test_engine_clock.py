"""T5, T8: a machine that slept, and a clock that is corrected all the time. T1 to T3, T7: test_fault_clock.py."""

import asyncio
from dataclasses import replace

import pytest

from tests.support.builders import NOON, cadence
from tests.support.wandering import strays, wander
from tests.support.world import SlowStates, World
from vmsh_scheduler.domain.decision import Note, Reason, Verdict
from vmsh_scheduler.domain.events import ClockStepped
from vmsh_scheduler.domain.job import Origin
from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, HOUR, MINUTE, SECOND, Interval, Millis, Next


async def test_t5_a_machine_that_slept_catches_up_once() -> None:
    """Elapsed time counts sleep (CLOCK_BOOTTIME), so no step is seen: slots have passed, and one of them runs."""
    world = World(cadence(10))
    await world.start()
    await world.tick()
    world.clock.move(10 * MINUTE)
    await world.go(0)
    assert world.slots() == [NOON, NOON + 10 * MINUTE]
    assert [event for event in world.events if isinstance(event, ClockStepped)] == []
    slept = [(decision.verdict, decision.count) for decision in world.decisions[1:]]
    assert slept == [(Verdict.MISSED, 58), (Verdict.SUPERSEDED, 1), (Verdict.FIRED, 1)]


async def test_t5_a_run_that_was_asleep_is_not_started_beside_itself() -> None:
    world = World(cadence(10))
    world.executor.hold = True
    await world.start()
    await world.tick()
    world.clock.move(10 * MINUTE)
    await world.go(0)
    assert len(world.executor.runs) == 1
    assert world.decisions[-1].reason is Reason.OVERLAP


@pytest.mark.parametrize("by", [HOUR, -HOUR, 40 * DAY])
async def test_t1_a_clock_that_is_set_during_a_run_is_no_part_of_how_long_it_took(by: Millis) -> None:
    world = World(cadence(3600))

    def set_clock(_: Run) -> None:
        world.clock.move(3 * SECOND)
        world.clock.step(by)

    world.clock.move(2 * SECOND)
    world.executor.on_run = set_clock
    await world.start()
    await world.engine.tick()
    await world.settle()
    (finished,) = world.finished
    execution = finished.execution
    assert execution.finished_at - execution.run.started_at == 3 * SECOND
    assert execution.finished_at == world.state().last_finish == world.clock.wall, "what follows counts from the clock"
    assert execution.start_delay == 2 * SECOND
    assert world.state().mean_ms == 3 * SECOND


async def test_t1_a_clock_that_is_set_while_a_plan_is_written_makes_nobody_wait_for_it() -> None:
    """The plan of a reload was made by the clock before."""
    states = SlowStates()
    world = World(cadence(10), states=states)
    await world.start()
    await world.go(20 * SECOND)
    states.gate.clear()
    changed = replace(world.jobs["ns/fast"], trigger=Interval(20 * SECOND), revision="other")
    synced = asyncio.ensure_future(world.engine.sync({"ns/fast": changed}, "other"))
    await world.settle()
    await _set_back(world)
    states.gate.set()
    await synced
    await starts_again(world, within=20 * SECOND)


async def test_t1_a_clock_that_is_set_while_an_agent_is_registered_anew_makes_nobody_wait_for_it() -> None:
    """Its admission was refused before, so that it is owed a plan."""
    states = SlowStates()
    job = replace(cadence(10), origin=Origin.API)
    world = World(job, states=states)
    states.gate.clear()
    states.full = True
    starting = asyncio.ensure_future(world.start())
    await world.settle()
    states.gate.set()
    await starting
    states.full = False
    states.gate.clear()
    now = world.clock.now()
    state = JobState(revision="other", first_seen=now, upcoming=Next(now + SECOND, now + SECOND))
    put = asyncio.ensure_future(
        world.engine.put(replace(job, revision="other"), state, Note("registered", now, job.id))
    )
    await world.settle()
    await _set_back(world)
    states.gate.set()
    assert await put
    await starts_again(world, within=MINUTE)


async def _set_back(world: World) -> None:
    world.clock.step(-HOUR)
    await world.engine.tick()
    await world.settle()


async def starts_again(world: World, *, within: Millis) -> None:
    before = len(world.slots())
    await world.go(within)
    assert len(world.slots()) > before


async def test_t8_a_clock_that_is_corrected_during_a_run_changes_nothing_of_it() -> None:
    world = World(cadence(3600))
    world.executor.on_run = lambda _: world.clock.step(SECOND - 1)
    await world.start()
    await world.engine.tick()
    await world.settle()
    (finished,) = world.finished
    assert finished.execution.run == world.executor.runs[0]


async def test_t8_a_slewed_and_jittery_clock_loses_and_repeats_no_slot() -> None:
    world = await wander(2_000, seed=8)
    assert strays(world.slots()) == 0
    assert [event for event in world.events if isinstance(event, ClockStepped)] == []


async def test_t8_bites_an_interval_that_counts_from_the_last_start() -> None:
    class Drifting(Interval):
        def following(self, newest: Millis | None, now: Millis) -> Next:
            return Next(now + self.every, now + self.every)

    job = cadence(10)
    world = await wander(100, 8, World(replace(job, trigger=Drifting(10 * SECOND))))
    assert strays(world.slots()) > 50
