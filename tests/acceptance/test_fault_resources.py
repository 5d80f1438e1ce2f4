"""R1 to R6, L1, L2: nothing grows, nothing is short for long, daemons and ticks by the dozen."""

import asyncio
import errno
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.children.stage import on_stage, shell
from tests.support import broken, lag
from tests.support.agents import cpu_s, runs, wake
from tests.support.builders import cadence
from tests.support.daemon import Daemon, Place, until
from tests.support.faults import Site, descriptors, site
from tests.support.growth import MOST_SERIES, History, endure, naive_renames, plain, renames
from tests.support.ledger import differences, gaps, violations
from tests.support.rivals import one_author, start_together, tick_beside
from tests.support.world import World
from vmsh_scheduler.domain.run import Outcome, Status
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.engine.carry import RESOURCES
from vmsh_scheduler.errors import Unavailable
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.threads import start_threads

DAEMONS = 6
TICKS = 100
STARVED_SLOTS = 3
LEAP_KB = 8_192
"""More than a young daemon grows, less than a leak of these runs."""
BETWEEN_LOOKS = 3 << 20
"""What may be written until somebody looks at the size again."""


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


def test_l1_of_several_daemons_one_wins(place: Site) -> None:
    cadence = place.work("quick")
    place.configure(cadence)
    start_together(place, cadence, DAEMONS).stop()
    one_author(place, cadence)


def test_l2_ticks_beside_a_daemon_do_nothing(place: Site) -> None:
    cadence = place.work("quick")
    place.configure(cadence)
    daemon = place.place.daemon().ready()
    tick_beside(place, daemon, TICKS, 50)
    assert place.place.cli("tick").code == os.EX_TEMPFAIL
    assert place.place.cli("tick", "--quiet-if-running").code == 0
    daemon.stop()
    one_author(place, cadence)


def test_l2_two_states_behind_one_ledger_are_seen(place: Site) -> None:
    """What two daemons that both tick would leave: the checks above are not blind."""
    cadence = place.work("quick")
    place.configure(cadence)
    for state in ("one", "two"):
        assert place.place.cli("--state", str(place.place.root / state / "scheduler.json"), "tick").code == 0
    assert [entry.kind for entry in place.entries()] == ["start", "end"] * 2
    with pytest.raises(AssertionError):
        one_author(place, cadence)


@pytest.mark.parametrize(("kind", "flat"), [("", True), ("leaks", False)])
def test_r1_a_thousand_runs_leave_nothing_behind(tmp_path: Path, kind: str, flat: bool) -> None:
    place = Place(tmp_path)
    if kind:
        place.command, place.environ["PYTHONPATH"] = broken.command(kind), str(broken.ROOT)
    try:
        early, late = endure(place, 250, (500, 1_500), timeout=100)
    finally:
        place.close()
    assert (late.rss_kb - early.rss_kb < LEAP_KB) is flat
    assert late.descriptors <= early.descriptors
    assert late.threads == early.threads


async def test_r2_what_the_machine_refuses_is_tried_again_and_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither with a run record nor without one does EAGAIN leave a process, a descriptor or a failure."""
    refusals = [BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")] * 2
    real = os.posix_spawn

    def spawn(*args: Any, **options: Any) -> int:
        if refusals:
            raise refusals.pop()
        return real(*args, **options)

    monkeypatch.setattr(os, "posix_spawn", spawn)
    async with on_stage(tmp_path) as stage:
        for exact in (True, False):
            assert (await stage.run(shell(":"), crash_exact=exact)).code == RESOURCES
        for exact in (True, False):
            assert (await stage.run(shell(":"), crash_exact=exact)).status is Status.OK
    world = World(cadence(10))
    world.executor.script["ns/fast"] = [Outcome(Status.FAILED, None, RESOURCES, "EAGAIN")] * 3
    await world.start()
    await world.go(5 * SECOND)
    state = world.state()
    assert (len(world.executor.runs), state.started, state.failed, state.succeeded, state.level) == (4, 1, 0, 1, 0)
    assert len({run.slot for run in world.executor.runs}) == 1


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("ready", [True, False])
async def test_r2_what_needs_a_thread_needs_none_to_be_made(monkeypatch: pytest.MonkeyPatch, ready: bool) -> None:
    if ready:
        start_threads()
    with monkeypatch.context() as starved:
        starved.setattr(threading.Thread, "start", no_thread)
        found = await asyncio.gather(*(asyncio.to_thread(int) for _ in range(20)), return_exceptions=True)
    assert all(result == 0 for result in found) if ready else all(isinstance(r, RuntimeError) for r in found)


async def test_r2_a_daemon_that_gets_no_threads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as starved:
        starved.setattr(threading.Thread, "start", no_thread)
        with pytest.raises(Unavailable, match="no threads left"):
            start_threads()


def test_r3_without_descriptors_a_crowd_at_the_door_costs_no_cpu(place: Site) -> None:
    """accept() is refused too; whoever asks again at once spins."""
    place.configure(place.work("quick", every="1h"))
    daemon = place.place.daemon().ready()
    port, began = daemon.port, time.monotonic()
    starve(daemon)
    with ExitStack() as crowd:
        for _ in range(20):
            crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
        used = cpu_s(daemon.pid)
        until(lambda: time.monotonic() > began + 2, "two seconds")
        assert cpu_s(daemon.pid) - used < (time.monotonic() - began) / 4
    feed(daemon)
    daemon.wait_until(lambda: daemon.get("/livez").status == 200, "an answer")
    daemon.stop()


@pytest.mark.parametrize(("planted", "smooth"), [("", True), ("stutters", False)])
def test_r4_the_loop_keeps_looking_while_thousands_of_agents_are_woken(place: Site, planted: str, smooth: bool) -> None:
    """Counted in CPU time, so that a busy machine does not matter; far fewer agents than in the soak test."""
    path = lag.measured(place.place, planted=planted)
    wake(place.place, 3_000, 600_000)
    daemon = place.place.daemon().ready()
    daemon.signal(signal.SIGUSR1)
    daemon.wait_until(lambda: runs(daemon) >= 1_500, "runs")
    daemon.stop()
    _, cpu = lag.read(path)
    assert (cpu.percentile(0.01) <= 0.1) is smooth


async def test_r5_series_of_renamed_namespaces_are_dropped() -> None:
    eras = await renames(100, 4)
    assert len({len(lines) for lines in eras}) == 1
    assert not any('namespace="e2n' in line for line in eras[3])
    assert sum('namespace="e3n' in line for line in plain(eras[3])) <= MOST_SERIES * 100
    naive = naive_renames(100, 4)
    assert len(naive[3]) == 4 * len(naive[0]), "labels that nobody removes"


async def test_r5_agents_have_no_series_of_their_own() -> None:
    (few,), (many,) = await renames(1, 1, agents=1), await renames(1, 1, agents=500)
    assert [line.rpartition(" ")[0] for line in few] == [line.rpartition(" ")[0] for line in many]


@pytest.mark.parametrize(("cap", "held"), [(1 << 20, True), (1 << 30, False)])
async def test_r6_history_is_held_to_its_cap(tmp_path: Path, cap: int, held: bool) -> None:
    """Up to what comes between two looks; what is left is whole, and says how much went before it."""
    history = History.at(tmp_path, Retention(rows=1_000_000, bytes=cap))
    await history.write(4, 10_000)
    (newest,) = history.store.journal.executions(limit=1)
    assert newest.run.id == "run-4999"
    assert history.store.journal.verify() == []
    await history.store.close()
    assert (history.size() < (1 << 20) + BETWEEN_LOOKS) is held
