"""All files of one reading -> one JobSet: what is asked for. child.py asks a process of its own (decision 21)."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vmsh_scheduler.settings import Judge, no_judge
from vmsh_scheduler.sources.compiled import JobSet, Readable, Wanted


@dataclass(frozen=True, slots=True)
class Defaults:
    """The part of the settings that decides how files compile (compiled.Wanted)."""

    root: Path
    keys_dir: Path
    base_backoff: int
    max_backoff: int
    commands: Mapping[str, tuple[str, ...]]
    pass_env: tuple[str, ...]
    journal_path: Path | None = None

    @classmethod
    def of(cls, wanted: Wanted) -> "Defaults":
        commands = {scheme: tuple(argv) for scheme, argv in wanted.commands.items()}
        numbers = wanted.base_backoff, wanted.max_backoff
        pass_env = tuple(wanted.pass_env)
        return cls(wanted.root, wanted.keys_dir, *numbers, commands, pass_env, wanted.journal_path)


class Request(NamedTuple):
    """Everything a compilation depends on, in a form that can be sent to another process."""

    raw: Mapping[str, bytes]
    names: Mapping[str, str]
    sha256: str
    wanted: Defaults
    environ: Mapping[str, str]
    niceness: int = 0


class SettingsRequest(NamedTuple):
    """What the settings depend on, beside scheduler.yaml."""

    flags: Mapping[str, object]
    environ: Mapping[str, str]
    cwd: Path
    judge: Judge = no_judge
    """A function of a module, so that it can be sent."""


def compile_files(reading: Readable, wanted: Wanted, environ: Mapping[str, str]) -> JobSet:
    """Here and now; raises ConfigError with all problems of all files."""
    # pydantic and YAML, which the daemon never loads: a child compiles for it
    from vmsh_scheduler.sources.pipeline import compile_all

    return compile_all(reading, wanted, environ)
