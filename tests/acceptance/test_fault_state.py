"""State that was harmed, lost, written by a newer version, or lies among leftovers: what the installed command does."""

import os
import signal
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.faults import Site, site
from tests.support.ledger import violations
from tests.support.statefiles import contents, flipped, named
from vmsh_scheduler.domain.trigger import HOUR, SECOND
from vmsh_scheduler.errors import Exit

EVERY_S = 3


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def state(place: Site) -> Path:
    return place.place.state


def said_ms(daemon: Daemon, msg: str) -> float:
    return datetime.fromisoformat(daemon.wait_line(msg)["time"]).timestamp() * SECOND


def test_s11_a_flipped_bit_is_said_kept_and_fires_nothing(place: Site) -> None:
    work = place.work("daily", every="1d")
    place.configure(work)
    place.place.cli("tick").ok()
    place.place.cli("tick").ok()
    bad = flipped(state(place).read_bytes(), 700, 2)
    state(place).write_bytes(bad)
    daemon = place.place.daemon().ready()
    health = daemon.health()
    assert (health["status"], health["state"]["origin"]) == ("degraded", "recovered")
    assert any("scheduler.json is damaged" in line["finding"] for line in daemon.lines("state finding"))
    daemon.stop()
    assert [kept.read_bytes() for kept in named(state(place).parent, "scheduler.json.corrupt-*")] == [bad]
    assert len(place.starts(work)) == 1


def lose(place: Site) -> None:
    """Both generations, and every log."""
    for path in [*named(state(place).parent, "scheduler.json*"), *named(state(place).parent, "*.wal")]:
        path.write_bytes(path.read_bytes()[:20])


@pytest.mark.parametrize("policy", ["wait", "run"])
def test_s12_lost_state_starts_nothing_for_one_whole_period(place: Site, policy: str) -> None:
    """Whatever came due before may have run. `run` is the variant that shows the bite: without the wait every cadence
    fires at once."""
    cadences = [place.work(name, every=f"{EVERY_S}s") for name in ("one", "two", "three")]
    place.configure(*cadences, scheduler=f"on_state_loss: {policy}\n")
    place.place.cli("tick").ok()
    before = len(place.entries())
    lose(place)
    if policy == "wait":
        refused = place.place.cli("tick")
        assert (refused.code, len(place.entries())) == (Exit.STATE_UNREADABLE, before)
    daemon = place.place.daemon().ready()
    health = daemon.health()
    assert (health["status"], health["state"]["origin"]) == ("degraded", "lost")
    assert any("every cadence waits one period" in line["finding"] for line in daemon.lines("state finding"))
    daemon.wait_until(lambda: len(place.entries()) >= before + 2 * len(cadences), "a run of each")
    loss = said_ms(daemon, "scheduler starting" if policy == "wait" else "namespaces config loaded")
    early = [entry for entry in place.entries()[before:] if entry.slot < loss + EVERY_S * 1000]
    daemon.stop()
    assert (early == []) is (policy == "wait")
    assert violations(place.entries()) == [] or policy == "run"


def test_s13_nothing_touches_what_a_newer_version_wrote(place: Site) -> None:
    place.configure(place.work("quick"))
    place.place.cli("tick").ok()
    state(place).write_bytes(b'{"_meta": {"schema": 99}, "all": "different"}')
    before, starts = contents(state(place).parent), len(place.entries())
    for command in (["run"], ["tick"], ["status"], ["pause", "quick/fast"]):
        refused = place.place.cli(*command)
        assert refused.code == Exit.STATE_UNREADABLE, (command, refused.err)
        assert "written by a newer version" in refused.err
        assert "Traceback" not in refused.err
    assert contents(state(place).parent) == before
    assert len(place.entries()) == starts


def age(path: Path) -> None:
    path.touch(mode=0o600)
    then = path.stat().st_mtime_ns - 2 * HOUR * 1_000_000
    os.utime(path, ns=(then, then))


def test_s17_five_hundred_leftovers_go_and_a_live_run_keeps_its_record(place: Site) -> None:
    work = place.work("long", every="1d", seconds=3)
    place.configure(work)
    first = place.place.daemon().ready()
    first.wait_until(lambda: place.starts(work), "a start")
    (running,) = place.starts(work)
    first.process.send_signal(signal.SIGKILL)
    first.wait()
    runs = state(place).parent / "runs"
    for n in range(250):
        age(runs / f"{n:x}-1{('', '.in', '.out', '.err')[n % 4]}")
        age(state(place).parent / f".scheduler.json.{n:016x}")
    for path in named(runs, f"{running.run}*"):
        age(path)
    second = place.place.daemon().ready()
    found = second.wait_line("runs recovered")
    assert (found["adopted"] + found["recovered"], found["unknown"]) == (1, 0)
    second.wait_line("anchor success", run=running.run)
    second.stop()
    assert named(runs, "[!.]*") == []
    assert named(state(place).parent, ".*") == []
    assert [entry.kind for entry in place.entries()] == ["start", "end"]
