"""T2: the wall clock is set after a run has ended and before its outcome is written. In virtual time."""

import asyncio

import pytest

from tests.support.builders import NOON, agent, cadence
from tests.support.virtual_time import run_virtual
from tests.support.world import FailingStates, World
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status
from vmsh_scheduler.domain.trigger import DAY, MINUTE, SECOND, Millis

OK = Outcome(Status.OK)
BAD = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit", "boom")
TOOK = 3 * SECOND


def world_of(*jobs: Job) -> tuple[World, FailingStates]:
    states = FailingStates()
    world = World(*jobs, states=states, concurrency=1)
    world.executor.hold = True
    return world, states


async def ended(world: World, outcome: Outcome) -> None:
    world.clock.move(TOOK)
    world.executor.finish(world.executor.runs[0], outcome)
    await world.settle()
    assert world.finished == []


async def set_clock(world: World, by: Millis) -> None:
    world.clock.step(by)
    await world.tick()


async def behind_a_herd(job: Job, outcome: Outcome, by: Millis) -> World:
    """The outcome waits because another slot is to start first; the step is made good before."""
    world, _ = world_of(job, cadence(3600, id="z/other"))
    await world.start()
    await world.tick()
    await ended(world, outcome)
    await set_clock(world, by)
    return world


async def on_a_full_disk(job: Job, outcome: Outcome, by: Millis) -> World:
    world, states = world_of(job)
    await world.start()
    await world.tick()
    states.full = True
    await ended(world, outcome)
    await set_clock(world, by)
    states.full = False
    world.clock.move(2 * SECOND)
    await world.tick()
    return world


WAITS = pytest.mark.parametrize("wait", [behind_a_herd, on_a_full_disk])
JOBS = pytest.mark.parametrize("job", [cadence(10), agent(10, id="ns/fast")], ids=["cadence", "agent"])
OUTCOMES = pytest.mark.parametrize("outcome", [OK, BAD], ids=["ok", "failed"])


@WAITS
@JOBS
@OUTCOMES
def test_t2_a_clock_set_back_before_an_outcome_is_written_freezes_nothing(wait, job, outcome) -> None:  # type: ignore[no-untyped-def]  # parametrized
    async def run() -> None:
        world = await wait(job, outcome, -DAY)
        await asyncio.sleep(2)
        for one in world.executor.runs[1:]:
            world.executor.finish(one)
        world.executor.hold = False
        await world.settle()
        await world.go(MINUTE)
        assert len(world.slots()) > 5
        assert max(world.state().ready_at or 0, world.state().last_finish or 0) <= world.clock.wall

    run_virtual(run())


@WAITS
@pytest.mark.parametrize("by", [DAY, -DAY])
def test_t1_it_is_no_part_of_how_long_the_run_took(wait, by) -> None:  # type: ignore[no-untyped-def]  # parametrized
    async def run() -> None:
        world = await wait(cadence(3600), OK, by)
        await asyncio.sleep(2)
        execution = next(event.execution for event in world.finished if event.execution.run.job_id == "ns/fast")
        assert execution.finished_at - execution.run.started_at == TOOK
        assert execution.finished_at == world.state().last_finish == NOON + TOOK + by
        assert world.state().mean_ms == TOOK

    run_virtual(run())
