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
    assert forgotten(states, [], NOON + KEPT, most=0) == []
    assert forgotten(states, [], NOON + KEPT + 1, most=0) == ["gone/fast"]
    assert forgotten(states, ["gone/fast"], NOON + KEPT + 1, most=0) == []


def test_c10_so_many_are_kept_however_late_the_clock_says_it_is() -> None:
    states = {f"gone/{n}": JobState(last_finish=LONG_AGO - n) for n in (2, 4, 1, 3)}
    late = NOON + 36_500 * DAY
    assert forgotten(states, [], late, most=4) == []
    assert forgotten(states, [], late, most=2) == ["gone/4", "gone/3"], "those seen last are kept"
    assert forgotten(states, ["gone/1"], late, most=2) == ["gone/4"], "a job that is configured takes nobody's place"


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
    assert (forgotten({"gone/fast": state}, [], NOON, most=0) == []) is kept


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


async def test_g2_a_success_is_not_run_again_after_a_start_with_a_clock_far_ahead() -> None:
    """The job is taken out, somebody starts once with a wrong clock, and the job is put back."""
    world = World(cadence(3600, id="gone/fast"), cadence(3600))
    await world.start()
    await world.tick()
    (slot,) = world.slots("gone/fast")
    world.clock.step(60 * DAY)
    world.boot(2)
    await world.engine.sync({"ns/fast": world.jobs["ns/fast"]}, "cfg2")
    await world.engine.forget_removed()
    world.clock.step(-60 * DAY)
    world.boot(3)
    await world.start()
    await world.tick()
    assert world.slots("gone/fast") == [slot]
