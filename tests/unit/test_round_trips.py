"""A store that is far away is not asked one thing after the other where the things do not depend on each other."""

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.builders import cadence
from tests.support.world import ScriptedExecutor, ToldClock, World
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.decision import Verdict
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.handed import Collector
from vmsh_scheduler.engine.round_trips import at_once
from vmsh_scheduler.engine.worker import Worker
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.ports import Change, Claim, Task
from vmsh_scheduler.stores.memory import MemoryStates
from vmsh_scheduler.stores.memory_dispatch import MemoryDispatch

WITHIN_S = 5


class FarDispatch(MemoryDispatch):
    """Answers when as many questions are under way as `expected` says."""

    def __init__(self, clock: ToldClock, expected: int) -> None:
        super().__init__(clock)
        self.meeting = asyncio.Barrier(expected)

    async def claim(self, pool: str, limit: int, lease: Millis) -> Sequence[Claim]:
        await self.meeting.wait()
        return await super().claim(pool, limit, lease)

    async def push(self, tasks: Sequence[Task]) -> None:
        await self.meeting.wait()
        await super().push(tasks)

    async def lost(self) -> Sequence[str]:
        await self.meeting.wait()
        return await super().lost()


class FarStates(MemoryStates):
    """Remembers of how many jobs it was told at a time that a slot is skipped."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped: list[int] = []

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        if any(decision.verdict is not Verdict.FIRED for change in changes for decision in change.decisions):
            self.skipped.append(len(changes))
        await super().apply(changes, durable=durable, soon=soon)


async def test_a_worker_claims_of_both_pools_at_once() -> None:
    clock = ToldClock()
    worker = Worker(
        FarDispatch(clock, 2),
        {Command: ScriptedExecutor()},
        lambda claim: None,
        clock,
        pools={"": 4, "agents": 4},
        lease=9_000,
        observer=lambda event: None,
    )
    async with asyncio.timeout(WITHIN_S):
        await worker.tick()


async def test_the_leader_hands_out_and_looks_for_the_lost_at_once() -> None:
    clock = ToldClock()
    dispatch = FarDispatch(clock, 2)
    dispatch.lead("leader|1|leader")
    collector = Collector(dispatch, clock, lambda event: None)
    handed = asyncio.create_task(collector.hand_over(Task("run-1", "", "", {})))
    await asyncio.sleep(0)
    async with asyncio.timeout(WITHIN_S):
        await collector.tick()
    handed.cancel()


async def test_skipped_slots_of_all_jobs_are_written_at_once() -> None:
    states = FarStates()
    world = World(*(cadence(10, id=f"ns/{n}") for n in range(3)), states=states, concurrency=3)
    world.executor.hold = True
    await world.start()
    await world.go(10_000)
    skipped = [decision for decision in world.decisions if decision.verdict is not Verdict.FIRED]
    assert sorted(decision.job_id for decision in skipped) == ["ns/0", "ns/1", "ns/2"]
    assert states.skipped == [3]
    await world.engine.leave(0)


async def test_a_run_that_ends_while_slots_are_skipped_stays_ended() -> None:
    """Found by chaos: what was decided before its outcome was settled must not be written over it."""
    world = World(*(cadence(10, id=f"ns/{n}") for n in range(3)), concurrency=3)
    world.executor.hold = True
    await world.start()
    await world.tick()
    began = world.executor.runs[:]
    world.clock.move(10_000)
    for run in began:
        world.executor.finish(run)
    await world.engine.tick()
    await world.settle()
    assert len(began) == 3
    assert not {run.id for run in began} & {run.id for job in world.jobs for run in world.engine.board.state(job).runs}
    await world.engine.leave(0)


async def test_what_one_question_raises_is_raised_when_all_are_answered() -> None:
    answered = []

    async def fails() -> None:
        raise StoreDown("it does not answer")

    async def later() -> None:
        await asyncio.sleep(0)
        answered.append(1)

    with pytest.raises(StoreDown):
        await at_once(fails(), later())
    assert answered == [1]
