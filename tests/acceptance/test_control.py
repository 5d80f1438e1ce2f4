"""What a person may do to a job: with a daemon over its socket, without one on the files, to the same effect."""

import json
import signal
import stat
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Document, Place
from tests.support.stubs import Stub, cadences, put_batch

JOB = "ns/fast"
HOURLY = cadences(fast="every: 1h")
HELD = cadences(fast="every: 1h, crash_exact: false, on_unknown: hold")


@pytest.fixture(params=["live", "alone"])
def live(request: pytest.FixtureRequest) -> bool:
    """Is a daemon running?"""
    return bool(request.param == "live")


def begin(place: Place, live: bool, config: str = HOURLY) -> Daemon | None:
    place.configure(config)
    return place.daemon().ready() if live else None


def row(place: Place) -> Document:
    rows: list[Document] = place.cli("status", "--json").ok().json["jobs"]
    return next(row for row in rows if row["job"] == JOB)


def why(place: Place) -> Document:
    found: Document = place.cli("why", JOB, "--json").ok().json
    return found


def test_pause_and_resume(place: Place, live: bool) -> None:
    daemon = begin(place, live)
    paused = place.cli("pause", JOB, "--note", "the node is down", "--json").ok().json
    assert paused == {"job": JOB, "paused": True, "until": None}
    told = why(place)
    assert (told["verdict"], told["reason"]) == ("will_not", "paused")
    assert "the node is down" in told["text"]
    assert told["remedy"] == f"vmsh-scheduler resume {JOB}"
    assert row(place)["paused"]
    assert row(place)["condition"] == "paused"

    assert place.cli("resume", JOB, "--json").ok().json == {"job": JOB, "paused": False}
    assert why(place)["verdict"] == "will"
    assert not row(place)["paused"]
    if daemon:
        daemon.stop()


def test_pause_until_an_instant(place: Place, live: bool) -> None:
    daemon = begin(place, live)
    until = place.cli("pause", JOB, "--until", "30m", "--json").ok().json["until"]
    told = why(place)
    assert told["at"] == until
    assert 29 * 60_000 < until - told["now"] <= 30 * 60_000
    assert "paused until 2099-01-01 00:00:00Z" in place.cli("pause", JOB, "--until", "2099-01-01T00:00:00Z").ok().out
    if daemon:
        daemon.stop()


def test_a_pause_is_over_when_its_time_has_come(place: Place) -> None:
    place.configure(cadences(fast="every: 1s, reanchor: true"))
    put_batch(place)
    daemon = place.daemon(env={"LOG_LEVEL": "debug"}).ready()
    place.cli("pause", JOB, "--until", "2s").ok()
    daemon.wait_line("slot decided", verdict="skipped", reason="paused")
    before = len(daemon.lines("anchor success"))
    daemon.wait_line("anchor success", after=before)
    assert not row(place)["paused"]
    daemon.stop()


def test_a_pause_outlives_the_daemon(place: Place) -> None:
    daemon = begin(place, True)
    assert daemon
    place.cli("pause", JOB).ok()
    daemon.stop()
    put_batch(place)
    again = place.daemon().ready()
    assert row(place)["paused"]
    assert again.health()["runs"]["paused"] == 1
    assert Stub(place).calls() == []
    again.stop()


def test_trigger_runs_now_under_a_daemon(place: Place) -> None:
    daemon = begin(place, True, cadences(fast="every: 1d, reanchor: true"))
    assert daemon
    put_batch(place)
    slot = place.cli("trigger", JOB, "--json").ok().json["slot"]
    line = daemon.wait_line("anchor success", label="fast")
    assert (line["slot"], line["cause"]) == (slot, "manual")
    daemon.stop()


def test_trigger_alone_is_remembered_for_the_next_start(place: Place) -> None:
    place.configure(cadences(fast="every: 1d, reanchor: true"))
    put_batch(place)
    place.cli("tick").ok()
    slot = place.cli("trigger", JOB, "--json").ok().json["slot"]
    assert len(Stub(place).calls()) == 1
    assert place.cli("tick", "--json").ok().json["started"] == 1
    assert Stub(place).calls()[-1]["stdin"]["slot_ms"] == slot


