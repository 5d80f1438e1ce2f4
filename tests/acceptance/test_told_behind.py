"""What is told without a daemon when the clock was set back since the last tick: all commands say the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.support.faults import Site, site
from vmsh_scheduler import disk_view, render
from vmsh_scheduler.disk_view import DiskView
from vmsh_scheduler.domain.trigger import DAY, HOUR, MINUTE, SECOND
from vmsh_scheduler.settings_file import load_settings
from vmsh_scheduler.wallclock import wall_clock


@pytest.fixture
def ticked(tmp_path: Path) -> Iterator[Site]:
    """One success and one failure, of now."""
    made = site(tmp_path)
    made.configure(made.work("fine", every="1m"), made.work("poor", every="1h", failing=1))
    made.place.cli("tick")
    yield made
    made.place.close()


def seen_at(now: int, found: Site, monkeypatch: pytest.MonkeyPatch) -> DiskView:
    monkeypatch.setattr(disk_view, "wall_clock", lambda: now)
    return DiskView(load_settings({}, found.place.environ, found.place.root), found.place.environ)


@pytest.mark.parametrize("back", [0, HOUR, 30 * DAY])
def test_t2_status_next_and_why_name_the_same_instant(ticked: Site, monkeypatch: pytest.MonkeyPatch, back: int) -> None:
    now = wall_clock() - back
    view = seen_at(now, ticked, monkeypatch)
    rows = {row["job"]: row for row in view.status()["jobs"]}
    for job, most in (("fine/fast", MINUTE), ("poor/fast", 8 * SECOND)):
        at = rows[job]["next"]
        assert at == view.why(job, None)["at"] == view.next(job, 1)["slots"][0]["at"]
        assert at <= now + most
    assert rows["poor/fast"]["failures_in_a_row"] == 1


def test_what_a_start_would_plan_anew_keeps_what_happened(ticked: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The configuration was changed since: the failures are still those that were counted."""
    ticked.configure(ticked.work("fine", every="2m"), ticked.work("poor", every="2h", failing=1))
    now = wall_clock()
    view = seen_at(now, ticked, monkeypatch)
    rows = {row["job"]: row for row in view.status()["jobs"]}
    assert rows["poor/fast"]["next"] == view.why("poor/fast", None)["at"] == now
    assert (rows["poor/fast"]["failures_in_a_row"], rows["fine/fast"]["succeeded"]) == (1, 1)


def test_t2_a_success_ahead_of_the_clock_is_not_told_as_one_of_long_ago(
    ticked: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = seen_at(wall_clock() - 60 * DAY, ticked, monkeypatch)
    shown = Console(width=300)
    with shown.capture() as captured:
        shown.print(render.status(view.status()))
    assert "59d 23h ahead of the clock" in captured.get() or "60d ahead of the clock" in captured.get()
    assert " ago" not in captured.get()


@pytest.mark.parametrize(
    ("at", "shown"), [(None, "never"), (5_000, "4.0s ago"), (9_900, "0.0s ago"), (11_000, "2.0s ahead of the clock")]
)
def test_when_something_happened(at: int | None, shown: str) -> None:
    """An instance whose clock is ahead a little saw it happen just now."""
    assert render.ago(at, 9_000) == shown
