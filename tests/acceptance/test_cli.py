"""The command line's manners: one JSON document on stdout, messages on stderr, exit codes that mean one thing."""

import json
import os
import pty
import re
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.daemon import COMMAND, Place
from tests.support.stubs import cadences, put_batch
from vmsh_scheduler import __version__

REPOSITORY = Path(__file__).parents[2]
HOURLY = cadences(fast="every: 1h", strong="every: 2h")
SEALED = """\
namespaces:
  demo:files:
    seal: {files: ["docs/*.md"]}
    cadence:
      fast: {target: "local:demo", every: 1h}
"""
JSON_COMMANDS = (
    "status",
    "next",
    "next ns/fast -n 3",
    "why ns/fast",
    "why ns/fast --at -1s",
    "history",
    "history ns/fast --limit 1",
    "history --verify",
    "validate-config",
    "config show",
    "config show --no-origin",
    "doctor",
    "verify",
    "trigger ns/strong",
    "pause ns/strong --until 1h --note why",
    "resume ns/strong",
    "reset ns/strong",
    "reload",
)


@pytest.mark.parametrize("live", [True, False], ids=["live", "alone"])
def test_every_command_gives_one_json_document(place: Place, live: bool) -> None:
    place.configure(HOURLY)
    put_batch(place)
    place.cli("tick").ok()
    daemon = place.daemon().ready() if live else None
    for command in JSON_COMMANDS:
        done = place.cli(*command.split(), "--json").ok()
        assert json.loads(done.out) is not None, command
    if daemon:
        daemon.stop()


