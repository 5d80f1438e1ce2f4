"""G1 to G8 at full figures. Process 1 is tried in a process namespace of its own."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import broken
from tests.support.agents import runs, wake
from tests.support.crew import crew, survive
from tests.support.daemon import COMMAND, Daemon, until
from tests.support.faults import Site, site
from tests.support.ledger import differences, gaps, violations
from tests.support.storms import calm, freeze, reloads, storm, weather
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.trigger import SECOND

Record = Callable[[str, object], None]
AS_ONE = ("unshare", "--pid", "--fork", "--mount-proc")
GRACE_S = 1.0
"""Of every crew."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def test_g1_and_g2_twenty_deaf_commands(tmp_path: Path, record_property: Record) -> None:
    """TERM: all is over within drain + grace + 1 s. A second TERM: within grace + 1 s. No outcome is lost."""
    took: dict[str, list[float]] = {"G1": [], "G2": []}
    for number in range(10):
        row, drain_s = ("G1", 2.0) if number % 2 else ("G2", 300.0)
        place = site(tmp_path / str(number))
        many = crew(place, 20, deaf=True, scheduler=f"drain_ms: {drain_s * SECOND:.0f}\n")
        daemon = place.place.daemon().ready()
        many.wait(daemon)
        daemon.signal(signal.SIGTERM)
        began = time.monotonic()
        if row == "G2":
            daemon.wait_line("draining")
            began = time.monotonic()
            daemon.signal(signal.SIGTERM)
        assert daemon.wait(60) == 1
        took[row].append(time.monotonic() - began)
        assert many.gone()
        outcomes = [execution.outcome for execution in place.books().executions]
        assert [(outcome.status, outcome.code) for outcome in outcomes] == [(Status.FAILED, "cancelled")] * 20
    assert max(took["G1"]) <= 2.0 + GRACE_S + 1
    assert max(took["G2"]) <= GRACE_S + 1
    record_property("G1", f"20 deaf commands, drain 2 s, grace 1 s: over after {max(took['G1']):.2f} s, 0 unknown")
    record_property("G2", f"second TERM: over after {max(took['G2']):.2f} s with a grace of 1 s, 0 unknown")


def test_g3_ten_storms_of_sixty_thousand(tmp_path: Path, record_property: Record) -> None:
    worst = 0.0
    for number in range(10):
        place = site(tmp_path / str(number))
        cadence = place.work("quick")
        place.configure(cadence)
        daemon = place.place.daemon().ready()
        began = time.monotonic()
        storm(daemon, 60_000)
        seconds = time.monotonic() - began
        assert reloads(daemon) <= seconds + 1
        worst = max(worst, reloads(daemon) / max(1.0, seconds))
        calm(place, cadence)
    assert weather("ours", 10_000, 60).well
    naive = [weather("loop", 10_000, 5) for _ in range(3)]
    assert not any(found.well for found in naive)
    hung = sum(not found.ended for found in naive)
    record_property(
        "G3",
        f"10 storms of 60,000 HUP + 1 TERM: 10 clean exits, {worst:.1f} reloads/s (add_signal_handler: {hung}/3 hang)",
    )


def test_g4_a_thousand_adoptions(tmp_path: Path, record_property: Record) -> None:
    rounds, each = 50, 20
    for number in range(rounds):
        place = site(tmp_path / str(number))
        survive(crew(place, each)).stop()
        entries, books = place.entries(), place.books()
        assert violations(entries) == differences(entries, books) == []
        assert [execution.outcome.flags for execution in books.executions] == [("adopted",)] * each
    record_property("G4", f"{rounds} daemons killed over {each} runs each: 1,000 adopted, 0 unknown, 0 second starts")


def process_one(daemon: Daemon) -> int:
    """The daemon's pid as it is seen from here; it is 1 for itself."""
    children = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children")
    (pid,) = daemon.wait_until(lambda: children.read_text().split(), "the namespace's process 1")
    return int(pid)


def zombies(parent: int) -> int:
    """Children of `parent` that have ended and were not reaped."""
    found = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, ppid = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            found += state == "Z" and int(ppid) == parent
    return found


@pytest.mark.needs("pid namespaces")
def test_g5_process_one_reaps_what_a_thousand_jobs_leave(place: Site, record_property: Record) -> None:
    left = {}
    for kind in ("reaps", "never reaps"):
        wake(place.place, 50, 1_000, ("/bin/sh", "-c", "setsid sleep 0.2 > /dev/null 2>&1 & exit 0"))
        place.place.environ["PYTHONPATH"] = str(broken.ROOT)
        place.place.command = (*AS_ONE, *((str(COMMAND),) if kind == "reaps" else broken.command(kind)))
        daemon = place.place.daemon().ready()
        one = process_one(daemon)
        wanted = 1_000 if kind == "reaps" else 50
        daemon.wait_until(lambda wanted=wanted, daemon=daemon: runs(daemon) >= wanted, f"{wanted} runs", 120)
        wake(place.place, 0, 1_000)
        os.kill(one, signal.SIGHUP)
        daemon.wait_until(lambda daemon=daemon: daemon.value("vmsh_agents") == 0, "no more agents")
        deadline = time.monotonic() + 4
        while zombies(one) and time.monotonic() < deadline:
            time.sleep(0.1)
        left[kind] = zombies(one)
        os.kill(one, signal.SIGTERM)
        assert daemon.wait() == 0
    assert left["reaps"] == 0
    assert left["never reaps"] >= 50
    record_property(
        "G5", f"as process 1: 1,000 jobs with an orphan each: 0 zombies (without reaping: {left['never reaps']})"
    )


@pytest.mark.needs("pid namespaces")
def test_g5_process_one_ends_at_any_moment_of_its_start(place: Site, record_property: Record) -> None:
    """From the moment it has a handler; before that, the kernel drops a TERM for process 1."""
    place.configure(place.work("quick"))
    place.place.command = (*AS_ONE, str(COMMAND))
    dice, deaf, took = random.Random(7), [], []
    for _ in range(100):
        daemon = place.place.daemon()
        one = process_one(daemon)
        began = time.monotonic()
        until(lambda one=one: handles(one, signal.SIGTERM), "a handler")
        deaf.append(time.monotonic() - began)
        time.sleep(dice.uniform(0, 1.0))  # the random moment is the fault itself
        os.kill(one, signal.SIGTERM)
        began = time.monotonic()
        assert daemon.wait(10) in (0, 143)
        took.append(time.monotonic() - began)
        place.place.started.remove(daemon)
    assert max(took) <= 2.0
    assert violations(place.entries()) == []
    record_property(
        "G5",
        f"TERM at 100 moments of the start: over after {max(took):.2f} s at most; "
        f"deaf for the first {sorted(deaf)[50] * 1000:.0f} ms (median), while the interpreter loads",
    )


def handles(pid: int, number: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_g6_a_minute_frozen(place: Site, record_property: Record) -> None:
    cadences = [place.work(f"quick{number}") for number in range(10)]
    place.configure(*cadences)
    daemon = place.place.daemon().ready()
    daemon.wait_until(lambda: all(place.starts(cadence) for cadence in cadences), "runs")
    freeze(place, daemon, 60)
    daemon.stop()
    assert violations(place.entries()) == differences(place.entries(), place.books()) == []
    assert gaps(place.books(), {cadence.job: SECOND for cadence in cadences}) == []
    record_property("G6", "SIGSTOP for 60 s, 10 cadences of 1 s: one catch-up each, 0 duplicates, every slot decided")
