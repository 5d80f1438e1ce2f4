"""State as found on disk: snapshot and logs, the previous snapshot, or what is left. Reading only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from vmsh_scheduler.domain.codec import state_from_json
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.stores.local.directory import StateDirectory
from vmsh_scheduler.stores.local.records import NOWHERE, Position, Tail, parse_log, read_tail
from vmsh_scheduler.stores.local.snapshot import Corrupt, Meta, Snapshot, parse


class Condition(Enum):
    """How much of the state was there (decision 18)."""

    FRESH = "fresh"
    """Nothing yet, or the original's file: cadences fire."""
    LOADED = "loaded"
    RECOVERED = "recovered"
    """Something was damaged; a previous generation or the undamaged rest is in force."""
    LOST = "lost"
    """There was state and it cannot be read: wait one period."""


@dataclass(frozen=True, slots=True)
class Opened:
    """`findings`: one line per thing that was not as it should be; a person has to see them."""

    states: Mapping[str, JobState]
    condition: Condition
    findings: tuple[str, ...] = ()
    fence: int = 0
    config_hash: str = ""
    base: Position = NOWHERE
    """What the snapshot on disk covers."""
    end: Position = NOWHERE
    """Where the log ends."""
    set_aside: tuple[str, ...] = ()
    """Damaged snapshots: to be moved away before anything is written."""
    keep_copy: tuple[str, ...] = ()
    """Damaged logs: a copy has to stay."""


@dataclass(slots=True)
class _Found:
    snapshot: Snapshot | None = None
    name: str = ""
    findings: list[str] = field(default_factory=list)
    corrupt: list[str] = field(default_factory=list)


def load(directory: StateDirectory) -> Opened:
    """Raises Denied, and StateUnreadable for what a newer version wrote; all other damage is in the result."""
    found = _find_snapshot(directory)
    if found.snapshot is None:
        return _without_snapshot(directory, found)
    tail = _tail(directory, found.snapshot.meta.position)
    return _with_snapshot(directory, found, found.snapshot, tail)


def peek(directory: StateDirectory) -> Opened:
    """The same beside a running daemon: what looks damaged may only be changing, so look twice."""
    opened = load(directory)
    return opened if opened.condition is Condition.FRESH or not opened.findings else load(directory)


def _find_snapshot(directory: StateDirectory) -> _Found:
    found = _Found()
    for name in (directory.snapshot, directory.previous):
        raw = directory.read(name)
        if raw is None:
            continue
        try:
            found.snapshot, found.name = parse(raw), name
        except Corrupt as error:
            found.corrupt.append(name)
            found.findings.append(f"{directory.path / name} is damaged ({error})")
            continue
        break
    return found


def _tail(directory: StateDirectory, start: Position) -> Tail:
    """The logs past `start`. A write that was cut short has no line end: a bad line with one was harmed."""
    tail = read_tail(directory, start)
    torn, damaged = [], {}
    if start.gen and not directory.exists(directory.wal(start.gen)):
        damaged[directory.wal(start.gen)] = "is missing"
    for gen in directory.generations():
        if gen < tail.end.gen:
            continue
        name, after = directory.wal(gen), tail.end.offset if gen == tail.end.gen else 0
        bad = _bad_end(directory.read(name, after) or b"", gen, after)
        if b"\n" in bad:
            damaged[name] = f"is damaged at byte {after}"
        elif bad:
            torn.append(name)
    notes = [f"{name} {what}" for name, what in damaged.items() if name not in tail.damaged]
    return replace(tail, torn=tuple(torn), damaged=(*tail.damaged, *damaged), notes=(*tail.notes, *notes))


def _bad_end(rest: bytes, gen: int, base: int) -> bytes:
    """What follows the last good line; beside a daemon there may be more of those by now."""
    return rest[parse_log(rest, gen, base).good_end - base :]


def _with_snapshot(directory: StateDirectory, found: _Found, snapshot: Snapshot, tail: Tail) -> Opened:
    replayed = replay(tail.records, snapshot)
    findings = [*found.findings, *tail.notes, *map(_torn_note, tail.torn), *replayed.findings]
    if found.name == directory.previous:
        findings.append(f"the previous generation is in force, with {len(tail.records)} logged changes since")
    whole = found.name == directory.snapshot and not tail.damaged and not replayed.findings
    fresh = snapshot.old and not tail.records
    return Opened(
        replayed.states,
        (Condition.FRESH if fresh else Condition.LOADED) if whole else Condition.RECOVERED,
        tuple(findings),
        replayed.fence,
        snapshot.meta.config_hash,
        snapshot.meta.position,
        tail.end,
        set_aside=tuple(found.corrupt),
        keep_copy=_present(directory, tail.damaged),
    )


def _without_snapshot(directory: StateDirectory, found: _Found) -> Opened:
    evidence = found.corrupt or _evidence(directory)
    if not evidence:
        return Opened({}, Condition.FRESH)
    tail = read_tail(directory, NOWHERE)
    replayed = replay(tail.records, Snapshot(Meta()))
    loss = f"no readable state in {directory.path}, only {', '.join(evidence)}: every cadence waits one period"
    return Opened(
        {job_id: _unplanned(state) for job_id, state in replayed.states.items()},
        Condition.LOST,
        (*found.findings, loss, *replayed.findings),
        replayed.fence,
        end=tail.end,
        set_aside=tuple(found.corrupt),
        keep_copy=_present(directory, tail.damaged),
    )


def _torn_note(name: str) -> str:
    return f"{name}: the last write was cut short and is dropped (it was never acknowledged)"


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the log left of the snapshot's states once every whole line of it was applied."""

    states: Mapping[str, JobState]
    fence: int
    findings: tuple[str, ...] = ()


def replay(records: Iterable[Mapping[str, Any]], snapshot: Snapshot) -> Replayed:
    """The snapshot with every logged change applied, in order."""
    states, fence = dict(snapshot.states), snapshot.meta.fence
    findings: list[str] = []
    for record in records:
        try:
            if "fence" in record:
                fence = max(fence, int(record["fence"]))
            elif record["state"] is None:
                states.pop(record["job"], None)
            else:
                after = state_from_json(record["state"])
                states[record["job"]] = _newer(states.get(record["job"]), after) if snapshot.old else after
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            findings.append(f"a logged change makes no sense and is left out: {error!r}")
    return Replayed(states, fence, tuple(findings))


def _newer(old: JobState | None, logged: JobState) -> JobState:
    """The original ran again after us and wrote its own file: its later success counts."""
    if old is None or (old.last_success or 0) <= (logged.last_success or 0):
        return logged
    return logged._replace(
        last_success=old.last_success, newest_slot=max(old.newest_slot or 0, logged.newest_slot or 0)
    )


def _unplanned(state: JobState) -> JobState:
    """What the log alone says about a job holds (open runs, newest slot), but not that it is due."""
    if state.runs:
        return state._replace(revision="", upcoming=None)
    return state._replace(revision="", upcoming=None, slot=None, ready_at=None, attempt=0)


def _evidence(directory: StateDirectory) -> list[str]:
    """What only a state directory that was in use holds (decision 18)."""
    damaged = f"{directory.snapshot}.corrupt-"
    wals = {directory.wal(gen) for gen in directory.generations()}
    names = {directory.database, "runs", *wals}
    return sorted(name for name in directory.names() if name in names or name.startswith(damaged))


def _present(directory: StateDirectory, names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if directory.exists(name))
