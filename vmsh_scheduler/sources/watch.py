"""Notices when config files change, and hands out only what has settled.

A change counts when two looks, at least SETTLE ms apart, find the same; so half-written files, and the moments in
which an editor has moved a file away, are not seen. An empty file is taken for half-written until EMPTY_DEADLINE.
Files that do not come to rest within REST_DEADLINE are reported once and read when they do.

`subPath` mounts of Kubernetes never change (kubernetes#50345): mount the whole ConfigMap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.sources.config_files import Look, Signature, Watched, data_links, is_blank, look, signature
from vmsh_scheduler.sources.marks import config_error

SETTLE: Millis = 200
EMPTY_DEADLINE: Millis = 5 * SECOND
REST_DEADLINE: Millis = 30 * SECOND
_TRIES = 5


class Reading(NamedTuple):
    """Contents and display names by role, of one moment; `sha256` is over all of them."""

    raw: Mapping[str, bytes]
    names: Mapping[str, str]
    sha256: str
    warnings: tuple[str, ...] = ()


class Unstable(NamedTuple):
    """Something is changing; it can have settled at `again_at` (the clock `poll` is called with)."""

    again_at: Millis


class Trouble(NamedTuple):
    """Files that cannot be read, `path: what is wrong` each: keep the last good configuration. Given once."""

    problems: tuple[str, ...]


class _Pending(NamedTuple):
    signature: Signature
    found: Look
    since: Millis
    """When this was found."""
    began: Millis
    """When things began to change."""


@dataclass(slots=True)
class ConfigWatch:
    """Time comes in as ms of a clock that never steps. Does no waiting; a look reads at most 10 MB per file."""

    files: Sequence[Watched]
    _paths: list[str] = field(default_factory=list)
    _seen: Signature | None = None
    _settled: str = ""
    """Digest of what was handed out last, trouble included."""
    _roles: frozenset[str] = frozenset()
    """What the last good reading held: of this, nothing may disappear silently."""
    _pending: _Pending | None = None
    _complained: bool = False

    def is_quiet(self) -> bool:
        """True if `poll` would find nothing new, for one stat per file."""
        return self._pending is None and signature(self._watched_paths()) == self._seen

    def gives_up_superseded(self) -> bool:
        """True if something was written since the last Reading; what is there then is handed out, were it the same."""
        if self.is_quiet():
            return False
        self._settled = ""
        return True

    def poll(self, now: Millis) -> Reading | Trouble | Unstable | None:
        """None: nothing new. Reads what has changed.

        After a Trouble, a Reading tells that all is well again, even if its sha256 is the old one."""
        if self.is_quiet():
            return None
        stamps = signature(self._watched_paths())
        pending = self._pending
        if pending and stamps == pending.signature and now < pending.since + SETTLE:
            return Unstable(pending.since + SETTLE)
        return self._compare(stamps, self._look(), now)

    def read_now(self) -> Reading:
        """For start and for SIGHUP: what is there now. Raises ConfigError with every file that cannot be used."""
        for _ in range(_TRIES):
            self._paths = []
            stamps = signature(self._watched_paths())
            found = look(self.files)
            if signature(self._watched_paths()) == stamps:
                break
        self._rest(stamps, found)
        if problems := self._problems(found):
            raise config_error(problems)
        return self._reading(found)

    def _watched_paths(self) -> list[str]:
        if not self._paths:
            self._paths = [str(path) for path in (*(file.path for file in self.files), *data_links(self.files))]
        return self._paths

    def _look(self) -> Look:
        """An optional file that was there may not vanish unnoticed: a restart or SIGHUP accepts it."""
        return look([file._replace(optional=file.optional and file.role not in self._roles) for file in self.files])

    def _compare(self, stamps: Signature, found: Look, now: Millis) -> Reading | Trouble | Unstable | None:
        if found.sha256 == self._settled and not self._complained:
            self._rest(stamps, found)
            return None
        pending = self._pending
        began = pending.began if pending else now
        same = pending is not None and pending.found.sha256 == found.sha256 and pending.signature == stamps
        if same and not (found.empty and now < began + EMPTY_DEADLINE):
            self._rest(stamps, found)
            problems = self._problems(found)
            return Trouble(problems) if problems else self._reading(found)
        self._pending = _Pending(stamps, found, now, began)
        return self._restless(now, began)

    def _restless(self, now: Millis, began: Millis) -> Trouble | Unstable:
        if now < began + REST_DEADLINE or self._complained:
            return Unstable(now + SETTLE)
        self._complained = True
        names = ", ".join(file.name for file in self.files)
        return Trouble((f"{names}: changing for over {REST_DEADLINE // SECOND} s without coming to rest",))

    def _rest(self, stamps: Signature, found: Look) -> None:
        self._seen, self._settled, self._pending, self._complained = stamps, found.sha256, None, False
        self._paths = []
        if not found.problems and not found.empty:
            self._roles = frozenset(found.raw)

    def _problems(self, found: Look) -> tuple[str, ...]:
        empty = [f"{file.name}: is empty" for file in self.files if is_blank(found.raw.get(file.role, b"-"))]
        return (*found.problems.values(), *empty)

    def _reading(self, found: Look) -> Reading:
        names = {file.role: file.name for file in self.files if file.role in found.raw}
        return Reading(found.raw, names, found.sha256, found.warnings)
