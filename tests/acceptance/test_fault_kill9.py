"""S1 and G4: the daemon is killed at random moments; what its commands wrote is held against what it wrote down."""

import os
import random
import signal
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, until
from tests.support.faults import Cadence, Site, site
from tests.support.ledger import Entry, differences, gaps, violations
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.stores.local.load import Condition

ROUNDS = 50
SEED = 20261121
WINDOW_S = 0.4
WHOLE_BOOT = 5
"""In every fifth round the moment may lie anywhere in the start, before the daemon is ready too."""
BOOT_S = 0.5
COUNTED = ("recovered", "never_began", "adopted", "unknown")


@dataclass
class Rounds:
    """What was seen while the daemon was killed again and again."""

    site: Site
    dice: random.Random
    recovered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    open_before: int = 0
    said: int = 0

    def play(self, number: int) -> None:
        daemon = self.site.place.daemon()
        anywhere = number % WHOLE_BOOT == 0
        if not anywhere:
            daemon.wait_line("namespaces config loaded")
        # The random moment is the fault itself.
        time.sleep(self.dice.uniform(0, BOOT_S + WINDOW_S if anywhere else WINDOW_S))
        crash(daemon)
        self.count(daemon)
        self.inspect(number)

    def count(self, daemon: Daemon) -> None:
        """A start that said what it recovered must have found exactly the runs that were open."""
        for line in daemon.lines("runs recovered"):
            assert sum(line[name] for name in COUNTED) == self.open_before, line
            self.said += 1
            for name in COUNTED:
                self.recovered[name] += line[name]

    def inspect(self, number: int) -> None:
        opened = self.site.peek()
        whole = opened.condition is Condition.LOADED or (opened.condition is Condition.FRESH and number == 0)
        assert whole, f"round {number}: {opened.condition}: {opened.findings}"
        assert not opened.findings, f"round {number}: {opened.findings}"
        self.open_before = sum(len(state.runs) for state in opened.states.values())


def crash(daemon: Daemon) -> None:
    """SIGKILL to the daemon alone: its commands live on."""
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()


def cadences(site: Site) -> list[Cadence]:
    """Spread over the second by their splay, quick and slow, one that fails its first attempt of every slot."""
    spread = "splay: 1s"
    return [
        site.work("quick"),
        site.work("spread", spread),
        site.work("another", spread),
        site.work("slow", spread, seconds=0.3),
        site.work("slower", "overlap: wait", seconds=0.7),
        site.work("shaky", spread, "retry: {base: 100ms}", failing=1),
    ]


def test_s1_g4_fifty_kills_leave_no_duplicate_no_unknown_no_lost_success(tmp_path: Path) -> None:
    place = site(tmp_path)
    jobs = cadences(place)
    place.configure(*jobs)
    rounds = Rounds(place, random.Random(SEED))
    try:
        for number in range(ROUNDS):
            rounds.play(number)
        finish(place, rounds)
    except AssertionError as error:
        raise AssertionError(f"seed {SEED}: {error}") from error
    finally:
        place.place.close()
    check(place, jobs)
    assert rounds.recovered["unknown"] == 0
    assert rounds.said >= ROUNDS // 4, "the kills hardly ever hit a run: the test does not bite"


def finish(place: Site, rounds: Rounds) -> None:
    """A clean run: everything open is settled, something new is started, and nothing is left at the end."""
    daemon = place.place.daemon().ready()
    before = len(place.entries())
    daemon.wait_until(lambda: len(place.entries()) > before + 6, "new runs")
    daemon.stop()
    rounds.count(daemon)
    rounds.inspect(ROUNDS)
    assert rounds.open_before == 0


def check(place: Site, jobs: list[Cadence]) -> None:
    entries, books = place.entries(), place.books()
    assert violations(entries) == []
    assert differences(entries, books) == []
    assert gaps(books, {cadence.job: SECOND for cadence in jobs}) == []
    assert {entry.job for entry in entries if entry.kind == "end"} == {cadence.job for cadence in jobs}
    verified = place.place.cli("history", "--verify", "--json").ok()
    assert verified.json == {"findings": [], "ok": True}


def test_what_bites_without_run_records_the_same_checks_find_the_kill(tmp_path: Path) -> None:
    """crash_exact off: the orphan goes on, nobody saw its end, and the slot is started again."""
    place = site(tmp_path)
    place.configure(place.work("blind", "crash_exact: false", "on_unknown: retry", every="1h", seconds=1))
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


def test_s1_an_adopted_run_keeps_its_end(tmp_path: Path) -> None:
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
        loaded = second.wait_line("namespaces config loaded")
        waited = datetime.fromisoformat(line["time"]) - datetime.fromisoformat(loaded["time"])
        assert waited < timedelta(seconds=0.5), "the start waits for what it found running"
        assert second.wait_line("anchor success")["flags"] == ["adopted"]
        second.stop()
    finally:
        place.place.close()
    assert [e.kind for e in place.entries()] == ["start", "end"]
    assert differences(place.entries(), place.books()) == []


def test_s1_a_run_that_ended_unseen_is_recovered_and_not_repeated(tmp_path: Path) -> None:
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