def test_trigger_of_a_running_job_is_refused(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    place.write("hold", "")
    Stub(place).behave(hold="hold")
    daemon = place.daemon().ready()
    daemon.wait_until(lambda: Stub(place).calls(), "the command's start")
    refused = place.cli("trigger", JOB)
    assert refused.code == 2
    assert "running already" in refused.err
    told = why(place)
    assert (told["verdict"], told["reason"]) == ("running", "running")
    (place.root / "hold").unlink()
    daemon.wait_line("anchor success")
    daemon.stop()


def test_trigger_during_a_backoff_keeps_slot_and_key(place: Place) -> None:
    Stub(place).behave(exit=77)
    put_batch(place)
    daemon = begin(place, True)
    assert daemon
    failed = daemon.wait_line("anchor failed")
    Stub(place).behave()
    place.cli("trigger", JOB).ok()
    done = daemon.wait_line("anchor success")
    assert (done["slot"], done["attempt"]) == (failed["slot"], 2)
    assert len({call["stdin"]["idempotency_key"] for call in Stub(place).calls()}) == 1
    daemon.stop()


def test_reset_clears_a_backoff(place: Place, live: bool) -> None:
    Stub(place).behave(exit=77)
    put_batch(place)
    place.configure(HOURLY)
    assert place.cli("tick").code == 1
    daemon = place.daemon().ready() if live else None
    told = why(place)
    assert (told["reason"], row(place)["backoff"]) == ("backoff", 1)
    assert "reset ns/fast" in told["remedy"]

    Stub(place).behave()
    assert place.cli("reset", JOB, "--json").ok().json == {"job": JOB, "backoff": 0}
    if daemon:
        line = daemon.wait_line("anchor success")
        assert line["attempt"] == 2
        daemon.stop()
    else:
        assert row(place)["backoff"] == 0
        assert place.cli("tick", "--json").ok().json["succeeded"] == 1
    assert row(place)["backoff"] == 0


def unknown_run(place: Place) -> str:
    """A run whose daemon died, without a record of its end, on a job that holds: the id of it."""
    place.configure(HELD)
    put_batch(place)
    place.write("hold", "")
    Stub(place).behave(hold="hold")
    daemon = place.daemon().ready()
    (call,) = daemon.wait_until(lambda: Stub(place).calls(), "the command's start")
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    (place.root / "hold").unlink()
    Stub(place).behave()
    place.daemon().ready().stop()
    return str(call["stdin"]["run_id"])


def test_an_unknown_run_is_held_and_shown(place: Place) -> None:
    run = unknown_run(place)
    assert row(place)["held"] == run
    told = why(place)
    assert (told["verdict"], told["reason"]) == ("will_not", "held")
    assert told["remedy"].startswith(f"vmsh-scheduler resolve {run} --as")
    assert run in place.cli("status").ok().out
    assert place.cli("status", "--check").code == 1
    checked = place.cli("doctor", "--json")
    assert checked.code == 1
    assert any(run in row["detail"] for row in checked.json if not row["ok"])
    daemon = place.daemon().ready()
    assert daemon.health()["runs"] == {"running": 0, "unknown": 1, "held": 1, "paused": 0}
    assert daemon.value("vmsh_runs_held") == 1
    assert place.cli("trigger", JOB).code == 2
    daemon.stop()
    assert len(Stub(place).calls()) == 1


@pytest.mark.parametrize("verdict", ["ok", "failed", "retry"])
def test_resolve_lets_it_go_on(place: Place, live: bool, verdict: str) -> None:
    run = unknown_run(place)
    daemon = place.daemon().ready() if live else None
    assert place.cli("resolve", run, "--as", verdict, "--json").ok().json == {"job": JOB, "run": run, "as": verdict}
    if daemon is None:
        daemon = place.daemon().ready()
    if verdict == "retry":
        line = daemon.wait_line("anchor success")
        (first, second) = Stub(place).calls()
        assert line["attempt"] == 2
        assert second["stdin"]["idempotency_key"] == first["stdin"]["idempotency_key"]
        assert second["env"]["VMSH_PREVIOUS_OUTCOME"] == "unknown"
    assert row(place)["held"] == ""
    assert row(place)["backoff"] == (1 if verdict == "failed" else 0)
    if verdict == "ok":
        assert row(place)["last_success"] is not None
        assert len(Stub(place).calls()) == 1
    assert daemon.health()["runs"]["held"] == 0
    daemon.stop()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("resolve nosuch --as ok", 1),
        ("resolve nosuch --as maybe", 2),
        ("trigger ns/nosuch", 1),
        ("pause ns/nosuch", 1),
        ("why ns/nosuch", 1),
        ("pause ns/fast --until soon", 2),
    ],
)
def test_what_makes_no_sense_is_refused_and_nothing_changes(place: Place, live: bool, command: str, code: int) -> None:
    daemon = begin(place, live)
    refused = place.cli(*command.split())
    assert refused.code == code
    assert refused.out == ""
    assert refused.err.startswith("vmsh-scheduler: ")
    assert "Traceback" not in refused.err
    assert not row(place)["paused"]
    if daemon:
        daemon.stop()


def test_the_socket_is_for_the_owner_alone(place: Place) -> None:
    daemon = begin(place, True)
    assert daemon
    socket = place.state.parent / "control.sock"
    assert stat.S_IMODE(socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(place.state.parent.stat().st_mode) == 0o700
    daemon.stop()


def test_what_was_done_stands_in_the_files_at_once(place: Place) -> None:
    """Acknowledged means durable: kill -9 right after the answer loses nothing."""
    daemon = begin(place, True)
    assert daemon
    place.cli("pause", JOB, "--note", "before the crash").ok()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert "before the crash" in why(place)["text"]
    assert json.loads(Path(place.state).read_text()) is not None
