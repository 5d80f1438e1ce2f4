"""While words of one job wait for the store, others are removed, changed or settled: each is decided as it is now."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from tests.support.builders import NOON, cadence
from tests.support.world import World
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.trigger import HOUR, MINUTE, SECOND, Interval
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.memory import MemoryStates

LATE = cadence(10, id="a/late", misfire_grace=MINUTE)
"""Its slots that passed unseen have words to be written."""
DUE = cadence(60, id="b/job")


class GatedStates(MemoryStates):
    """What changes `job_id` waits until its gate is open."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}

    def shut(self, job_id: str) -> asyncio.Event:
        return self.gates.setdefault(job_id, asyncio.Event())

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        for change in changes:
            if change.job_id in self.gates:
                async with asyncio.timeout(10):  # the test waits for what has to wait for the test
                    await self.gates[change.job_id].wait()
        await super().apply(changes, durable=durable, soon=soon)


async def world_of(*jobs: Job) -> tuple[World, GatedStates]:
    states = GatedStates()
    world = World(*jobs, states=states)
    await world.start()
    await world.tick()
    return world, states


@asynccontextmanager
async def late_words(world: World, states: GatedStates) -> AsyncIterator[None]:
    """All are due; what is done meets the tick while words of `a/late` wait. Then it goes on, and another comes."""
    world.clock.move(MINUTE)
    gate = states.shut("a/late")
    tick = asyncio.ensure_future(world.engine.tick())
    await world.settle()
    assert not tick.done()
    yield
    gate.set()
    await tick
    await world.tick()


async def test_a_job_that_is_removed_while_another_ones_words_wait_is_released_no_more() -> None:
    """It would stand in line for ever, and whatever ends would wait for it."""
    world, states = await world_of(LATE, DUE)
    async with late_words(world, states):
        await world.engine.sync({"a/late": LATE}, "cfg2")
    board = world.engine.board
    assert (board.waiting, len(world.slots("b/job"))) == ({}, 1)
    assert len(world.slots("a/late")) == 2
    async with asyncio.timeout(0.1):
        await board.calm()


async def test_a_job_that_gets_another_command_while_another_ones_words_wait_starts_with_it() -> None:
    world, states = await world_of(LATE, DUE)
    async with late_words(world, states):
        await world.engine.sync({"a/late": LATE, "b/job": replace(DUE, action=Command(("new",)))}, "cfg2")
    commands = [job.action for job in world.executor.jobs if job.id == "b/job"]
    assert commands == [Command(("true",)), Command(("new",))]


async def test_a_job_whose_outcome_is_answered_while_another_ones_words_wait_starts_on_time() -> None:
    busy, exact = cadence(10, id="q/busy"), cadence(10, id="b/exact")
    world, states = await world_of()
    world.executor.hold = True
    await world.engine.sync({"q/busy": busy, "b/exact": exact}, "cfg2")
    await world.tick()
    books = states.shut("b/exact")
    world.executor.finish(next(run for run in world.executor.runs if run.job_id == "b/exact"))
    await world.settle()
    assert world.engine.board.unsure("b/exact")
    world.clock.move(10 * SECOND)
    words = states.shut("q/busy")
    tick = asyncio.ensure_future(world.engine.tick())
    await world.settle()
    books.set()
    await world.settle()
    assert not tick.done()
    words.set()
    await tick
    await world.tick()
    assert len(world.slots("b/exact")) == 2


async def test_a_job_that_is_changed_again_while_its_plan_is_written_is_planned_again() -> None:
    world, states = await world_of(DUE)
    slow, fast = (replace(DUE, trigger=Interval(every), revision=f"every {every}") for every in (HOUR, 10 * SECOND))
    gate = states.shut("b/job")
    slowing = asyncio.ensure_future(world.engine.sync({"b/job": slow}, "cfg2"))
    await world.settle()
    await world.engine.sync({"b/job": fast}, "cfg3")
    assert not slowing.done()
    gate.set()
    await slowing
    await world.go(20 * SECOND)
    assert world.slots("b/job") == [NOON, NOON + 10 * SECOND, NOON + 20 * SECOND]
    assert (world.state("b/job").revision, world.engine.board.unplanned) == (fast.revision, {})


async def test_a_job_that_is_removed_while_its_plan_is_written_is_planned_no_more() -> None:
    world, states = await world_of(LATE, DUE)
    gate = states.shut("b/job")
    slow = replace(DUE, trigger=Interval(HOUR), revision="r2")
    slowing = asyncio.ensure_future(world.engine.sync({"a/late": LATE, "b/job": slow}, "cfg2"))
    await world.settle()
    await world.engine.sync({"a/late": LATE}, "cfg3")
    assert not slowing.done()
    gate.set()
    await slowing
    await world.go(MINUTE)
    assert (len(world.slots("a/late")), len(world.slots("b/job"))) == (7, 1)
    assert world.engine.board.unplanned == {}


async def test_a_release_of_a_job_that_is_no_more_is_withdrawn() -> None:
    world, _ = await world_of(DUE)
    board = world.engine.board
    await board.release(DUE, world.state("b/job"))
    board.jobs = {}
    await board.reschedule("b/job")
    assert board.waiting == {}
    async with asyncio.timeout(0.1):
        await board.calm()
