"""Grids never drift, and labels only rise."""

from hypothesis import given
from hypothesis import strategies as st

from tests.support.builders import NOON
from vmsh_scheduler.domain.trigger import DAY, Interval, Manual, Next, Since, stable_phase

EVERY = 10_000
GRID = Interval(EVERY)


def test_first_sight_is_due_at_once_under_the_newest_passed_label() -> None:
    assert GRID.first(NOON + 3_000) == Next(NOON, NOON)


def test_following_is_the_next_grid_point_after_now() -> None:
    assert GRID.following(NOON, NOON + 3_000) == Next(NOON + EVERY, NOON + EVERY)
    assert GRID.following(NOON, NOON + 25_000) == Next(NOON + 30_000, NOON + 30_000)


def test_behind_the_newest_slot_elapsed_time_paces_and_labels_rise() -> None:
    hour_back = NOON - 3_600_000
    assert GRID.following(NOON, hour_back) == Next(NOON + EVERY, hour_back + EVERY)


def test_passed_counts_by_arithmetic_over_years() -> None:
    passed = GRID.passed(Next(NOON, NOON), NOON + 3650 * DAY)
    assert passed is not None
    assert passed.count == 3650 * DAY // EVERY + 1
    assert passed.newest == NOON + 3650 * DAY


def test_nothing_passed_before_it_is_due() -> None:
    assert GRID.passed(Next(NOON, NOON), NOON - 1) is None


def test_fixed_delay_counts_from_the_end() -> None:
    delay = Interval(EVERY, Since.FINISH)
    assert delay.first(NOON) == Next(NOON, NOON)
    assert delay.following(NOON, NOON + 3_333) == Next(NOON + 13_333, NOON + 13_333)
    passed = delay.passed(Next(NOON, NOON), NOON + DAY)
    assert passed is not None
    assert passed.count == 1


def test_manual_is_never_due() -> None:
    manual = Manual()
    assert manual.first(NOON) is manual.following(None, NOON) is manual.after(NOON) is None
    assert manual.passed(Next(NOON, NOON), NOON) is None


@given(st.integers(1, DAY), st.integers(0, DAY), st.integers(NOON - 10 * DAY, NOON + 10 * DAY))
def test_grid_slots_share_one_remainder(every: int, phase: int, now: int) -> None:
    grid = Interval(every, phase=phase)
    first, following = grid.first(now), grid.following(None, now)
    assert first.slot <= now < following.slot
    assert following.slot - first.slot == every
    assert (first.slot - phase) % every == 0


@given(st.text(min_size=1), st.integers(1, DAY))
def test_phase_is_stable_and_in_range(job_id: str, splay: int) -> None:
    try:
        job_id.encode()
    except UnicodeEncodeError:
        return
    assert stable_phase(job_id, splay) == stable_phase(job_id, splay)
    assert 0 <= stable_phase(job_id, splay) < splay


def test_no_splay_means_the_epoch_grid() -> None:
    assert stable_phase("ns/fast", 0) == 0


def test_splay_spreads() -> None:
    phases = {stable_phase(f"ns{i}/fast", 60_000) // 6_000 for i in range(200)}
    assert phases == set(range(10))


def test_after_steps_one_period() -> None:
    assert GRID.after(NOON) == Next(NOON + EVERY, NOON + EVERY)
