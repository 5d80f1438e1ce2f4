"""ports.Journal over streams, read only: for a thread, or for the CLI beside a running daemon."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from vmsh_scheduler.domain.codec import decision_from_json, execution_from_json, note_from_json
from vmsh_scheduler.domain.decision import Decision, Note
from vmsh_scheduler.domain.run import Execution
from vmsh_scheduler.domain.shape import LATEST, WRONG, fitting
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.stores.chain import START, Row, Segment, check
from vmsh_scheduler.stores.redis.batch import parse_link
from vmsh_scheduler.stores.redis.connect import SyncClient, guarding
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script
from vmsh_scheduler.stores.redis.values import Unreadable, document, read

_LOOK = Script("journal_look")

T = TypeVar("T")
_FIT: dict[type, Callable[[Any], Any]] = {kind: fitting(kind) for kind in (Decision, Execution, Note)}
PART = 500
"""Rows of one answer."""
SLACK = 250
"""Rows past the limit that are looked at: they stand as they were written, which may not be quite by their times."""


class _Entry(NamedTuple):
    """One entry of a stream."""

    id: str
    fields: Mapping[str, str]

    @property
    def at(self) -> Millis:
        text = self.fields.get("at", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= len(str(LATEST)) else 0

    @property
    def seq(self) -> int:
        return int(self.id.partition("-")[0])

    def is_a(self, kind: str) -> bool:
        return self.fields.get("kind") == kind


class RedisJournal:
    """Without a job it knows the newest ten thousand rows of all; of one job everything that is kept."""

    def __init__(self, client: SyncClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    def decisions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Decision]:
        return [_read(entry, decision_from_json, Decision) for entry in self._newest("decision", job_id, before, limit)]

    def executions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Execution]:
        return [
            _read(entry, execution_from_json, Execution) for entry in self._newest("execution", job_id, before, limit)
        ]

    def notes(self, *, limit: int = 50) -> list[Note]:
        return [_read(entry, note_from_json, Note) for entry in self._newest("note", "", None, limit)]

    def execution(self, run_id: str) -> Execution | None:
        """Among the newest of all first, then in what is kept of each job."""
        for stream in self._streams() if run_id else ():
            for entry in self._backwards(stream):
                if entry.is_a("execution") and entry.fields.get("run") == run_id:
                    return _read(entry, execution_from_json, Execution)
        return None

    def verify(self, job_id: str = "") -> list[str]:
        names = (
            [job_id] if job_id else sorted(self._hash(self._keys.journal_heads) | self._hash(self._keys.journal_base))
        )
        return [line for name in names for line in _verify(name, *self._chain(name))]

    def _newest(self, kind: str, job: str, before: Millis | None, limit: int) -> list[_Entry]:
        found: list[_Entry] = []
        for entry in self._backwards(self._keys.journal(job) if job else self._keys.journal_recent):
            if entry.is_a(kind) and (before is None or entry.at < before):
                found.append(entry)
                if len(found) >= limit + SLACK:
                    break
        return sorted(found, key=lambda entry: -entry.at)[:limit]

    def _streams(self) -> Iterator[str]:
        yield self._keys.journal_recent
        for job in self._hash(self._keys.journal_heads):
            yield self._keys.journal(job)

    def _backwards(self, stream: str, newest: str = "+") -> Iterator[_Entry]:
        """Newest first."""
        while True:
            with guarding():
                part: Any = self._client.xrevrange(stream, newest, "-", count=PART)
            yield from (_Entry(id, fields) for id, fields in part)
            if len(part) < PART:
                return
            newest = f"({part[-1][0]}"

    def _hash(self, key: str) -> dict[str, str]:
        with guarding():
            return dict(self._client.hscan_iter(key, count=PART))

    def _chain(self, job: str) -> tuple[str, str, list[_Entry]]:
        """Head, base and rows as they stood together at one moment, whatever a leader writes meanwhile."""
        keys = (self._keys.journal_heads, self._keys.journal_base, stream := self._keys.journal(job))
        with guarding():
            head, base, newest = self._client.eval(_LOOK.text, len(keys), *keys, job, PART)
        entries = [_Entry(id, dict(zip(words[::2], words[1::2], strict=True))) for id, words in newest]
        if len(entries) < PART:
            return head, base, entries[::-1]
        entries += self._backwards(stream, f"({entries[-1].id}")
        with guarding():
            trimmed = str(self._client.hget(self._keys.journal_base, job) or "")
        if trimmed == base:
            return head, base, entries[::-1]
        gone = _seq_of(trimmed)  # rows went while the older ones were read: those were not seen whole
        if gone > _seq_of(head):  # so many that nothing is left of what was seen
            return self._chain(job)
        return head, trimmed, [entry for entry in entries[::-1] if entry.seq > gone]


def _seq_of(link: str) -> int:
    """0 where `_verify` will say that it cannot be read."""
    try:
        return parse_link(link)[0].seq
    except ValueError:
        return 0


def _verify(job: str, head: str, base: str, entries: list[_Entry]) -> list[str]:
    try:
        end, gone = parse_link(head) if head else (None, False)
        start = parse_link(base)[0] if base else None
    except ValueError:
        return [f"{job}: what the journal says of its chain cannot be read"]
    if not entries and (end is None or gone):
        return []  # a job that is gone, and whose rows ran out
    segments = [] if start is None else [Segment(job, 1, start.seq, START, start.hash)]
    wrong = [entry.seq for entry in entries if not _filed_well(entry)]
    misfiled = [f"{job}: row {seq} is filed under another time or run than it says" for seq in wrong]
    return check(job, segments, [_row(job, entry) for entry in entries], end) + misfiled


def _row(job: str, entry: _Entry) -> Row:
    kind, body, prev, digest = (entry.fields.get(name, "") for name in ("kind", "body", "prev", "hash"))
    return Row(job, entry.seq, kind, body, prev, digest)


def _filed_well(entry: _Entry) -> bool:
    """Time and run stand outside of what the hash covers."""
    try:
        body = json.loads(entry.fields["body"])
        of_run = entry.is_a("execution")
        run = body["run"]["id"] if of_run else ""
        return bool(entry.at == body["finished_at" if of_run else "at"] and entry.fields["run"] == run)
    except WRONG:
        return True  # not JSON of ours: its hash tells


def _read(entry: _Entry, reader: Callable[[Mapping[str, Any]], T], kind: type[T]) -> T:
    try:
        found: T = read(entry.fields.get("body", ""), lambda data: _FIT[kind](reader(document(data))))
        return found
    except Unreadable as why:
        hint = "see vmsh-scheduler history --verify"
        raise StateUnreadable(f"journal entry {entry.id} in Redis cannot be read: {why}", hint=hint) from why
