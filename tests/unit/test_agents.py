"""The rules of agents: when the first cycle after a start is due, and what is shown of a full queue."""

from dataclasses import replace

import pytest

from tests.support.builders import NOON, agent, cadence
from tests.support.world import World
from vmsh_scheduler.domain import agents, plan
from vmsh_scheduler.domain.plan import Step
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import HOUR, MINUTE, SECOND
from vmsh_scheduler.first_tick import FirstTick
from vmsh_scheduler.market.snapshot import valid_address

AGENT = agents.registered({"id": "a", "walletAddress": "kaspa:q", "cycleIntervalMs": HOUR}, "u", NOON)
OPEN = JobState(slot=NOON, ready_at=NOON)


@pytest.mark.parametrize(
    ("due", "first"),
    [(NOON - HOUR, NOON + SECOND), (NOON, NOON + SECOND), (NOON + SECOND, NOON + SECOND), (NOON + HOUR, NOON + HOUR)],
)
def test_nothing_is_due_before_the_first_tick(due: int, first: int) -> None:
    assert agents.first_due(due, NOON, SECOND) == first


class TestFirstTick:
    def world(self) -> tuple[World, FirstTick]:
        world = World(cadence(10))
        world.jobs |= {"_agents/u/a": agent(5), "_agents/u/off": replace(agent(5, id="_agents/u/off"), enabled=False)}
        return world, FirstTick(NOON, MINUTE)

    def ran(self, world: World) -> list[str]:
        return [run.job_id for run in world.executor.runs]

    async def test_agents_wait_for_it_and_cadences_do_not(self) -> None:
        world, first = self.world()
        await world.start()
        await first.await_it(world.engine.board)
        await world.tick()
        assert self.ran(world) == ["ns/fast"]
        world.clock.move(MINUTE - 1)
        await world.tick()
        assert "_agents/u/a" not in self.ran(world)
        world.clock.move(1)
        await world.tick()
        assert "_agents/u/a" in self.ran(world)
        assert "_agents/u/off" not in self.ran(world)

    async def test_asked_for_it_is_now(self) -> None:
        world, first = self.world()
        await world.start()
        await first.await_it(world.engine.board)
        await first.now(world.engine.board)
        await world.tick()
        assert self.ran(world) == ["ns/fast", "_agents/u/a"]


@pytest.mark.parametrize("wallet", ["kaspa:ü", "kaspa:q\n1", "kaspa:" + "q" * 200])
def test_a_wallet_that_no_market_can_be_asked_for_is_refused(wallet: str) -> None:
    assert valid_address(wallet) == ""
    with pytest.raises(agents.Refused, match="wallet_address_invalid"):
        agents.registered({"id": "a", "walletAddress": wallet}, "u", NOON)


def test_the_instant_of_a_full_queue_stays_when_the_agent_is_resumed() -> None:
    away = plan.turned_away(Step(OPEN), NOON).state
    told = {"ok": False, "ts": NOON, "error": "scheduler_queue_full"}
    assert agents.last_dispatch(away) == told
    resumed = agents.resumed(away, NOON + MINUTE)
    assert resumed.ready_at == NOON + MINUTE + SECOND
    assert agents.last_dispatch(resumed) == told
    assert agents.view(AGENT, resumed, pending=False)["updatedAt"] == NOON
