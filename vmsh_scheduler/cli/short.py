"""`run`, `tick` and `status` in their usual forms. The library behind the whole command line takes 80 ms to load, and
a daemon would keep 5 MB of it; help, rare options and mistakes are left to it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.cli.daily import run, status, tick

PATHS = {
    "--root": "root",
    "--namespaces": "namespaces",
    "--agents": "agents",
    "--config": "scheduler",
    "--state": "state",
    "--env-file": "env_file",
}
"""Options in front of the command, each with a value."""
COMMANDS: Mapping[str, tuple[Callable[..., int], frozenset[str]]] = {
    "run": (run, frozenset()),
    "tick": (tick, frozenset({"--json", "--quiet-if-running"})),
    "status": (status, frozenset({"--json", "--check", "--agents"})),
}
"""With the switches that are usual."""


def short_form(argv: Sequence[str]) -> Callable[[], int] | None:
    """None: the full parser shall judge it. Whatever is understood here means the same there."""
    paths, rest = _paths(argv)
    name, *switches = rest or [""]
    command, known = COMMANDS.get(name, (None, frozenset()))
    if command is None or not known.issuperset(switches):
        return None
    env_file = paths.pop("env_file", None)
    context = Context(paths, None if env_file is None else Path(env_file))
    return partial(command, context, **{switch.removeprefix("--").replace("-", "_"): True for switch in switches})


def _paths(argv: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The options in front, and what follows the last one that is clear."""
    found: dict[str, str] = {}
    rest = list(argv)
    while len(rest) > 1 and rest[0] in PATHS and not rest[1].startswith("-") and rest[1]:
        option, value, *rest = rest
        found[PATHS[option]] = value
    return found, rest