def test_answers_are_the_same_with_and_without_a_daemon(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    place.cli("tick").ok()
    timeless = ("status", "next", "history")

    def answers() -> dict[str, object]:
        found = {command: place.cli(command, "--json").ok().json for command in timeless}
        for document in found.values():
            for passing in ("now", "source", "fence"):
                document.pop(passing, None)
        return found

    alone = answers()
    daemon = place.daemon().ready()
    assert answers() == alone
    daemon.stop()


def test_seal_proof_and_verify_give_json(place: Place) -> None:
    place.configure(SEALED)
    place.write("docs/a.md", "a\n")
    sealed = place.cli("seal", "--json").ok().json["demo:files"]
    assert sealed["root"].startswith("sha256:")
    place.cli("tick").ok()
    proof = place.cli("proof", "docs/a.md").ok().json
    assert proof["format"].startswith("vmsh-proof.v1") or "vmsh-proof.v1" in json.dumps(proof)
    assert place.cli("verify", "docs/a.md", "--json").ok().json["ok"]
    place.write("docs/a.md", "b\n")
    changed = place.cli("verify", "--json")
    assert (changed.code, changed.json["ok"]) == (1, False)
    assert any("changed since sealed" in row["detail"] for row in changed.json["rows"])


def test_version() -> None:
    for argv in (["--version"], ["--version", "status"]):
        done = subprocess.run([COMMAND, *argv], capture_output=True, text=True, check=True, timeout=30)
        assert done.stdout == f"vmsh-scheduler {__version__}\n"


def test_help_names_every_command_of_the_readme(place: Place) -> None:
    shown = place.cli("--help").ok().out
    commands = re.findall(r"`vmsh-scheduler ([a-z-]+)", (REPOSITORY / "README.md").read_text())
    assert len(set(commands)) > 15
    assert [word for word in commands if f" {word} " not in shown] == []


def on_a_terminal(place: Place, *args: str, **env: str) -> str:
    """What the command writes when stdout is a terminal."""
    outer, inner = pty.openpty()
    try:
        more = {"TERM": "xterm-256color", **env}
        process = subprocess.Popen([COMMAND, *args], cwd=place.root, env=place.env(more), stdout=inner, stderr=inner)
        os.close(inner)
        written = b""
        with suppress(OSError):  # EIO: the other end is closed
            while piece := os.read(outer, 4096):
                written += piece
        assert process.wait(30) == 0
    finally:
        os.close(outer)
    return written.decode()


def test_colour_is_for_terminals_that_want_it(place: Place) -> None:
    place.configure(HOURLY)
    assert "\x1b[" in on_a_terminal(place, "status")
    for env in ({"NO_COLOR": "1"}, {"VMSH_NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b[3" not in on_a_terminal(place, "status", **env)
    assert "\x1b[" not in place.cli("status").ok().out
    assert "\x1b" not in on_a_terminal(place, "status", "--json")


def test_a_reader_that_goes_away_is_no_error(place: Place) -> None:
    """`vmsh-scheduler schema namespaces | head -1`"""
    done = subprocess.run(
        ["sh", "-c", '"$0" schema namespaces | head -1', str(COMMAND)],
        cwd=place.root,
        env=place.env(),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command",
    [
        "nosuch",
        "status --nosuch",
        "why",
        "next -n 0",
        "next -n many",
        "schema nosuch",
        "pause ns/fast --until",
        "resolve x",
        "config",
        "",
    ],
)
def test_wrong_use_is_exit_2_and_never_a_traceback(place: Place, command: str) -> None:
    place.configure(HOURLY)
    done = place.cli(*command.split())
    assert done.code == 2
    assert "Traceback" not in done.err
    assert done.err.startswith("vmsh-scheduler: ") or "Usage:" in done.out


def test_a_state_that_cannot_be_created_is_73(place: Place) -> None:
    place.configure(HOURLY)
    place.write("file", "")
    done = place.cli("--state", "file/x/scheduler.json", "tick")
    assert done.code == 73
    assert "file/x" in done.err


def test_a_state_that_others_may_write_is_77_with_what_mends_it(place: Place) -> None:
    place.configure(HOURLY)
    directory = place.state.parent
    directory.mkdir()
    directory.chmod(0o777)
    done = place.cli("tick")
    assert done.code == 77
    assert f"chmod go-w {directory}" in done.err
    directory.chmod(0o700)
    place.cli("tick").ok()


def test_newer_state_is_65_and_left_alone(place: Place) -> None:
    place.configure(HOURLY)
    place.cli("tick").ok()
    document = json.loads(place.state.read_text())
    document["_meta"]["schema"] = 999
    text = json.dumps(document)
    place.state.write_text(text)
    done = place.cli("tick")
    assert done.code == 65, done.err
    assert "newer" in done.err
    assert place.state.read_text() == text


def test_every_problem_is_told_at_once_with_its_place(place: Place) -> None:
    place.configure(
        """\
namespaces:
  ns:
    cadence:
      fast: {target: "eth:1", every: 10}
      strong: {target: "btc:mainnet", every: 34*fats}
      cold: {target: "local:t", evry: 1d}
""",
        scheduler="tick_ms: soon\n",
    )
    done = place.cli("validate-config")
    assert done.code == 78
    assert done.out == ""
    assert "Traceback" not in done.err
    assert any(line.startswith("config/scheduler.yaml:1:") and "tick_ms" in line for line in done.err.splitlines())
    place.write("config/scheduler.yaml", "tick_ms: 1000\n")
    problems = place.cli("validate-config", "--json")
    assert problems.code == 78
    assert problems.json["ok"] is False
    for expected in (
        "4:22: namespaces.ns.cadence.fast.target: ",
        "4:38: namespaces.ns.cadence.fast.every: ",
        "there is no level `fats` here (did you mean fast?)",
        "6:33: namespaces.ns.cadence.cold.evry: unknown key; did you mean `every`?",
    ):
        assert any(expected in line for line in problems.json["problems"]), (expected, problems.json)
    assert [line for line in problems.err.splitlines() if line.startswith("config/namespaces.yaml:")] == [
        *problems.json["problems"]
    ]


def test_warnings_are_told_and_are_no_errors(place: Place) -> None:
    place.configure(HOURLY.replace("  ns:", "  ns::"))
    done = place.cli("validate-config").ok()
    assert done.err.startswith("warning: config/namespaces.yaml:2:")
    assert done.out == "valid: 1 namespaces, 2 cadences, 0 agents\n"


@pytest.mark.parametrize("which", ["namespaces", "agents", "scheduler"])
def test_schema_prints_what_is_shipped_for_editors(place: Place, which: str) -> None:
    schema = place.cli("schema", which).ok().json
    assert schema["$schema"].startswith("http://json-schema.org/draft-07/")
    shipped = REPOSITORY / "config" / "schema" / f"{which}.json"
    assert json.loads(shipped.read_text()) == schema, "run `vmsh-scheduler schema` again for config/schema"


def test_config_show_says_where_every_value_came_from(place: Place) -> None:
    place.configure(HOURLY, scheduler="concurrency: 3\nmetrics_port: 1234\n")
    place.write("more.env", "VMSH_DRAIN_MS=5000\nVMSH_TICK_MS=1\n")
    shown = place.cli(
        "--env-file",
        "more.env",
        "--state",
        "elsewhere/s.json",
        "config",
        "show",
        "--json",
        env={"VMSH_TICK_MS": "2000"},
    )
    rows = {row["name"]: row for row in shown.ok().json}
    assert (rows["concurrency"]["value"], rows["concurrency"]["origin"]) == (3, "config/scheduler.yaml:1:1")
    assert (rows["metrics_port"]["value"], rows["metrics_port"]["origin"]) == (0, "env METRICS_PORT")
    assert (rows["tick_ms"]["value"], rows["tick_ms"]["origin"]) == (2000, "env VMSH_TICK_MS")
    assert (rows["drain_ms"]["value"], rows["drain_ms"]["origin"]) == (5000, "env VMSH_DRAIN_MS")
    assert (rows["base_backoff"]["value"], rows["base_backoff"]["origin"]) == (5, "default")
    assert rows["state_path"]["value"] == str(place.root / "elsewhere" / "s.json")
    assert rows["state_path"]["origin"] == "--state"
    table = place.cli("config", "show", "--origin").ok().out
    assert "concurrency" in table
    assert "config/scheduler.yaml:1:1" in table
    assert "config/scheduler.yaml" not in place.cli("config", "show", "--no-origin").ok().out.split()


@pytest.mark.parametrize(
    ("name", "value"),
    [("VMSH_TICK_MS", "10s"), ("VMSH_TICK_MS", "0"), ("METRICS_PORT", "70000"), ("VMSH_MAX_BACKOFF", "-1")],
)
def test_a_wrong_environment_is_told_by_name(place: Place, name: str, value: str) -> None:
    """The original took `10s` for 10 ms and ticked 700 times a second."""
    place.configure(HOURLY)
    done = place.cli("tick", env={name: value})
    assert done.code == 78
    assert name in done.err


def test_doctor_finds_what_is_wrong_and_is_quiet_when_nothing_is(place: Place) -> None:
    place.configure(HOURLY)
    assert all(row["ok"] for row in place.cli("doctor", "--json").ok().json)
    place.configure(HOURLY.replace('"{python}"', '"no-such-program"'))
    done = place.cli("doctor", "--json")
    assert done.code == 1
    (bad,) = [row for row in done.json if not row["ok"]]
    assert bad["subject"] == "no-such-program"
    assert "ns/fast" in bad["detail"]
    place.configure("namespaces: [")
    broken = place.cli("doctor")
    assert broken.code == 1
    assert "FAILED" in broken.out


def test_reading_commands_leave_no_trace(place: Place) -> None:
    """Looking at an installation that never ran creates nothing."""
    place.configure(HOURLY)
    for command in ("status", "next", "why ns/fast", "history", "doctor", "verify", "validate-config", "config show"):
        place.cli(*command.split()).ok()
    assert sorted(path.name for path in place.root.iterdir()) == ["config"]


def test_another_user_s_home_is_not_needed(place: Place) -> None:
    """HOME and USER may be missing, as in a bare container."""
    place.configure(HOURLY)
    put_batch(place)
    env = {"PATH": os.environ["PATH"], "METRICS_PORT": "0"}
    done = subprocess.run(
        [COMMAND, "tick"], cwd=place.root, env=env, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
