"""scheduler.json: the state as people and the original's tools read it; checksummed, from cached texts."""

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vmsh_scheduler.domain.codec import state_from_json
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.stores.local.records import NOWHERE, Position
from vmsh_scheduler.stores.local.text import state_text, to_text

SCHEMA = 1
SHOWN_BACKOFF_CAP = 7
_OPENING = '{\n  "_meta": {\n    "sha256": "'
_DIGEST = slice(len(_OPENING), len(_OPENING) + 64)
_BLANK = "0" * 64
YIELD_EVERY = 16


@dataclass(frozen=True, slots=True)
class Meta:
    """What a snapshot says about itself; `position`: the log up to there is in it."""

    position: Position = NOWHERE
    fence: int = 0
    config_hash: str = ""
    written_at: Millis = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One `scheduler.json`, read."""

    meta: Meta
    states: Mapping[str, JobState] = field(default_factory=dict)
    old: bool = False
    """Written by the original (v0): no _meta."""


class Corrupt(Exception):
    """Bytes that no version of this program wrote in full. Private to the loader."""


def place(job_id: str) -> tuple[str, str]:
    """(namespace, level), or ("", job id) for what is no namespace's cadence."""
    namespace, slash, level = job_id.rpartition("/")
    return (namespace, level) if slash and namespace and level and not job_id.startswith("_") else ("", job_id)


class Blocks:
    """The snapshot's text in pieces, one per namespace and one per other job; a change renews only its own.

    Nothing else keeps a state's text: a second copy for 10,000 jobs is 6 MB."""

    def __init__(self, states: Mapping[str, JobState]) -> None:
        self._states = states
        self._touched = dict.fromkeys(states)
        self._members: dict[str, tuple[str, ...]] = {}
        """Job ids of each namespace."""
        self._taken: dict[str, dict[str, JobState]] = {}
        self._taken_others: dict[str, JobState | None] = {}
        self._texts: dict[str, bytes] = {}
        self._lines: dict[str, bytes] = {}

    def touch(self, job_id: str) -> None:
        """The state is another one now, or gone."""
        self._touched[job_id] = None

    def take(self) -> None:
        """What `pieces` gives from now on is what holds now; cheap."""
        touched: dict[str, list[str]] = {}
        for job_id in self._touched:
            namespace, _ = place(job_id)
            if namespace:
                touched.setdefault(namespace, []).append(job_id)
            else:
                self._taken_others[job_id] = self._states.get(job_id)
        for namespace, job_ids in touched.items():
            every = dict.fromkeys((*self._members.pop(namespace, ()), *job_ids))
            members = tuple(job_id for job_id in every if job_id in self._states)
            self._taken[namespace] = {place(job_id)[1]: self._states[job_id] for job_id in members}
            if members:
                self._members[namespace] = members
        self._touched.clear()

    def pieces(self) -> tuple[list[bytes], list[bytes]]:
        """Namespace blocks and job lines as of `take`; in any thread, `touch` may go on beside it."""
        for n, (namespace, members) in enumerate(self._taken.items()):
            _give_way(n)
            if members:
                self._texts[namespace] = _namespace_block(namespace, members)
            else:
                self._texts.pop(namespace, None)
        for n, (job_id, state) in enumerate(self._taken_others.items()):
            _give_way(n)
            if state is not None:
                self._lines[job_id] = _line(job_id, state)
            else:
                self._lines.pop(job_id, None)
        self._taken.clear()
        self._taken_others.clear()
        return list(self._texts.values()), list(self._lines.values())


def _give_way(count: int) -> None:
    """Now and then the loop's thread has the interpreter at once instead of after 5 ms."""
    if count % YIELD_EVERY == 0:
        time.sleep(0)


def _line(key: str, state: JobState) -> bytes:
    return f"{to_text(key)}: {state_text(state)}".encode("ascii")


