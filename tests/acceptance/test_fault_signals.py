"""G1 to G8: stops in full flight, signals by the thousand, daemons that are killed, frozen, stuck or broken."""

import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import broken
from tests.support.builders import cadence as job
from tests.support.crew import crew, kill, survive
from tests.support.daemon import until
from tests.support.faults import Site, site
from tests.support.ledger import differences, gaps, violations
from tests.support.storms import calm, farewell, freeze, reloads, storm, weather
from tests.support.world import World
from vmsh_scheduler.domain.decision import Verdict
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.trigger import MINUTE, SECOND
from vmsh_scheduler.observe.logs import FATAL

HUPS = 2_000
FROZEN_S = 3


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def test_g1_twenty_running_commands_are_waited_for(place: Site) -> None:
    many = crew(place, 20)
    daemon = place.place.daemon()
    many.wait(daemon)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_line("draining")["running"] == 20
    with many.released():
        assert daemon.wait() == 0
    assert daemon.lines("stopped", forced=False)
    assert [execution.outcome.status for execution in place.books().executions] == [Status.OK] * 20
    assert violations(place.entries()) == differences(place.entries(), place.books()) == []


def test_g1_what_outlives_the_drain_is_ended_and_written_down(place: Site) -> None:
    many = crew(place, 20, deaf=True, scheduler="drain_ms: 500\n")
    daemon = place.place.daemon()
    many.wait(daemon)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    assert many.gone()
    outcomes = [execution.outcome for execution in place.books().executions]
    assert [(outcome.status, outcome.code) for outcome in outcomes] == [(Status.FAILED, "cancelled")] * 20
    assert all(not state.runs for state in place.peek().states.values())


@pytest.mark.parametrize(("kind", "well"), [("loop", False), ("ours", True)])
def test_g3_a_storm_of_signals_silences_no_term(kind: str, well: bool) -> None:
    """asyncio's own handlers fill stderr and then hang."""
    assert weather(kind, 1_000, patience=30 if well else 2).well is well


def test_g3_a_storm_at_the_end_is_ignored_without_a_word() -> None:
    """Between Python's look at what is pending and its change of handler one may arrive."""
    assert farewell("alone", 60) != ""
    assert farewell("leaves", 3) == ""


def test_g3_two_thousand_hups_and_a_term(place: Site) -> None:
    cadence = place.work("quick")
    place.configure(cadence)
    daemon = place.place.daemon().ready()
    began = time.monotonic()
    for _ in range(HUPS):
        daemon.signal(signal.SIGHUP)
    daemon.wait_until(lambda: reloads(daemon) >= 1, "a reload")
    storm(daemon, 1)
    assert reloads(daemon) <= time.monotonic() - began + 1, "more than one a second"
    calm(place, cadence)


def test_g3_hups_do_not_cover_a_term(place: Site) -> None:
    """The storm goes on until the daemon is gone."""
    place.configure(place.work("quick"))
    daemon = place.place.daemon().ready()
    over = threading.Event()

    def rage() -> None:
        while not over.is_set() and daemon.process.returncode is None:
            daemon.signal(signal.SIGHUP)

    thread = threading.Thread(target=rage)
    thread.start()
    try:
        daemon.wait_until(lambda: reloads(daemon) >= 1, "a reload")
        daemon.stop()
    finally:
        over.set()
        thread.join()


def test_g4_orphans_of_a_killed_daemon_are_adopted_and_may_still_write(place: Site) -> None:
    many = crew(place, 5)
    survive(many).stop()
    assert violations(place.entries()) == differences(place.entries(), place.books()) == []


def test_g4_without_crash_exact_a_write_into_the_dead_pipe_ends_it_unseen(place: Site) -> None:
    """What the run record and the output file are for."""
    many = crew(place, 2, "crash_exact: false", "on_unknown: hold")
    daemon = place.place.daemon()
    many.wait(daemon)
    kill(daemon)
    with many.released():
        until(many.gone, "the commands' end")
    assert {entry.kind for entry in place.entries()} == {"start"}
    second = place.place.daemon()
    assert second.wait_line("runs recovered")["unknown"] == 2
    second.stop()
    assert differences(place.entries(), place.books()) != []


