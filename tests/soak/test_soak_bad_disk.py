"""S8, S9 and S16 on the installed command: syncs that fail or take two seconds, renames that are refused."""

import errno
import math
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.faults import Site, site
from tests.support.kills import cadences, check
from tests.support.syscalls import traced
from tests.support.ticks import ANY, ticks
from vmsh_scheduler.stores.local.load import Condition

SYNCS = "fsync,fdatasync"
SLOW_US = 2_000_000
ASKED = 300
EVERY_S = 0.04
BAR_S = 0.05
THREE_SLOTS_S = 3.0
NEXT_SAVE_S = 300
"""A save that took long, as all do under a tracer, is followed by a pause of fifty times that."""
REFUSED = (errno.EXDEV, errno.ESTALE, errno.EIO)
Record = Callable[[str, object], None]


@pytest.mark.needs("strace")
def test_s8_no_sync_of_a_tick_may_fail_unseen(tmp_path: Path, record_property: Record) -> None:
    """Each of them fails once, in whichever thread gets there first: the log goes to a new file, or the exit is 74."""
    played = ticks(tmp_path)
    codes: Counter[int] = Counter()
    work = [point for point in played.points() if point.thread == ANY and point.call in SYNCS.split(",")]
    for point in work:
        fault = f"-einject={point.call}:error=EIO:when={point.number}"
        codes[played.play(point, f"-etrace={point.call}", fault)] += 1
    assert set(codes) <= {os.EX_OK, os.EX_IOERR}
    assert played.wrong() == []
    record_property("S8", f"{len(work)} syncs of a tick failed, one a time: exits {dict(codes)}, 0 lost, 0 repeated")


@pytest.mark.needs("strace")
def test_s8_a_tick_on_a_disk_that_takes_nothing_starts_nothing(tmp_path: Path, record_property: Record) -> None:
    played = ticks(tmp_path)
    played.site.place.cli("tick").ok()
    played.next_slot()
    before = len(played.site.entries())
    code = played.run(tmp_path / "calls", ("-f", "-bexecve", f"-etrace={SYNCS}", f"-einject={SYNCS}:error=EIO"))
    assert code == os.EX_IOERR
    assert len(played.site.entries()) == before + 2, "the clean tick before it, and nothing else"
    assert played.wrong() == []
    record_property("S8", "every sync of a tick fails: exit 74, 0 starts")


@contextmanager
def faulty(daemon: Daemon, at: Path, calls: str, fault: str) -> Iterator[None]:
    """All threads of a running daemon; its commands are let go when they begin."""
    with traced(daemon.pid, at / "calls", "-f", "-bexecve", f"-etrace={calls}", f"-einject={calls}:{fault}"):
        yield


@pytest.mark.needs("strace")
def test_s8_a_daemon_on_a_dying_disk_starts_nothing_and_says_so(tmp_path: Path, record_property: Record) -> None:
    place = site(tmp_path)
    jobs = cadences(place)
    place.configure(*jobs)
    try:
        daemon = place.place.daemon().ready()
        daemon.wait_until(lambda: len(place.entries()) > 10, "runs")
        with faulty(daemon, tmp_path, SYNCS, "error=EIO"):
            daemon.wait_line("state write failed")
            starts = len(started(place))
            daemon.wait_until(lambda: daemon.health()["status"] == "unhealthy", "an honest health")
            time.sleep(THREE_SLOTS_S)  # that nothing is started takes its time to see
            assert len(started(place)) == starts, "started without an intent on disk"
            assert daemon.get("/livez").status == 200
            assert len(daemon.lines("state write failed")) == 1
        daemon.wait_line("state writable again")
        daemon.wait_until(lambda: len(started(place)) > starts + len(jobs), "starts again")
        daemon.stop()
    finally:
        place.place.close()
    check(place, jobs)
    record_property("S8", "every sync of a daemon fails for 3 s: 0 starts, unhealthy, one line; then all goes on")


def started(place: Site) -> list[str]:
    return [entry.run for entry in place.entries() if entry.kind == "start"]


def answers(daemon: Daemon, path: str) -> list[float]:
    """Seconds that each answer took, sorted."""
    took = []
    for _ in range(ASKED):
        began = time.perf_counter()
        daemon.get(path)
        took.append(time.perf_counter() - began)
        time.sleep(EVERY_S)
    return sorted(took)


def p99(took: list[float]) -> float:
    return took[math.ceil(len(took) * 0.99) - 1]


