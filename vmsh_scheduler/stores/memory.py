"""Twins of the local stores that keep nothing: for tests and for runs that must leave no trace."""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from vmsh_scheduler.domain.decision import Decision, Note
from vmsh_scheduler.domain.run import Execution
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Change, Clock, Known, Lease

T = TypeVar("T")


class MemoryJournal:
    """Rows are values nobody else can reach, so `verify` has nothing to find."""

    def __init__(self) -> None:
        self._decisions: list[tuple[str, Decision]] = []
        self._executions: list[tuple[str, Execution]] = []
        self._notes: list[Note] = []

    def take(self, change: Change) -> None:
        self._decisions += [(change.job_id, decision) for decision in change.decisions]
        if change.execution is not None:
            self._executions.append((change.job_id, change.execution))
        self._notes += change.notes

    def decisions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Decision]:
        found = [row for job, row in self._decisions if job_id in ("", job) and _before(row.at, before)]
        return _newest_first(found, lambda row: row.at)[:limit]

    def executions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Execution]:
        found = [row for job, row in self._executions if job_id in ("", job) and _before(row.finished_at, before)]
        return _newest_first(found, lambda row: row.finished_at)[:limit]

    def execution(self, run_id: str) -> Execution | None:
        return next((row for _, row in reversed(self._executions) if row.run.id == run_id), None)

    def notes(self, *, limit: int = 50) -> list[Note]:
        return _newest_first(self._notes, lambda note: note.at)[:limit]

    def verify(self, job_id: str = "") -> list[str]:
        return []


def _newest_first(rows: Sequence[T], at: Callable[[T], Millis]) -> list[T]:
    """Of equal instants the one written later comes first."""
    return [rows[n] for n in sorted(range(len(rows)), key=lambda n: (at(rows[n]), n), reverse=True)]


def _before(at: Millis, limit: Millis | None) -> bool:
    return limit is None or at < limit


class MemoryStates:
    """ports.States in a dict."""

    def __init__(self, states: Mapping[str, JobState] | None = None, journal: MemoryJournal | None = None) -> None:
        self.journal = journal or MemoryJournal()
        self._states = dict(states or {})

    def get(self, job_id: str) -> JobState | None:
        return self._states.get(job_id)

    def all(self) -> Mapping[str, JobState]:
        return dict(self._states)

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        for change in changes:
            if change.state is None:
                self._states.pop(change.job_id, None)
            else:
                self._states[change.job_id] = change.state
            self.journal.take(change)

    async def close(self) -> None:
        """Nothing to keep."""


class MemoryLeases:
    """Holders that share a `table` (name -> newest lease, and whether it is held) exclude each other."""

    def __init__(self, clock: Clock, table: dict[str, tuple[Lease, bool]] | None = None) -> None:
        self._clock = clock
        self._table = {} if table is None else table

    async def acquire(self, name: str) -> Lease | None:
        last, held = self._table.get(name, (Lease(name, 0), False))
        if held:
            return None
        lease = Lease(name, max(last.fence + 1, self._clock.now()))
        self._table[name] = (lease, True)
        return lease

    async def renew(self, lease: Lease) -> bool:
        return self._table.get(lease.name) == (lease, True)

    async def release(self, lease: Lease) -> None:
        if self._table.get(lease.name) == (lease, True):
            self._table[lease.name] = (lease, False)


class MemorySpecs:
    """ports.Specs in a dict."""

    trouble = ""

    def __init__(self) -> None:
        self._specs: dict[tuple[str, str], Spec] = {}

    def get(self, kind: str, id: str) -> Spec | None:
        return self._specs.get((kind, id))

    def all(self, kind: str) -> Mapping[str, Spec]:
        return {spec.id: spec for spec in self._specs.values() if spec.kind == kind}

    async def save(self, spec: Spec) -> bool:
        known = self.get(spec.kind, spec.id)
        if spec.version != (1 if known is None else known.version + 1):
            return False
        self._specs[spec.kind, spec.id] = spec
        return True

    async def delete(self, kind: str, id: str) -> bool:
        return self._specs.pop((kind, id), None) is not None

    def close(self) -> None:
        """Nothing is open."""


MOST_KEYS = 20_000
"""That a memory twin remembers; the oldest go first."""


class MemoryCounters:
    """ports.Counters of this process; a counter of an older window goes before one of a newer."""

    def __init__(self) -> None:
        self._counts: OrderedDict[tuple[str, int], int] = OrderedDict()

    async def hit(self, key: str, window: int, length: Millis) -> int:
        count = self._counts[key, window] = self._counts.get((key, window), 0) + 1
        if len(self._counts) > MOST_KEYS:
            self._counts.popitem(last=False)
        return count


class MemoryDedupe:
    """ports.Dedupe of this process. A key is one entry: its owner, "" = done, and when it ends."""

    def __init__(self, clock: Clock, *, lease_ms: Millis, done_ms: Millis) -> None:
        self._clock = clock
        self._lease_ms = lease_ms
        self._done_ms = done_ms
        self._keys: OrderedDict[str, tuple[str, Millis]] = OrderedDict()

    async def begin(self, key: str, owner: str) -> Known:
        known = self._known(key)
        if known not in (None, owner):
            return Known.BUSY if known else Known.DONE
        self._put(key, owner, self._lease_ms)
        return Known.NEW

    async def done(self, key: str, owner: str) -> None:
        if self._known(key) in (None, owner):
            self._put(key, "", self._done_ms)

    async def failed(self, key: str, owner: str) -> None:
        if self._known(key) == owner:
            del self._keys[key]

    def _known(self, key: str) -> str | None:
        """Its owner, "" if it is done, None if it is new or over."""
        owner, until = self._keys.get(key, ("", 0))
        return owner if self._clock.elapsed() < until else None

    def _put(self, key: str, owner: str, lasts: Millis) -> None:
        self._keys[key] = (owner, self._clock.elapsed() + lasts)
        self._keys.move_to_end(key)
        if len(self._keys) > MOST_KEYS:
            self._keys.popitem(last=False)
