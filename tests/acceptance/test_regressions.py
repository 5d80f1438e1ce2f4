"""Defects that an audit found once, each as a user would meet it again."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import COMMAND, Place, until
from tests.support.faults import alive, site


def pids(place: Place, name: str = "pid") -> list[int]:
    path = place.root / name
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def document(target: str, argv: str, *more: str) -> str:
    lines = "\n".join(f"        {line}" for line in more)
    return f"""namespaces:
  ns:
    seal: {{files: ["data/*"]}}
    cadence:
      fast:
        target: {target}
        every: 1h
        command: {argv}
{lines}
  other:
    seal: {{files: ["data/*"]}}
    cadence: {{fast: {{target: "local:other", every: 1h, command: ["true"]}}}}
"""


@pytest.fixture
def data(place: Place) -> Place:
    place.write("data/a.txt", "a")
    return place


def test_pausing_another_job_without_a_daemon_leaves_a_living_run_alone(data: Place) -> None:
    """Its chain transaction may be on its way: nobody but the next daemon or tick looks after it."""
    data.configure(document("btc:mainnet", '[sh, -c, "echo $$$$ >> pid; sleep 60"]'))
    daemon = data.daemon().ready()
    until(lambda: pids(data), "the command")
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.process.wait()
    data.cli("pause", "other/fast").ok()
    assert alive(pids(data)[0])
    again = data.daemon().ready()
    assert again.wait_line("runs recovered")["adopted"] == 1
    again.kill()


def test_a_busy_port_costs_no_anchor(data: Place) -> None:
    data.configure(document("local:a", '[sh, -c, "echo $$$$ >> pid"]'))
    with socket.create_server(("127.0.0.1", 0)) as busy:
        done = data.cli("run", env={"METRICS_PORT": str(busy.getsockname()[1])})
    assert done.code == os.EX_UNAVAILABLE
    assert "METRICS_PORT" in done.err
    assert pids(data) == []


def test_a_tick_that_is_told_to_stop_ends_its_commands(data: Place) -> None:
    data.configure(document("local:a", '[sh, -c, "echo $$$$ >> pid; sleep 60"]', "crash_exact: false"))
    tick = data.daemon(verb="tick")
    until(lambda: pids(data), "the command")
    tick.signal(signal.SIGTERM)
    assert tick.wait(20) == 1
    assert not alive(pids(data)[0])


def test_lost_state_stays_lost_until_a_daemon_has_waited(data: Place) -> None:
    data.configure(document("local:a", '["true"]'))
    data.cli("tick").ok()
    for path in data.state.parent.glob("scheduler.json*"):
        path.write_text("{bad")
    for command in (["tick"], ["pause", "ns/fast"], ["tick"]):
        assert data.cli(*command).code == os.EX_DATAERR, command


def test_an_unset_variable_resolves_nothing(data: Place) -> None:
    data.configure(document("local:a", '["false"]'))
    data.cli("tick")
    done = data.cli("resolve", "", "--as", "ok")
    assert done.code == 1
    assert "no held run" in done.err
    assert data.cli("status", "--json").json["jobs"][0]["last_success"] is None


def test_another_target_is_anchored_though_the_files_are_the_same(data: Place) -> None:
    for target in ("local:one", "local:two"):
        data.configure(document(target, f'[sh, -c, "echo {target[-1]} >> done; echo 1 >> pid"]'))
        data.cli("trigger", "ns/fast")
        data.cli("tick").ok()
    assert (data.root / "done").read_text().split() == ["e", "o"]


def test_what_a_command_prints_cannot_draw_on_the_terminal(data: Place) -> None:
    data.configure(document("local:a", r"""[sh, -c, "printf '[/foo] \\033[1A fake \\n' >&2; exit 3"]"""))
    data.cli("tick")
    for command in ("status", "history"):
        shown = data.cli(command).ok().out
        assert "[/foo]" in shown
        assert "\x1b" not in shown
        assert "\\x1b[1A" in shown


def test_secrets_of_a_command_are_nowhere_to_be_read(data: Place) -> None:
    """Of the environment, of `env:`, in its result and in its words."""
    words = """echo "{\\"x\\": \\"$MY_TOKEN $INFURA_APIKEY\\"}"; echo $MY_TOKEN $INFURA_APIKEY >&2; exit 3"""
    data.write("tell.sh", words)
    extra = ('env: {MY_TOKEN: "canary-one-1"}', "pass_env: [INFURA_APIKEY]")
    data.configure(document("local:a", "[sh, tell.sh]", *extra))
    data.cli("tick", env={"INFURA_APIKEY": "canary-two-2"})
    outputs = [data.cli(*words).out for words in (["status", "--json"], ["history", "--json"], ["config", "show"])]
    files = [path.read_bytes() for path in data.state.parent.rglob("*") if path.is_file()]
    for canary in ("canary-one-1", "canary-two-2"):
        assert not any(canary in text for text in outputs)
        assert not any(canary.encode() in raw for raw in files)


def test_a_closed_stdout_and_a_full_one_are_no_tracebacks(tmp_path: Path) -> None:
    place = site(tmp_path)
    place.configure(place.work("quick"))
    for sink in ("/dev/full", "&-"):
        line = f'exec "$0" status >{sink}'
        words = ["sh", "-c", line, str(COMMAND)]
        done = subprocess.run(words, cwd=place.place.root, env=place.place.env(), capture_output=True, text=True)
        assert done.returncode == (os.EX_IOERR if sink == "/dev/full" else 0)
        assert "Traceback" not in done.stderr


def test_questions_about_nothing_are_answered(data: Place) -> None:
    data.configure(document("local:a", '["true"]'))
    assert data.cli("history", "no/such").code == 1
    data.configure("namespaces: [")
    done = data.cli("why", "ns/fast")
    assert done.code == os.EX_CONFIG
    assert "namespaces.yaml:2" in done.err
