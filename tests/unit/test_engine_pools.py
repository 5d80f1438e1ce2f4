"""Permits of several kinds, turns of several users, and jobs that come and go one by one."""

from dataclasses import replace

from tests.support.builders import NOON, agent, cadence
from tests.support.world import World
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.events import TurnedAway
from vmsh_scheduler.domain.job import Origin
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND, Next
from vmsh_scheduler.engine.bounds import Pool

NOTE = Note("test", NOON)


class TestPools:
    def world(self, **bounds: Pool) -> World:
        world = World(cadence(10), pools=bounds)
        world.executor.hold = True
        return world

    async def test_agents_and_commands_take_each_their_own_permits(self) -> None:
        world = self.world(agents=Pool(1, 10))
        world.jobs |= {f"_agents/u/{n}": replace(agent(5, id=f"_agents/u/{n}"), pool="agents") for n in range(3)}
        await world.start()
        await world.tick()
        assert [run.job_id for run in world.executor.runs] == ["ns/fast", "_agents/u/0"]
        world.executor.finish(world.executor.runs[1])
        await world.tick()
        assert world.executor.runs[-1].job_id == "_agents/u/1"

    async def test_users_take_turns(self) -> None:
        world = self.world(agents=Pool(1, 100))
        many = {f"_agents/a/{n}": replace(agent(5, id=f"_agents/a/{n}"), pool="agents", share="a") for n in range(50)}
        few = {"_agents/b/0": replace(agent(5, id="_agents/b/0"), pool="agents", share="b")}
        world.jobs = many | few
        await world.start()
        await world.tick()
        world.executor.finish(world.executor.runs[0])
        await world.tick()
        assert "_agents/b/0" in [run.job_id for run in world.executor.runs[:3]]

    async def test_when_too_many_wait_the_next_one_is_turned_away_for_3_s(self) -> None:
        world = self.world(agents=Pool(1, 2))
        world.jobs = {f"_agents/u/{n}": replace(agent(60, id=f"_agents/u/{n}"), pool="agents") for n in range(5)}
        await world.start()
        await world.engine.tick()
        away = [event.job.id for event in world.events if isinstance(event, TurnedAway)]
        assert len(away) == 2
        state = world.state(away[0])
        assert (state.level, state.last_error) == (1, "scheduler_queue_full")
        assert state.ready_at == NOON + 3 * SECOND

    async def test_a_job_that_was_removed_while_it_ran_stays_removed(self) -> None:
        """forge-os D17."""
        job = replace(agent(5, id="_agents/u/a"), origin=Origin.API)
        world = self.world()
        world.jobs = {}
        await world.start()
        assert await world.engine.put(job, JobState(revision=job.revision, upcoming=Next(NOON, NOON)), NOTE)
        await world.tick()
        assert await world.engine.drop(job.id, NOTE)
        world.executor.finish(world.executor.runs[0])
        await world.settle()
        assert world.states.get(job.id) is None
        assert len(world.finished) == 1
