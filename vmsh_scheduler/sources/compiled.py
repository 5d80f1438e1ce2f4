"""What compiling a file needs and gives, and the parts of a Job that both files make alike."""

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vmsh_scheduler.domain.action import Action, Command, ErrorRule, Limits
from vmsh_scheduler.domain.job import Job, Policy, Subject
from vmsh_scheduler.domain.trigger import SECOND, Millis, Trigger

if TYPE_CHECKING:  # the models cost 60 ms of imports that a daemon whose files a child compiles never needs
    from vmsh_scheduler.sources.documents import CommandSpec

Place = tuple[str | int, ...]
"""Path of a key or value inside a document."""

GRACE: Millis = 10 * SECOND


@dataclass(frozen=True, slots=True)
class Flaw:
    """Something wrong, or doubtful, at a place of one document; `at_key`: the key itself, not what it holds."""

    place: Place
    message: str
    at_key: bool = False


@dataclass(slots=True)
class Compiled:
    """What one file gave so far; with problems, its jobs are not complete."""

    jobs: dict[str, Job] = field(default_factory=dict)
    problems: list[Flaw] = field(default_factory=list)
    warnings: list[Flaw] = field(default_factory=list)


class Wanted(Protocol):
    """What of the settings decides how files compile."""

    @property
    def root(self) -> Path: ...
    @property
    def keys_dir(self) -> Path: ...
    @property
    def base_backoff(self) -> int: ...
    @property
    def max_backoff(self) -> int: ...
    @property
    def commands(self) -> Mapping[Any, tuple[str, ...]]:
        """Default argv by scheme. Any: the settings' keys are a Literal, and a Mapping's key type is invariant."""
        ...

    @property
    def pass_env(self) -> tuple[str, ...]: ...


class Readable(Protocol):
    """The files as they were read: `raw` and `names` (for messages) by role, one hash over all."""

    @property
    def raw(self) -> Mapping[str, bytes]: ...
    @property
    def names(self) -> Mapping[str, str]: ...
    @property
    def sha256(self) -> str: ...


@dataclass(frozen=True, slots=True)
class JobSet:
    """What the files say, all of it valid."""

    jobs: Mapping[str, Job]
    config_hash: str
    warnings: tuple[str, ...] = ()
    """As file:line:col: path: message."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """namespaces, cadences, agents."""


def revision(trigger: Trigger, action: Action, policy: Policy, subject: Subject | None) -> str:
    """16 hex digits over all four; equal in every process. Holds no value that could be read back."""
    text = json.dumps(
        [_plain(part) for part in (trigger, action, policy, subject)],
        sort_keys=True,
        separators=(",", ":"),
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: object) -> object:
    """JSON values; a dataclass carries its class name, because a union's members may look alike."""
    if is_dataclass(value) and not isinstance(value, type):
        return {"": type(value).__name__, **{f.name: _plain(getattr(value, f.name)) for f in fields(value)}}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def command(
    spec: "CommandSpec",
    argv: tuple[str, ...],
    wanted: Wanted,
    *,
    payload: Mapping[str, object],
    env: Mapping[str, str],
    pass_env: tuple[str, ...] = (),
    rules: tuple[ErrorRule, ...] = (),
    probe: tuple[str, ...] = (),
) -> Command:
    """`spec` filled up from the settings; `env` and `pass_env` are the source's own and lose against the file's."""
    return Command(
        argv=with_python(argv),
        payload=payload,
        env={**env, **spec.env},
        pass_env=tuple(dict.fromkeys((*wanted.pass_env, *pass_env, *spec.pass_env))),
        cwd=_directory(wanted.root / (spec.cwd or ".")),
        umask=None if spec.umask is None else int(spec.umask, 8),
        limits=None if spec.limits is None else Limits(**spec.limits.model_dump()),
        rules=rules,
        probe=with_python(probe),
        outlive=spec.outlive,
        grace=GRACE if spec.grace is None else spec.grace,
    )


def _directory(path: Path) -> str | None:
    """None for the daemon's own directory: entering it would cost every run a shell (decision 14)."""
    return None if path == Path.cwd() else str(path)


def with_python(argv: tuple[str, ...]) -> tuple[str, ...]:
    """`{python}` as the program is the interpreter that runs us, so that our own commands need no PATH."""
    return (sys.executable, *argv[1:]) if argv[:1] == ("{python}",) else argv
