"""The short forms of the command line mean what the full parser takes them for, and load nothing they do not need."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from vmsh_scheduler.cli import daily, full
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.short import COMMANDS, short_form

Seen = list[tuple[str, dict[str, str], Path | None, dict[str, bool]]]

UNDERSTOOD = (
    "run",
    "tick",
    "tick --json --quiet-if-running",
    "status",
    "status --json",
    "status --json --check --json",
    "--root /r run",
    "--namespaces n.yaml --agents a.yaml --config s.yaml --state x/s.json --env-file .env status --check",
    "--root /r --root /s tick",
)
LEFT_TO_THE_PARSER = (
    "",
    "--help",
    "run --help",
    "run --json",
    "tick --no-quiet-if-running",
    "status --watch",
    "status extra",
    "--root",
    "--root run",
    "--root --json run",
    "--root=/r run",
    "--json status",
    "next",
    "why ns/fast",
    "nosuch",
)
LIBRARIES = {"typer", "rich", "aiohttp", "prometheus_client", "tenacity"}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """What the commands were called with, by whichever way."""
    calls: Seen = []

    def spy(name: str) -> None:
        def command(context: Context, **switches: bool) -> int:
            on = {switch: value for switch, value in switches.items() if value}
            calls.append((name, context.flags, context.env_file, on))
            return 0

        monkeypatch.setattr(daily, name, command)
        monkeypatch.setitem(COMMANDS, name, (command, COMMANDS[name][1]))

    for name in COMMANDS:
        spy(name)
    return calls


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_what_is_understood_means_the_same_to_the_full_parser(line: str, seen: Seen) -> None:
    command = short_form(line.split())
    assert command is not None
    assert command() == 0
    assert full.main(line.split()) == 0
    short, parsed = seen
    assert short == parsed


@pytest.mark.parametrize("line", LEFT_TO_THE_PARSER)
def test_everything_else_is_left_to_the_full_parser(line: str) -> None:
    assert short_form(line.split()) is None


def test_an_empty_value_is_left_to_it_too() -> None:
    assert short_form(["--root", "", "run"]) is None


@pytest.mark.parametrize("argv", [["status", "--json"], ["tick", "--json"]])
def test_looking_loads_neither_the_loop_nor_the_libraries_of_others(argv: Sequence[str], tmp_path: Path) -> None:
    """A tick finds nothing to do here only because the one before it did it."""
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "agents.yaml").write_text("agents: []\n")
    (tmp_path / "config" / "namespaces.yaml").write_text(
        "namespaces: {ns: {cadence: {fast: {target: 'local:t', every: 1d}}}}\n"
    )
    once(["tick"], tmp_path)
    loaded = once(argv, tmp_path)
    assert loaded.isdisjoint(LIBRARIES | {"asyncio", "sqlite3"})
    assert {"yaml", "pydantic"} <= loaded, "the files have to be read"


def once(argv: Sequence[str], directory: Path) -> set[str]:
    """The modules that were loaded when the command ended."""
    program = (
        "import os, sys; sys.argv[1:] = sys.argv[1].split(); real = os._exit\n"
        "os._exit = lambda code: (print('\\n', *sys.modules, file=sys.stderr, flush=True), real(code))\n"
        "from vmsh_scheduler.__main__ import main; main()"
    )
    command = [sys.executable, "-c", program, " ".join(argv)]
    done = subprocess.run(
        command, cwd=directory, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"}
    )
    return set(done.stderr.splitlines()[-1].split())
