"""R2, R3, G3, L1, L2: no descriptors left, signals by the thousand, daemons and ticks by the dozen."""

import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.faults import Site, descriptors, site
from tests.support.ledger import differences, gaps, violations
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.trigger import SECOND

HUPS = 2_000
DAEMONS = 20
TICKS = 20
STARVED_SLOTS = 3


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def starve(daemon: Daemon) -> None:
    """Not one descriptor more than it has now."""
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (descriptors(daemon.pid), hard))


def feed(daemon: Daemon) -> None:
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))


def test_r3_without_descriptors_starts_are_tried_again_and_count_for_nothing(place: Site) -> None:
    recorded, piped = place.work("recorded"), place.work("piped", "crash_exact: false")
    place.configure(recorded, piped)
    daemon = place.place.daemon().ready()
    daemon.wait_until(lambda: place.starts(recorded) and place.starts(piped), "first runs")
    starve(daemon)
    before = place.entries()
    began = time.time()
    log = max((place.place.state.parent).glob("*.wal"))
    daemon.wait_until(
        lambda: log.read_text().count('"never_began"') >= 2 * STARVED_SLOTS and time.time() - began > STARVED_SLOTS,
        "refused starts in the log of changes, which needs no descriptor",
    )
    assert [e for e in place.entries()[len(before) :] if e.slot > began * SECOND + SECOND] == []
    feed(daemon)
    again = time.monotonic()
    daemon.wait_until(
        lambda: all(place.starts(cadence)[-1].slot > began * SECOND for cadence in (recorded, piped)), "runs again"
    )
    assert time.monotonic() - again <= 3.0
    daemon.wait_until(lambda: daemon.get("/health").json["status"] == "healthy", "healthy")
    daemon.stop()
    books = place.books()
    assert {e.outcome.status for e in books.executions} == {Status.OK}, "counted against the job"
    assert violations(place.entries()) == []
    assert differences(place.entries(), books) == []
    assert gaps(books, {recorded.job: SECOND, piped.job: SECOND}) == []


def test_g3_two_thousand_hups_and_a_term(place: Site) -> None:
    cadence = place.work("quick")
    place.configure(cadence)
    daemon = place.place.daemon().ready()
    began = time.monotonic()
    for number in range(HUPS):
        daemon.signal(signal.SIGHUP)
        if number % 100 == 0:
            assert daemon.alive
    daemon.wait_until(lambda: len(daemon.lines("namespaces config loaded")) >= 2, "a reload")
    seconds = time.monotonic() - began
    daemon.signal(signal.SIGHUP)
    daemon.stop()
    reloads = len(daemon.lines("namespaces config loaded")) - 1
    assert reloads <= seconds + 2, "more than one a second"
    assert violations(place.entries()) == []
    assert gaps(place.books(), {cadence.job: SECOND}) == []


def test_g3_hups_do_not_cover_a_term(place: Site) -> None:
    """The storm goes on until the daemon is gone."""
    place.configure(place.work("quick"))
    daemon = place.place.daemon().ready()
    over = threading.Event()

    def storm() -> None:
        while not over.is_set() and daemon.process.returncode is None:
            daemon.signal(signal.SIGHUP)

    thread = threading.Thread(target=storm)
    thread.start()
    try:
        daemon.wait_until(lambda: len(daemon.lines("namespaces config loaded")) >= 2, "a reload")
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began <= 5
    finally:
        over.set()
        thread.join()


def test_l1_of_twenty_daemons_one_wins(place: Site) -> None:
    cadence = place.work("quick")
    place.configure(cadence)
    daemons = [place.place.daemon() for _ in range(DAEMONS)]
    daemons[0].wait_until(lambda: sum(daemon.alive for daemon in daemons) == 1, "one left")
    (winner,) = (daemon for daemon in daemons if daemon.alive)
    winner.ready()
    for loser in daemons:
        if loser is not winner:
            assert loser.wait() == os.EX_TEMPFAIL
            assert f"pid {winner.pid}" in loser.text()
            assert "Traceback" not in loser.text()
    winner.wait_until(lambda: len(place.starts(cadence)) >= 2, "runs")
    winner.stop()
    assert violations(place.entries()) == []
    assert len({entry.fence for entry in place.entries()}) == 1


def test_l2_twenty_ticks_beside_a_daemon_do_nothing(place: Site) -> None:
    cadence = place.work("quick")
    place.configure(cadence)
    daemon = place.place.daemon().ready()
    with ThreadPoolExecutor(4) as pool:
        ticks = list(pool.map(lambda _: place.place.cli("tick"), range(TICKS)))
    for done in ticks:
        assert done.code == os.EX_TEMPFAIL, done.err
        assert "nothing done" in done.err
        assert f"pid {daemon.pid}" in done.err
    assert place.place.cli("tick", "--quiet-if-running").code == 0
    daemon.stop()
    entries = place.entries()
    assert violations(entries) == []
    assert differences(entries, place.books()) == []
    assert gaps(place.books(), {cadence.job: SECOND}) == []
    assert len({entry.fence for entry in entries}) == 1
