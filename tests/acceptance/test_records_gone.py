"""The directory of run records is removed, or shut, under a daemon: it is made anew, or everybody is told."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.faults import Site, site
from tests.support.ledger import violations
from vmsh_scheduler.doctor import examine
from vmsh_scheduler.settings_file import load_settings

QUICKLY = "retry: {base: 50ms}"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def row(place: Site) -> dict[str, object]:
    found: dict[str, object] = place.place.cli("status", "--json").ok().json["jobs"][0]
    return found


def running(place: Site, *more: str) -> tuple[Daemon, Path]:
    cadence = place.work("quick", *more)
    place.configure(cadence)
    daemon = place.place.daemon().ready()
    daemon.wait_until(lambda: row(place)["succeeded"], "a first run")
    return daemon, place.place.state.parent / "runs"


def test_runs_that_are_removed_are_made_anew(place: Site) -> None:
    daemon, runs = running(place)
    before = len(place.entries())
    shutil.rmtree(runs)
    daemon.wait_until(lambda: len(place.entries()) >= before + 4, "two runs more")
    assert (row(place)["failed"], daemon.health()["status"]) == (0, "healthy")
    daemon.stop()
    assert violations(place.entries()) == []


def test_s1_after_runs_were_made_anew_a_kill_stops_nothing(place: Site) -> None:
    """The marker that was made with them vouches for the next daemon, which therefore leaves it as it is."""
    daemon, runs = running(place)
    shutil.rmtree(runs)
    before = len(place.entries())
    daemon.wait_until(lambda: len(place.entries()) >= before + 2, "a run more")
    daemon.kill()
    (marker,) = runs.glob(".begun-*")
    said, kept = marker.read_text(), len(place.entries())
    again = place.place.daemon().ready()
    again.wait_until(lambda: len(place.entries()) >= kept + 4, "two runs more")
    again.stop()
    assert marker.read_text() == said
    assert violations(place.entries()) == []


def test_starts_that_runs_refuses_are_failures_that_everybody_sees(place: Site) -> None:
    """The place of runs/ is taken by a file, which not even root can write into: no shortage that passes by itself."""
    daemon, runs = running(place, QUICKLY)
    shutil.rmtree(runs)
    runs.touch()
    daemon.wait_until(lambda: daemon.health()["status"] == "degraded", "degraded")
    refused = row(place)
    assert (refused["condition"], refused["last_status"]) == ("backing_off", "failed")
    assert f"cannot be made in {runs}" in str(refused["last_error"])
    findings = [found for found in place.place.cli("doctor", "--json").json if not found["ok"]]
    assert {"daemon", str(runs)} <= {found["subject"] for found in findings}
    runs.unlink()
    daemon.wait_until(lambda: daemon.health()["status"] == "healthy", "healthy again")
    daemon.stop()
    assert violations(place.entries()) == []


def test_doctor_sees_runs_that_are_shut(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told by access(2), as root may write everywhere."""
    daemon, runs = running(place)
    daemon.stop()
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != runs and may(path, mode))
    settings = load_settings({}, place.place.environ, place.place.root)
    (bad,) = [found for found in examine(settings, os.environ) if not found["ok"]]
    assert (bad["subject"], "cannot write there" in bad["detail"]) == (str(runs), True)
