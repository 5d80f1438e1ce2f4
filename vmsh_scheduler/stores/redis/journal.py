"""ports.Journal over streams, read only: for a thread, or for the CLI beside a running daemon."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from vmsh_scheduler.domain.codec import decision_from_json, execution_from_json, note_from_json
from vmsh_scheduler.domain.decision import Decision, Note
from vmsh_scheduler.domain.run import Execution
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.stores.chain import START, Row, Segment, check
from vmsh_scheduler.stores.redis.batch import parse_link
from vmsh_scheduler.stores.redis.connect import SyncClient, guarding
from vmsh_scheduler.stores.redis.keys import Keys

T = TypeVar("T")
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
        return int(text) if text.isascii() and text.lstrip("-").isdigit() else 0

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
        return [_read(entry, decision_from_json) for entry in self._newest("decision", job_id, before, limit)]

    def executions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Execution]:
        return [_read(entry, execution_from_json) for entry in self._newest("execution", job_id, before, limit)]

    def notes(self, *, limit: int = 50) -> list[Note]:
        return [_read(entry, note_from_json) for entry in self._newest("note", "", None, limit)]

    def execution(self, run_id: str) -> Execution | None:
        """Among the newest of all first, then in what is kept of each job."""
        for stream in self._streams() if run_id else ():
            for entry in self._backwards(stream):
                if entry.is_a("execution") and entry.fields.get("run") == run_id:
                    return _read(entry, execution_from_json)
        return None

    def verify(self, job_id: str = "") -> list[str]:
        heads, bases = self._hash(self._keys.journal_heads), self._hash(self._keys.journal_base)
        names = [job_id] if job_id else sorted(heads | bases)
        return [line for name in names for line in self._verify(name, heads.get(name, ""), bases.get(name, ""))]

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

    def _backwards(self, stream: str) -> Iterator[_Entry]:
        """Newest first."""
        newest = "+"
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

    def _verify(self, job: str, head: str, base: str) -> list[str]:
        try:
            end, gone = parse_link(head) if head else (None, False)
            start = parse_link(base)[0] if base else None
        except ValueError:
            return [f"{job}: what the journal says of its chain cannot be read"]
        entries = list(self._backwards(self._keys.journal(job)))[::-1]
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
    except (ValueError, KeyError, TypeError):
        return True  # not JSON of ours: its hash tells


def _read(entry: _Entry, reader: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        return reader(json.loads(entry.fields["body"]))
    except (ValueError, KeyError, TypeError) as error:
        raise StateUnreadable(
            f"journal entry {entry.id} in Redis cannot be read", hint="see vmsh-scheduler history --verify"
        ) from error
