"""What compiling a file needs and gives, and the parts of a Job that both files make alike."""

import hashlib
import json
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from vmsh_scheduler.domain.action import Action, Command, ErrorRule, Limits
from vmsh_scheduler.domain.job import Job, Policy, Subject
from vmsh_scheduler.domain.trigger import SECOND, Interval, Millis, Trigger
from vmsh_scheduler.sources.grammar import Target

if TYPE_CHECKING:  # the models cost 60 ms of imports that a daemon whose files a child compiles never needs
    from vmsh_scheduler.sources.documents import CommandSpec

T = TypeVar("T")
P = TypeVar("P", Trigger, Interval, Policy)

Place = tuple[str | int, ...]
"""Path of a key or value inside a document."""

GRACE: Millis = 10 * SECOND
ANCHORS = ("{python}", "-P", "-m", "vmsh_scheduler.anchors")
"""The program of our verbs."""


class Rail(NamedTuple):
    """How a cadence without a command anchors: a verb of ours, with an entry of anchors.yaml as written."""

    verb: str
    name: str
    entry: Mapping[str, Any]
    variables: tuple[str, ...]
    """Names that its subprocess must see of the environment."""

    @property
    def told(self) -> dict[str, object]:
        """What its subprocess is told of it on stdin, beside `root` and `target`."""
        return {"rail": self.entry, "railName": self.name}


class Rails(Protocol):
    """anchors.yaml, as the compiler of cadences sees it."""

    def rail(self, target: Target) -> Rail | None:
        """None: no entry is there for it."""
        ...


class Flaw(NamedTuple):
    """Something wrong, or doubtful, at a place of one document; `at_key`: the key itself, not what it holds."""

    place: Place
    message: str
    at_key: bool = False


@dataclass(slots=True)
class Compiled:
    """What one file gave so far; with problems, its jobs are not complete."""

    jobs: dict[str, Job] = field(default_factory=dict)
    problems: list[Flaw] = field(default_factory=list)
    rails: Rails | None = None
    """None: there is no anchors.yaml."""
    _made: dict[Hashable, Any] = field(default_factory=dict)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What many jobs have alike is made once, and so held once by the daemon. `key`: all that it depends on."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def part(self, key: Hashable, make: Callable[[], P]) -> tuple[P, str]:
        """The same of a part of a job, with its text for `revision`."""

        def with_text() -> tuple[P, str]:
            made = make()
            return made, text_of(made)

        return self.once(("part", key), with_text)


class Wanted(Protocol):
    """What of the settings decides how files compile."""

    @property
    def root(self) -> Path: ...
    @property
    def keys_dir(self) -> Path: ...
    @property
    def journal_path(self) -> Path | None: ...
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


class JobSet(NamedTuple):
    """What the files say, all of it valid."""

    jobs: Mapping[str, Job]
    config_hash: str
    warnings: tuple[str, ...] = ()
    """As file:line:col: path: message."""
    counts: Mapping[str, int] = {}
    """namespaces, cadences, agents."""


def revision(*parts: str) -> str:
    """16 hex digits over the texts of trigger, action, policy and subject; equal in every process. Holds no value
    that could be read back."""
    return hashlib.sha256(f"[{','.join(parts)}]".encode()).hexdigest()[:16]


def text_of(part: Trigger | Action | Policy | Subject | None) -> str:
    """Canonical: equal parts have equal texts."""
    return _canonical.encode(_plain(part))


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_JSON = frozenset({str, int, float, bool, type(None)})


def _plain(value: object) -> object:
    """JSON values; a record carries its class name, because a union's members may look alike."""
    kind: Any = type(value)
    if kind in _JSON:
        return value
    if names := _names(kind):
        return {"": kind.__name__, **_plain_items(zip(names, map(value.__getattribute__, names), strict=True))}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return _plain_items((str(_plain(key)), item) for key, item in value.items())
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _plain_items(items: Iterable[tuple[str, object]]) -> dict[str, object]:
    return {key: item if type(item) in _JSON else _plain(item) for key, item in items}


@cache
def _names(kind: Hashable) -> tuple[str, ...]:
    """The fields of a class of records, be they dataclasses or tuples; of any other class, none."""
    return tuple(getattr(kind, "__dataclass_fields__", ())) or getattr(kind, "_fields", ())


def command(
    spec: "CommandSpec",
    argv: tuple[str, ...],
    wanted: Wanted,
    into: Compiled,
    *,
    payload: Mapping[str, object],
    env: Mapping[str, str],
    pass_env: tuple[str, ...] = (),
    rules: tuple[ErrorRule, ...] = (),
    probe: tuple[str, ...] = (),
) -> Command:
    """`spec` filled up from the settings; `env` holds the file's already, `pass_env` is the source's own."""
    return Command(
        argv=with_python(argv),
        payload=payload,
        env=env,
        pass_env=into.once(
            ("pass_env", pass_env, spec.pass_env), lambda: _each_once(*wanted.pass_env, *pass_env, *spec.pass_env)
        ),
        cwd=into.once(("cwd", spec.cwd), lambda: directory(wanted.root / (spec.cwd or "."))),
        umask=None if spec.umask is None else int(spec.umask, 8),
        limits=None if spec.limits is None else Limits(**spec.limits.model_dump()),
        rules=rules,
        probe=with_python(probe),
        outlive=spec.outlive,
        grace=GRACE if spec.grace is None else spec.grace,
    )


def _each_once(*names: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def directory(path: Path) -> str | None:
    """None for the daemon's own directory: entering it would cost every run a shell (decision 14)."""
    return None if path == Path.cwd() else str(path)


def with_python(argv: tuple[str, ...]) -> tuple[str, ...]:
    """`{python}` as the program is the interpreter that runs us, so that our own commands need no PATH."""
    return (sys.executable, *argv[1:]) if argv[:1] == ("{python}",) else argv