def _namespace_block(namespace: str, members: Mapping[str, JobState]) -> bytes:
    last = {key: state.last_success // 1000 for key, state in members.items() if state.last_success is not None}
    backoff = min(max(state.level for state in members.values()), SHOWN_BACKOFF_CAP)
    head = (
        f'  {to_text(namespace)}: {{\n    "last": {json.dumps(last)},\n    "backoff": {backoff},\n'
        f'    "cadences": {{\n      '
    )
    cadences = b",\n      ".join(_line(key, state) for key, state in members.items())
    return head.encode("ascii") + cadences + b"\n    }\n  }"


def render(meta: Meta, namespaces: Iterable[bytes], jobs: Iterable[bytes]) -> tuple[bytes, bytes]:
    """The whole file in two parts, because each copy of megabytes is felt; pure work, for any thread."""
    head = {
        "schema": SCHEMA,
        "gen": meta.position.gen,
        "offset": meta.position.offset,
        "written_at": _iso(meta.written_at),
        "written_at_ms": meta.written_at,
        "config_hash": meta.config_hash,
        "fence": meta.fence,
    }
    lines = ",\n    ".join(f"{to_text(key)}: {to_text(value)}" for key, value in head.items())
    others = b",\n    ".join(jobs)
    last = b'  "_jobs": {\n    ' + others + b"\n  }\n}\n" if others else b'  "_jobs": {}\n}\n'
    body = b",\n".join([f'",\n    {lines}\n  }}'.encode("ascii"), *namespaces, last])
    digest = hashlib.sha256((_OPENING + _BLANK).encode())
    digest.update(body)
    return (_OPENING + digest.hexdigest()).encode(), body


def parse(raw: bytes) -> Snapshot:
    """Raises Corrupt, or StateUnreadable when a newer version wrote it."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"not JSON: {error}") from error
    if not isinstance(data, dict):
        raise Corrupt("not a JSON object")
    meta = data.pop("_meta", None)
    if meta is None:
        return _parse_old(data)
    _check_version(meta)
    _check_digest(raw)
    try:
        return Snapshot(_meta(meta), dict(_states(data)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Corrupt(f"not a state: {error!r}") from error


def _check_version(meta: Any) -> None:
    schema = meta.get("schema") if isinstance(meta, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise StateUnreadable(
            f"the state was written by a newer version (schema {schema}, this one reads {SCHEMA})",
            hint="install that version, or move the state directory away; nothing was changed",
        )


def _check_digest(raw: bytes) -> None:
    if not raw.startswith(_OPENING.encode()):
        raise Corrupt("its head is damaged")
    blanked = raw[: _DIGEST.start] + _BLANK.encode() + raw[_DIGEST.stop :]
    if hashlib.sha256(blanked).hexdigest().encode() != raw[_DIGEST]:
        raise Corrupt("its checksum does not match")


def _meta(meta: Mapping[str, Any]) -> Meta:
    position = Position(int(meta["gen"]), int(meta["offset"]))
    return Meta(position, int(meta["fence"]), str(meta["config_hash"]), int(meta["written_at_ms"]))


def _states(data: Mapping[str, Any]) -> Iterable[tuple[str, JobState]]:
    for job_id, state in data["_jobs"].items():
        yield job_id, state_from_json(state)
    for namespace, block in data.items():
        if namespace != "_jobs":
            for level, state in block["cadences"].items():
                yield f"{namespace}/{level}", state_from_json(state)


def _parse_old(data: Mapping[str, Any]) -> Snapshot:
    """The original's shape, and nothing that only looks like it after damage to a newer file."""
    states: dict[str, JobState] = {}
    for namespace, block in data.items():
        if namespace.startswith("_") or not isinstance(block, dict) or not block.keys() <= {"last", "backoff"}:
            raise Corrupt(f"neither this program's nor the original's: {namespace[:80]!r}")
        level = _number(block.get("backoff", 0))
        last = block.get("last", {})
        if not isinstance(last, dict):
            raise Corrupt(f"{namespace[:80]!r}: last is not an object")
        for name, seconds in last.items():
            at = int(_number(seconds) * 1000)
            states[f"{namespace}/{name}"] = JobState(last_success=at, newest_slot=at, level=int(level))
    return Snapshot(Meta(), states, old=True)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e13:
        raise Corrupt(f"not a time or a count: {str(value)[:80]}")
    return value


def _iso(at: Millis) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at / 1000))
