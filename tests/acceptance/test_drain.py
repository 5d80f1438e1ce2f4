"""Stopping: what runs is waited for, a second signal hurries, and nothing is left behind."""

import json
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Place, until
from tests.support.stubs import Stub, cadences, put_batch


def busy(
    place: Place, *, drain_ms: int = 330_000, every: str = "1h", policy: str = "grace: 1s", **how: object
) -> Daemon:
    """A daemon with a command that waits until `hold` is gone."""
    place.configure(cadences(fast=f"every: {every}, {policy}"), scheduler=f"drain_ms: {drain_ms}\n")
    place.write("hold", "")
    Stub(place).behave(hold="hold", **how)
    put_batch(place)
    daemon = place.daemon().ready()
    daemon.wait_until(lambda: Stub(place).calls(), "the command's start")
    return daemon


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g1_a_running_command_is_waited_for(place: Place, number: int) -> None:
    daemon = busy(place)
    daemon.signal(number)
    line = daemon.wait_line("draining")
    assert line["running"] == 1
    assert "ns/fast" in line["runs"][0]
    assert daemon.alive
    (place.root / "hold").unlink()
    assert daemon.wait() == 0
    assert daemon.lines("anchor success", label="fast")
    assert daemon.lines("stopped", forced=False)
    assert json.loads(place.state.read_text())["ns"]["last"]["fast"] > 0


def test_g1_nothing_new_starts_while_it_drains(place: Place) -> None:
    daemon = busy(place, every="1s", policy="reanchor: true")
    daemon.signal(signal.SIGTERM)
    drained_at = datetime.fromisoformat(daemon.wait_line("draining")["time"])
    calls = len(Stub(place).calls())
    until(lambda: datetime.now(UTC) > drained_at + timedelta(seconds=2), "two slots to come due")
    (place.root / "hold").unlink()
    assert daemon.wait() == 0
    assert len(Stub(place).calls()) == calls == 1


def test_g2_a_second_signal_hurries(place: Place) -> None:
    daemon = busy(place)
    pid = Stub(place).calls()[0]["pid"]
    daemon.signal(signal.SIGTERM)
    daemon.wait_line("draining")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    assert daemon.lines("hurrying", running=1)
    assert daemon.lines("stopped", forced=True)
    assert gone(pid)
    assert "Traceback" not in daemon.text()


def test_g2_a_command_that_does_not_hear_is_killed(place: Place) -> None:
    daemon = busy(place, deaf=True)
    pid = Stub(place).calls()[0]["pid"]
    daemon.signal(signal.SIGTERM)
    daemon.wait_line("draining")
    daemon.signal(signal.SIGINT)
    assert daemon.wait() == 1
    assert gone(pid)


def test_g1_the_deadline_of_the_drain_holds(place: Place) -> None:
    daemon = busy(place, drain_ms=500)
    pid = Stub(place).calls()[0]["pid"]
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    (line,) = daemon.lines("stopped")
    assert line["forced"] is True
    assert 500 <= line["drained_ms"] < 10_000
    assert gone(pid)


def test_g1_a_run_that_was_cut_short_goes_on_with_its_slot_and_key(place: Place) -> None:
    daemon = busy(place, drain_ms=200)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 1
    (place.root / "hold").unlink()
    again = place.daemon().ready()
    again.wait_line("anchor success", label="fast")
    first, *rest = Stub(place).calls()
    assert rest
    assert {call["stdin"]["idempotency_key"] for call in rest} == {first["stdin"]["idempotency_key"]}
    assert rest[-1]["stdin"]["attempt"] > first["stdin"]["attempt"]
    again.stop()


def test_g1_an_idle_daemon_stops_at_once(place: Place) -> None:
    place.configure(cadences(fast="every: 1h"))
    daemon = place.daemon().ready()
    daemon.stop()
    (line,) = daemon.lines("stopped")
    assert line["drained_ms"] < 1000
    assert not (place.state.parent / "control.sock").exists()


def test_g5_a_signal_during_the_start_still_ends_it(place: Place) -> None:
    place.configure(cadences(fast="every: 1h"))
    daemon = place.daemon()
    daemon.wait_line("scheduler starting")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() in (0, -signal.SIGTERM)
    assert "Traceback" not in daemon.text()
