"""C10: how long the state of a job is kept that is configured no more, should it come back."""

import pytest

from tests.support.builders import NOON, cadence, run_of
from tests.support.world import World
from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, SECOND, Next
from vmsh_scheduler.engine.upkeep import KEPT, forgotten

LONG_AGO = NOON - 40 * DAY
RUN: Run = run_of(cadence(), LONG_AGO)


def test_c10_kept_for_thirty_days_to_the_millisecond() -> None:
    assert KEPT == 30 * DAY
    states = {"gone/fast": JobState(first_seen=1, last_start=NOON - 5, last_finish=NOON)}
    assert forgotten(states, [], NOON + KEPT) == []
    assert forgotten(states, [], NOON + KEPT + 1) == ["gone/fast"]
    assert forgotten(states, ["gone/fast"], NOON + KEPT + 1) == []


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (JobState(last_finish=LONG_AGO), False),
        (JobState(last_finish=LONG_AGO, runs=(RUN,)), True),
        (JobState(last_finish=LONG_AGO, held=RUN), True),
        (JobState(last_finish=LONG_AGO, upcoming=Next(NOON + DAY, NOON + DAY)), True),
        (JobState(last_finish=LONG_AGO, upcoming=Next(NOON - 29 * DAY, NOON - 29 * DAY)), True),
        (JobState(last_finish=LONG_AGO, upcoming=Next(NOON - 31 * DAY, NOON - 31 * DAY)), False),
    ],
)
def test_c10_nothing_is_forgotten_that_is_open_or_lies_ahead(state: JobState, kept: bool) -> None:
    assert (forgotten({"gone/fast": state}, [], NOON) == []) is kept


async def test_c10_a_slot_that_succeeded_is_not_run_again_when_its_job_is_back() -> None:
    """Its period is longer than states are kept without a sign of life."""
    slow = cadence(90 * DAY / SECOND, id="slow/fast")
    world = World(slow)
    slot = world.clock.wall = NOON - NOON % (90 * DAY)
    await world.start()
    await world.tick()
    assert world.slots("slow/fast") == [slot]
    world.clock.move(40 * DAY)
    await world.engine.sync({}, "cfg2")
    await world.engine.forget_removed()
    await world.engine.sync(world.jobs, "cfg3")
    await world.tick()
    assert world.slots("slow/fast") == [slot]
    await world.go(50 * DAY)
    assert world.slots("slow/fast") == [slot, slot + 90 * DAY]