async def test_g6_ten_minutes_of_sleep_are_one_catch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Suspend and resume move both clocks at once (decision 38)."""
    world = World(*(job(10, id=f"ns/{number}") for number in range(5)))
    await world.start()
    await world.go(35 * SECOND)
    before = {name: world.slots(name) for name in world.jobs}
    world.clock.move(10 * MINUTE)
    await world.tick()
    for name, slots in before.items():
        fresh = world.slots(name)[len(slots) :]
        assert fresh == [world.clock.wall - world.clock.wall % (10 * SECOND)]
    passed = [d for d in world.decisions if d.verdict is not Verdict.FIRED]
    assert sum(d.count for d in passed) == 5 * 59


def test_g6_a_frozen_daemon_catches_up_once(place: Site) -> None:
    cadences = [place.work("quick"), place.work("other")]
    place.configure(*cadences)
    daemon = place.place.daemon().ready()
    daemon.wait_until(lambda: all(place.starts(cadence) for cadence in cadences), "runs")
    freeze(place, daemon, FROZEN_S)
    daemon.stop()
    assert violations(place.entries()) == differences(place.entries(), place.books()) == []
    assert gaps(place.books(), {cadence.job: SECOND for cadence in cadences}) == []


@pytest.fixture
def defective(place: Site) -> Site:
    place.place.environ["PYTHONPATH"] = str(broken.ROOT)
    return place


@pytest.mark.parametrize("kind", ["settle raises", "decide raises"])
def test_g7_a_defect_ends_the_daemon_and_keeps_the_state(defective: Site, kind: str) -> None:
    """A supervisor may start it again; each time it leaves what the next one needs."""
    place, whole = defective, defective.place.command
    cadence = place.work("quick")
    place.configure(cadence)
    place.place.command = broken.command(kind)
    for _ in range(2):
        daemon = place.place.daemon()
        assert daemon.wait() == 1
        (fatal,) = daemon.lines(FATAL)
        assert broken.PLANTED in str(fatal)
    place.place.command = whole
    daemon = place.place.daemon().ready()
    before = len(place.starts(cadence))
    daemon.wait_until(lambda: len(place.starts(cadence)) >= before + 2, "runs")
    daemon.stop()
    assert violations(place.entries()) == differences(place.entries(), place.books()) == []


@pytest.fixture
def manager(place: Site) -> Iterator[socket.socket]:
    """What the daemon tells its service manager, which wants to hear from it every two seconds."""
    name = f"vmsh-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("\0" + name)
        place.place.environ |= {"NOTIFY_SOCKET": "@" + name, "WATCHDOG_USEC": "2000000"}
        yield sock


def heard(manager: socket.socket, message: bytes, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        manager.settimeout(left)
        try:
            if message in manager.recv(4096):
                return True
        except TimeoutError:
            return False
    return False


@pytest.mark.parametrize(("kind", "beats"), [("loop blocks", False), ("engine hangs", False), ("thread beats", True)])
def test_g8_the_watchdog_hears_only_from_a_loop_that_advances(
    defective: Site, manager: socket.socket, kind: str, beats: bool
) -> None:
    place = defective
    place.configure(place.work("quick"))
    place.place.command = broken.command(kind)
    daemon = place.place.daemon()
    assert heard(manager, b"READY=1", 30)
    for _ in range(2):
        assert heard(manager, b"WATCHDOG=1", 30)
    daemon.signal(signal.SIGUSR1)
    daemon.wait_line(broken.STUCK)
    flush(manager)
    assert heard(manager, b"WATCHDOG=1", 2.5) is beats
    daemon.signal(signal.SIGABRT)
    assert daemon.wait() == -signal.SIGABRT, "what systemd does next"


def flush(manager: socket.socket) -> None:
    """What was said before, and the last beat that may be on its way."""
    heard(manager, b"nothing of the kind", 1.2)
