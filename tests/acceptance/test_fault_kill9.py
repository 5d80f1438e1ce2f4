"""S1 and G4: the daemon is killed at random moments; what its commands wrote is held against what it wrote down."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.faults import site
from tests.support.kills import COUNTED, UP, crash, killed, unaccounted
from tests.support.ledger import Entry, differences, violations
from vmsh_scheduler.domain.run import Status

ROUNDS = 50
SEED = 20261121


def test_s1_fifty_kills_leave_no_duplicate_no_unknown_no_lost_success(tmp_path: Path) -> None:
    rounds = killed(tmp_path, ROUNDS, SEED)
    assert rounds.recovered["unknown"] == 0
    assert rounds.said >= ROUNDS // 4, "the kills hardly ever hit a run: the test does not bite"


def test_what_bites_without_run_records_the_same_checks_find_the_kill(tmp_path: Path) -> None:
    """crash_exact off: the orphan goes on, nobody saw its end, and the slot is started again."""
    place = site(tmp_path)
    place.configure(place.work("blind", "crash_exact: false", "on_unknown: retry", every="1h", seconds=4))
    try:
        daemon = place.place.daemon()
        daemon.wait_until(lambda: place.entries(), "a run")
        crash(daemon)
        second = place.place.daemon()
        second.wait_until(lambda: [e.kind for e in place.entries()].count("end") >= 2, "two ends")
        second.wait_line("anchor success")
        second.stop()
    finally:
        place.place.close()
    found = violations(place.entries())
    assert any(line.startswith("completed twice") for line in found)
    assert any(line.startswith("started while") for line in found)
    wrong = differences(place.entries(), place.books())
    assert any(line.startswith("unknown") for line in wrong)
    assert any(line.startswith("a lost success") for line in wrong)


def test_what_bites_a_start_that_the_journal_does_not_know_is_found(tmp_path: Path) -> None:
    """And a slot that it says was fired, without a command that saw it."""
    place = site(tmp_path)
    place.configure(place.work("once", every="1h"))
    place.place.cli("tick").ok()
    entries, books = place.entries(), place.books()
    assert unaccounted(entries, books) == []
    assert len(unaccounted((*entries, entry("start", "r9", 9000)), books)) == 2
    assert len(unaccounted((), books)) == 1


def entry(kind: str, run: str, slot: int, attempt: int = 1) -> Entry:
    return Entry(kind, run, f"ns/fast/{slot}", attempt, 1, 7)


ONCE = (entry("start", "r1", 1000), entry("end", "r1", 1000))


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        ((entry("start", "r2", 1000, 2),), "started again after it had succeeded"),
        ((entry("start", "r2", 2000), entry("end", "r2", 1000)), "completed twice"),
        ((entry("start", "r2", 500),), "a slot older than the newest success was started"),
        ((entry("start", "r2", 2000), entry("start", "r3", 2000, 2)), "started while ['r2'] went on"),
        ((entry("start", "r1", 2000),), "run started twice"),
        ((entry("end", "r2", 2000),), "an end without its start"),
        ((entry("start", "r2", 2000), entry("fail", "r2", 2000), entry("start", "r3", 2000)), "the attempt number"),
    ],
)
def test_the_checker_sees_what_is_planted(more: tuple[Entry, ...], complaint: str) -> None:
    assert violations(ONCE) == []
    found = violations((*ONCE, *more))
    assert any(line.startswith(complaint) for line in found), found


def test_l5_an_orphan_delays_no_start_and_keeps_its_end(tmp_path: Path) -> None:
    """Killed in the middle of a run: the next daemon takes it over, starts nothing, and says so."""
    place = site(tmp_path)
    cadence = place.work("long", every="1h", seconds=3)
    place.configure(cadence)
    try:
        daemon = place.place.daemon()
        daemon.wait_until(lambda: place.starts(cadence), "a run")
        crash(daemon)
        second = place.place.daemon()
        line = second.wait_line("runs recovered")
        assert {name: line[name] for name in COUNTED} == dict.fromkeys(COUNTED, 0) | {"adopted": 1}
        loaded = second.wait_line(UP)
        waited = datetime.fromisoformat(line["time"]) - datetime.fromisoformat(loaded["time"])
        assert waited < timedelta(seconds=0.5), "the start waits for what it found running"
        assert second.wait_line("anchor success")["flags"] == ["adopted"]
        second.stop()
    finally:
        place.place.close()
    assert [e.kind for e in place.entries()] == ["start", "end"]
    assert differences(place.entries(), place.books()) == []


def test_g4_a_run_that_ended_unseen_is_recovered_and_not_repeated(tmp_path: Path) -> None:
    place = site(tmp_path)
    cadence = place.work("short", every="1h", seconds=0.3)
    place.configure(cadence)
    try:
        daemon = place.place.daemon()
        daemon.wait_until(lambda: place.starts(cadence), "a run")
        crash(daemon)
        record = place.place.state.parent / "runs" / place.entries()[0].run
        until(lambda: record.read_bytes().count(b"\n") == 2, "the shim's last word")
        second = place.place.daemon()
        line = second.wait_line("runs recovered")
        assert {name: line[name] for name in COUNTED} == dict.fromkeys(COUNTED, 0) | {"recovered": 1}
        second.ready().stop()
    finally:
        place.place.close()
    (execution,) = place.books().executions
    assert (execution.outcome.status, execution.outcome.flags) == (Status.OK, ("recovered",))
    assert [e.kind for e in place.entries()] == ["start", "end"]
