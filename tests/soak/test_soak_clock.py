"""T1, T8 and the reference model at full figures."""

import time
from collections.abc import Callable

from tests.support.builders import agent
from tests.support.wandering import strays, wander
from tests.support.world import World
from tests.unit.test_engine_model import held_against_the_model
from vmsh_scheduler.domain.trigger import DAY

Record = Callable[[str, object], None]


async def test_t1_a_month_for_25000_agents(record_property: Record) -> None:
    """Deciding is arithmetic: 2,592,000 slots of each agent cost what one costs."""
    agents = [agent(1, id=f"_agents/u/{n}") for n in range(25_000)]
    world = World(*agents, concurrency=1)
    world.executor.hold = True
    await world.start()
    await world.tick()
    world.clock.step(30 * DAY)
    began = time.process_time()
    await world.engine.tick()
    took = time.process_time() - began
    starts = len(world.executor.runs)
    record_property("T1", f"25,000 agents every second, +30 d: {took:.2f} s CPU, {starts} starts with 1 permit")
    assert took <= 1.0 * 3  # the machine may be busy; the figure is what is published
    assert starts <= 2


async def test_t8_100000_slots(record_property: Record) -> None:
    lost = 0
    for seed in range(10):
        lost += strays((await wander(10_000, seed)).slots())
    record_property("T8", f"100,000 slots under 500 ppm and +-50 ms: {lost} lost, twice or off the grid")
    assert lost == 0


def test_the_engine_against_the_model_at_length(record_property: Record) -> None:
    examples, steps = 3_000, 60
    held_against_the_model(examples, steps, shrink=True)
    record_property("model", f"{examples} histories of {steps} steps: no difference")
