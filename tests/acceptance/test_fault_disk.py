"""S5: the disk is full (RLIMIT_FSIZE of the running daemon), and has room again (docs/guarantees.md 12).

The limit stands just above the log's size, so that nothing more fits in it; the ledger and the daemon's own log file
are smaller and go on."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.daemon import COMMAND, Daemon, until
from tests.support.faults import Cadence, Site, site
from tests.support.ledger import differences, gaps, violations
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.stores.local.load import Condition

SPARE = 40
"""Less than any line of the log."""
ROOM_FOR_WORDS = 6 << 10
FULL_S = 3.2
"""Three slots of the quick cadence."""
"""Coverage would want to write its own file on the full disk, and complain."""
STEP = 900
"""Bytes; the line that a run ends with is longer."""
ONE_TICK_S = 2.0
"""The retry of a second, and room for a busy machine."""


def logs(place: Site) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(place.place.state.parent.glob("*.wal"))}


def fill(daemon: Daemon, place: Site) -> None:
    size = max(map(len, logs(place).values()))
    _, most = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (size + SPARE, most))


def empty(daemon: Daemon) -> None:
    _, most = resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (most, most))


def grow(daemon: Daemon, place: Site) -> None:
    """Until the log is by far the longest file that is written to."""

    def grown() -> bool:
        others = max(daemon.log.stat().st_size, place.ledger.stat().st_size if place.ledger.exists() else 0)
        return sum(map(len, logs(place).values())) > others + ROOM_FOR_WORDS

    daemon.wait_until(grown, "a log that is longer than its neighbours")


def test_s5_a_full_disk_stops_starts_and_costs_nothing(tmp_path: Path) -> None:
    place = site(tmp_path)
    quick, long = place.work("quick"), place.work("long", seconds=1.5)
    padding = [place.work(f"padding{number}") for number in range(3)]
    place.configure(quick, long, *padding)
    try:
        daemon = place.place.daemon().ready()
        grow(daemon, place)
        # A run that is going on when the disk fills up.
        seen = len(place.starts(long))
        daemon.wait_until(lambda: len(place.starts(long)) > seen, "a long run")
        fill(daemon, place)
        stay_full(daemon, place, long)
        empty(daemon)
        recover(daemon, place, quick)
        daemon.stop()
    finally:
        place.place.close()
    entries = place.entries()
    assert violations(entries) == []
    assert differences(entries, place.books()) == []
    assert gaps(place.books(), {cadence.job: SECOND for cadence in (quick, long, *padding)}) == []


def stay_full(daemon: Daemon, place: Site, long: Cadence) -> None:
    daemon.wait_line("state write failed")
    began = time.monotonic()
    daemon.wait_until(lambda: time.monotonic() - began > 1.5, "what was written down before to have started")
    before, starts = logs(place), [entry for entry in place.entries() if entry.kind == "start"]
    began = time.monotonic()
    run = place.starts(long)[-1].run
    daemon.wait_until(lambda: time.monotonic() - began > FULL_S, "three more slots")
    assert [entry for entry in place.entries() if entry.kind == "start"] == starts, "started without an intent"
    assert all(entry.run.encode() in b"".join(before.values()) for entry in starts), "started without an intent"
    assert [entry.kind for entry in place.entries() if entry.run == run] == ["start", "end"]
    assert daemon.lines("anchor success", run=run) == [], "acknowledged and not on disk"
    assert len(daemon.lines("state write failed")) == 1, "at most one line a minute"
    assert logs(place) == before
    opened = place.peek()
    assert (opened.condition, opened.findings) == (Condition.LOADED, ())
    answer = daemon.get("/health")
    assert (answer.status, answer.json["status"], answer.json["state"]["writable"]) == (503, "unhealthy", False)
    assert daemon.get("/livez").status == 200
    assert (daemon.value("vmsh_state_write_errors_total") or 0) >= 3, "one for each slot"


def recover(daemon: Daemon, place: Site, quick: Cadence) -> None:
    starts = len(place.starts(quick))
    began = time.monotonic()
    daemon.wait_until(lambda: len(place.starts(quick)) > starts, "starts again")
    assert time.monotonic() - began <= ONE_TICK_S
    daemon.wait_line("state writable again")
    daemon.wait_until(lambda: daemon.get("/health").status == 200, "health")
    for entry in place.entries():
        if entry.kind == "end":
            daemon.wait_line("anchor success", run=entry.run)


def limited(place: Site, size: int, *args: str) -> "subprocess.CompletedProcess[str]":
    """The command in a process that cannot write files beyond `size`."""
    code = "import os, resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)"
    return subprocess.run(
        [sys.executable, "-c", f"{code}; os.execv(sys.argv[2], sys.argv[2:])", str(size), str(COMMAND), *args],
        cwd=place.place.root,
        env=place.place.env({"PYTHONDONTWRITEBYTECODE": "1"}),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def wait_for_slot(place: Site, cadence: Cadence) -> None:
    newest = place.starts(cadence)[-1].slot
    until(lambda: time.time() * SECOND >= newest + 2 * SECOND, "another slot")


def tick_at_next_slot(place: Site, cadence: Cadence) -> None:
    wait_for_slot(place, cadence)
    place.place.cli("tick").ok()


def sizes(place: Site, step: int) -> list[int]:
    """Nothing at all; then steps so small that one of them ends between any intent and the end of its run; plenty."""
    newest = max(place.place.state.parent.glob("*.wal"), key=lambda path: int(path.name.split(".")[-2]))
    return [*range(0, newest.stat().st_size + step, step), 100_000]


def full_ticks(place: Site, step: int) -> list[int]:
    """A tick at each size of the disk, and their exit codes; nothing may be lost, repeated, or started unrecorded."""
    cadence = place.work("quick")
    place.configure(cadence)
    place.place.cli("tick").ok()
    tick_at_next_slot(place, cadence)
    codes, started = [], []
    for size in sizes(place, step):
        codes.append(full_tick(place, cadence, size))
        started.append(len(place.starts(cadence)))
    assert codes[0] == os.EX_IOERR
    assert codes[-1] == 0
    assert started[0] == 2, "started without an intent"
    assert any(code and now > then for code, now, then in zip(codes[1:], started[1:], started, strict=False)), (
        "no tick was full between a start and its end: the test does not bite"
    )
    place.place.cli("tick").ok()
    assert violations(place.entries()) == []
    assert differences(place.entries(), place.books()) == []
    return codes


def full_tick(place: Site, cadence: Cadence, size: int) -> int:
    state, before = place.place.state, place.place.state.read_bytes()
    wait_for_slot(place, cadence)
    done = limited(place, size, "tick")
    assert done.returncode in (0, os.EX_IOERR), done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode:
        assert str(state.parent) in done.stderr
        assert "0 failed" not in done.stderr
    if size < len(before):
        assert state.read_bytes() == before
    assert place.peek().condition is Condition.LOADED
    return done.returncode


def test_s5_a_tick_on_a_full_disk_exits_74_and_loses_nothing(tmp_path: Path) -> None:
    """Full ever a little later: before the intent, between a start and its end, after everything."""
    full_ticks(site(tmp_path), STEP)


def test_s5_a_daemon_with_a_full_disk_can_be_stopped(tmp_path: Path) -> None:
    """It waits with what it cannot write down; hurried, it leaves that to the next start, which finds it."""
    place = site(tmp_path)
    quick, long = place.work("quick"), place.work("long", every="1h", seconds=8)
    padding = [place.work(f"padding{number}") for number in range(3)]
    place.configure(quick, long, *padding)
    try:
        daemon = place.place.daemon().ready()
        grow(daemon, place)
        assert [entry.kind for entry in place.entries() if entry.job == long.job] == ["start"]
        fill(daemon, place)
        daemon.wait_until(lambda: "end" in [e.kind for e in place.entries() if e.job == long.job], "the long run's end")
        daemon.signal(signal.SIGTERM)
        daemon.wait_line("draining")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait(10) in (1, os.EX_IOERR)
        assert "Traceback" not in daemon.text()
        after = place.place.daemon().ready()
        assert after.lines("runs recovered")[0]["unknown"] == 0
        after.stop()
    finally:
        place.place.close()
    assert violations(place.entries()) == []
    assert differences(place.entries(), place.books()) == []
