"""Permits of several kinds, turns of several users, and jobs that come and go one by one."""

from dataclasses import replace
from typing import Any

import pytest

from tests.support.builders import NOON, agent, cadence
from tests.support.world import World
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.events import TurnedAway
from vmsh_scheduler.domain.job import Job, Origin
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


class TestHosts:
    """A slow host leaves permits to the others."""

    def world(self, *jobs: Job, permits: int = 4, capacity: int = 100) -> World:
        world = World(*jobs, pools={"agents": Pool(permits, capacity)})
        world.executor.hold = True
        return world

    def cycles(self, host: str, count: int, **more: Any) -> list[Job]:
        ids = [f"_agents/u/{host}{n}" for n in range(count)]
        return [replace(agent(60, id=id), pool="agents", share="u", host=host, **more) for id in ids]

    def running(self, world: World) -> list[str]:
        return [job.host for job in world.executor.jobs]

    async def test_quick_ones_pass_those_who_wait_for_a_slow_host(self) -> None:
        world = self.world(*self.cycles("slow", 8), *self.cycles("quick", 20))
        await world.start()
        await world.tick()
        assert self.running(world) == ["slow", "slow", "slow", "quick"]
        for _ in range(19):
            world.executor.finish(world.executor.runs[-1])
            await world.tick()
        assert self.running(world) == ["slow"] * 3 + ["quick"] * 20
        assert world.engine.load("agents") == (5, 4)

    async def test_the_slow_ones_go_on_one_by_one_in_their_order(self) -> None:
        world = self.world(*self.cycles("slow", 8), *self.cycles("quick", 1))
        await world.start()
        await world.tick()
        for done in range(5):
            slow = [run for run in world.executor.runs if "slow" in run.job_id]
            world.executor.finish(slow[done])
            await world.tick()
        ids = [run.job_id for run in world.executor.runs if "slow" in run.job_id]
        assert ids == [f"_agents/u/slow{n}" for n in range(8)]

    async def test_a_host_alone_has_all_permits(self) -> None:
        world = self.world(*self.cycles("slow", 8), *self.cycles("quick", 1, enabled=False))
        await world.start()
        await world.tick()
        assert self.running(world) == ["slow"] * 4

    async def test_when_the_other_host_goes_the_rest_is_free(self) -> None:
        slow, (quick,) = self.cycles("slow", 8), self.cycles("quick", 1)
        world = self.world(*slow, quick)
        await world.start()
        await world.tick()
        world.executor.finish(next(run for run in world.executor.runs if run.job_id == quick.id))
        await world.tick()
        assert self.running(world).count("slow") == 3
        assert await world.engine.drop(quick.id, NOTE)
        await world.tick()
        assert self.running(world).count("slow") == 4

    async def test_when_another_host_comes_the_last_permit_is_kept_for_it(self) -> None:
        world = self.world(*self.cycles("slow", 8))
        await world.start()
        await world.tick()
        (quick,) = self.cycles("quick", 1)
        state = JobState(revision=quick.revision, upcoming=Next(NOON + SECOND, NOON + SECOND))
        assert await world.engine.put(quick, state, NOTE)
        world.executor.finish(world.executor.runs[0])
        await world.tick()
        assert self.running(world).count("slow") == 4  # three of them still run
        world.clock.move(SECOND)
        await world.tick()
        assert self.running(world)[-1] == "quick"

    async def test_a_single_permit_goes_to_whoever_is_first(self) -> None:
        world = self.world(*self.cycles("slow", 2), *self.cycles("quick", 1), permits=1)
        await world.start()
        await world.tick()
        assert self.running(world) == ["slow"]
        world.executor.finish(world.executor.runs[0])
        await world.tick()
        assert len(world.executor.runs) == 2

    async def test_those_who_wait_for_a_host_count_for_the_capacity(self) -> None:
        slow, quick = self.cycles("slow", 6), self.cycles("quick", 2)
        world = self.world(*slow[:5], quick[0], capacity=2)
        await world.start()
        await world.tick()
        for late in (slow[5], quick[1]):
            state = JobState(revision=late.revision, upcoming=Next(NOON + SECOND, NOON + SECOND))
            assert await world.engine.put(late, state, NOTE)
        world.executor.finish(next(run for run in world.executor.runs if run.job_id == quick[0].id))
        await world.tick()
        world.clock.move(SECOND)
        await world.tick()
        assert [event.job.id for event in world.events if isinstance(event, TurnedAway)] == [slow[5].id]
        assert world.executor.runs[-1].job_id == quick[1].id

    async def test_one_that_is_removed_while_it_waits_for_its_host_does_not_start(self) -> None:
        slow = self.cycles("slow", 4)
        world = self.world(*slow, *self.cycles("quick", 1))
        await world.start()
        await world.tick()
        assert await world.engine.drop(slow[3].id, NOTE)
        for run in list(world.executor.runs):
            world.executor.finish(run)
        await world.tick()
        assert slow[3].id not in [run.job_id for run in world.executor.runs]

    @pytest.mark.parametrize(("permits", "most"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (64, 48)])
    def test_a_quarter_is_left_and_never_none(self, permits: int, most: int) -> None:
        assert Pool(permits, 1).to_one_host == most


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://Example.test/a", "example.test"),
        ("https://u:secret@example.test:8443/a?b", "example.test:8443"),
        ("http://[::1]:80/", "[::1]:80"),
        ("http://[::1/", ""),
        ("", ""),
    ],
)
def test_the_host_of_a_callback(url: str, host: str) -> None:
    assert Callback(url).host == host