@pytest.mark.needs("strace")
def test_s9_two_second_syncs_keep_nobody_waiting_for_health(tmp_path: Path, record_property: Record) -> None:
    place = site(tmp_path)
    jobs = cadences(place)
    place.configure(*jobs)
    try:
        daemon = place.place.daemon().ready()
        daemon.wait_until(lambda: len(place.entries()) > 10, "runs")
        with faulty(daemon, tmp_path, SYNCS, "delay_enter=1"):
            usual, (took, writes) = p99(answers(daemon, "/livez")), written(daemon)
        with faulty(daemon, tmp_path, SYNCS, f"delay_enter={SLOW_US}"):
            slow = p99(answers(daemon, "/livez"))
            body = p99(answers(daemon, "/health"))
            took_then, writes_then = written(daemon)
        assert daemon.health()["status"] in {"healthy", "degraded"}
        daemon.stop()
    finally:
        place.place.close()
    check(place, jobs)
    cheap, dear = took / writes, (took_then - took) / (writes_then - writes)
    figure = (
        f"p99 of livez {slow * 1000:.0f} ms, of health {body * 1000:.0f} ms (with fast syncs {usual * 1000:.0f} ms)"
    )
    record_property("S9", f"2 s syncs: {figure}; mean durable write {cheap:.3f} -> {dear:.3f} s; 0 lost, 0 repeated")
    assert max(slow, body) <= max(BAR_S, 3 * usual), figure
    assert dear > 10 * cheap, "what the disk costs is to be seen"


def written(daemon: Daemon) -> tuple[float, float]:
    """Seconds that durable writes took so far, and how many there were."""
    total, count = (daemon.value(f"vmsh_state_write_seconds_{part}") for part in ("sum", "count"))
    return total or 0, count or 0


@pytest.mark.needs("strace")
@pytest.mark.parametrize("error", [errno.errorcode[error] for error in REFUSED])
def test_s16_a_refused_rename_is_said_and_tried_again(tmp_path: Path, record_property: Record, error: str) -> None:
    place = site(tmp_path)
    jobs = cadences(place)
    place.configure(*jobs)
    try:
        daemon = place.place.daemon().ready()
        daemon.wait_until(lambda: len(place.entries()) > 10, "runs")
        with faulty(daemon, tmp_path, "?rename,?renameat,?renameat2", f"error={error}"):
            line = daemon.wait_line("state finding")
            assert f"cannot be replaced: {os.strerror(getattr(errno, error))}" in line["finding"]
            before, starts = place.place.state.read_bytes(), len(started(place))
            daemon.wait_until(lambda: len(started(place)) > starts + 3 * len(jobs), "runs that need no snapshot")
            assert place.place.state.read_bytes() == before
            fresh = ".scheduler.json.*"  # one is there while the next attempt is made
            daemon.wait_until(lambda: not list(place.place.state.parent.glob(fresh)), "nothing to be left over")
            assert place.peek().condition is Condition.LOADED
        daemon.wait_until(lambda: place.place.state.read_bytes() != before, "the next snapshot", NEXT_SAVE_S)
        assert len(daemon.lines("state finding")) == 1
        daemon.stop()
    finally:
        place.place.close()
    check(place, jobs)
    record_property("S16", f"{error}: old file whole, nothing left over, one line, runs go on, next save taken")


@pytest.mark.needs("mounts")
def test_s16_an_overlay_is_named_at_start_and_by_doctor(tmp_path: Path, record_property: Record) -> None:
    place = site(tmp_path / "site")
    place.configure(place.work("quick"))
    state = place.place.state.parent
    upper, work = (tmp_path / name for name in ("upper", "work"))
    for directory in (state, upper, work):
        directory.mkdir(mode=0o700)
    options = f"lowerdir={tmp_path},upperdir={upper},workdir={work}"
    mount = subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", state], capture_output=True, text=True)
    if mount.returncode:
        pytest.skip("needs overlay mounts")
    try:
        daemon = place.place.daemon().ready()
        assert "state directory is on overlay" in daemon.wait_line("state finding")["finding"]
        daemon.wait_until(lambda: len(place.entries()) > 2, "runs")
        daemon.stop()
        assert len(daemon.lines("state finding")) == 1
        doctor = place.place.cli("doctor")
        assert "state directory is on overlay" in doctor.out
    finally:
        place.place.close()
        subprocess.run(["umount", state], check=True)
    record_property("S16", "overlay: named once at start and by doctor")
