"""Lines of the write-ahead log and how a log is read back: `crc32 json`, the crc seeded with the generation."""

import json
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.stores.local.directory import StateDirectory
from vmsh_scheduler.stores.local.text import to_text

WAL_SCHEMA = 1
YIELD_EVERY = 64


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A place in the log: everything before byte `offset` of generation `gen`, and all older generations."""

    gen: int = 0
    offset: int = 0


NOWHERE = Position()
"""Before the first log."""


def frame(payload: str, gen: int) -> bytes:
    """A line of another generation does not verify in this one."""
    data = payload.encode("ascii")
    return b"%08x %b\n" % (zlib.crc32(data, gen & 0xFFFFFFFF), data)


def header(gen: int, after: Position) -> bytes:
    """First line of a log: what was before it. Anything past `after` in older logs was never acknowledged."""
    return frame(to_text({"wal": WAL_SCHEMA, "gen": gen, "after": [after.gen, after.offset]}), gen)


@dataclass(frozen=True, slots=True)
class Log:
    """One generation as read: whole lines with the offset after each."""

    gen: int
    after: Position | None
    """None: the header cannot be read."""
    lines: Sequence[tuple[int, dict[str, Any]]]
    good_end: int
    """Offset after the last good line."""
    torn: bool = False
    """Bytes after the last good line that no good line follows: a write cut short."""
    damaged: tuple[int, ...] = ()
    """Offsets of bad lines that good ones follow: the file was harmed, not cut."""
    base: int = 0
    """Where reading began."""


def parse_log(raw: bytes, gen: int, base: int = 0) -> Log:
    """`raw` begins at byte `base` of the file. Raises only StateUnreadable, for a newer format."""
    lines: list[tuple[int, dict[str, Any]]] = []
    bad: list[int] = []
    after: Position | None = None
    good_end = base
    for start, end, record in _lines(raw, gen, base):
        if record is None:
            bad.append(start)
        elif start == 0:
            after, good_end = _after(record, gen), end
        else:
            lines.append((end, record))
            good_end = end
    damaged = tuple(offset for offset in bad if offset < good_end)
    torn = bool(bad) and bad[-1] >= good_end
    return Log(gen, after, lines, good_end, torn=torn, damaged=damaged, base=base)


def _lines(raw: bytes, gen: int, base: int) -> Iterator[tuple[int, int, dict[str, Any] | None]]:
    start = count = 0
    while start < len(raw):
        count += 1
        if count % YIELD_EVERY == 0:
            time.sleep(0)  # lets the loop's thread have the interpreter at once instead of after 5 ms
        end = raw.find(b"\n", start) + 1
        if end == 0:
            yield base + start, base + len(raw), None
            return
        yield base + start, base + end, _record(raw[start : end - 1], gen)
        start = end


def _record(line: bytes, gen: int) -> dict[str, Any] | None:
    if line[8:9] != b" " or b"%08x" % zlib.crc32(memoryview(line)[9:], gen & 0xFFFFFFFF) != line[:8]:
        return None
    try:
        record = json.loads(line[9:])
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _after(record: dict[str, Any], gen: int) -> Position | None:
    if record.get("wal", 0) > WAL_SCHEMA:
        raise StateUnreadable(
            f"log generation {gen} was written by a newer version (format {record['wal']})",
            hint="install that version; nothing was changed",
        )
    after = record.get("after")
    return Position(*after) if record.get("gen") == gen and after is not None else None


@dataclass(frozen=True, slots=True)
class Tail:
    """What the logs hold past a position, in order."""

    records: Sequence[dict[str, Any]]
    end: Position
    torn: tuple[str, ...] = ()
    """Files whose last write was cut short: what a crash leaves."""
    damaged: tuple[str, ...] = ()
    """Files that are missing or harmed: what a crash cannot leave."""
    notes: tuple[str, ...] = ()
    """One line for each of the damaged."""


def read_tail(directory: StateDirectory, start: Position, until: Position | None = None) -> Tail:
    """Read every log past `start`. Good lines after a damaged one count: each carries a job's whole state, so an
    acknowledged success survives damage to another job's line."""
    logs = _logs(directory, start, until)
    cuts = {log.after.gen: log.after.offset for log in logs if log.after is not None}
    reading = _Reading(directory, start, until)
    for log in logs:
        if not _given_up(log, logs):
            reading.take(log, cuts.get(log.gen))
    return Tail(reading.records, reading.end, tuple(reading.torn), tuple(reading.damaged), tuple(reading.notes))


def _logs(directory: StateDirectory, start: Position, until: Position | None) -> list[Log]:
    logs = []
    for gen in directory.generations():
        if gen < start.gen or (until is not None and gen > until.gen):
            continue
        base = start.offset if gen == start.gen else 0
        stop = until.offset if until is not None and gen == until.gen else None
        raw = directory.read(directory.wal(gen), base, stop)
        if raw is not None:
            logs.append(parse_log(raw, gen, base))
    return logs


def _given_up(log: Log, logs: Sequence[Log]) -> bool:
    """A later log goes on from before this one: the writer abandoned it, nothing in it was acknowledged."""
    if log.after is None and not log.lines and log.base == 0:
        return True
    return any(later.after is not None and later.after.gen < log.gen < later.gen for later in logs)


class _Reading:
    """The state of one pass over the logs."""

    def __init__(self, directory: StateDirectory, start: Position, until: Position | None) -> None:
        self.directory = directory
        self.until = until
        self.records: list[dict[str, Any]] = []
        self.end = start
        self.torn: list[str] = []
        self.damaged: list[str] = []
        self.notes: list[str] = []

    def take(self, log: Log, cut: int | None) -> None:
        name = self.directory.wal(log.gen)
        self._check_order(log, name)
        stop = self._stop(log, cut)
        begin = self.end.offset if self.end.gen == log.gen else 0
        self.records += [record for end, record in log.lines if begin < end <= stop]
        harmed = [offset for offset in log.damaged if begin <= offset < stop]
        if harmed or (cut is not None and log.good_end < cut):
            self._blame(name, f"{name} is damaged at byte {harmed[0] if harmed else log.good_end}")
        elif log.torn and cut is None and self.until is None:
            self.torn.append(name)
        self.end = Position(log.gen, max(begin, min(stop, log.good_end)))

    def _stop(self, log: Log, cut: int | None) -> int:
        if self.until is not None and self.until.gen == log.gen:
            return self.until.offset
        return log.good_end if cut is None else cut

    def _check_order(self, log: Log, name: str) -> None:
        if log.gen == self.end.gen:
            if self.directory.size(name) < self.end.offset:
                self._blame(name, f"{name} is shorter than the snapshot says")
        elif log.after is None:
            self._blame(name, f"{name} has no readable first line")
        elif log.after > self.end and self.directory.wal(log.after.gen) not in self.damaged:
            self._blame(self.directory.wal(log.after.gen), f"{self.directory.wal(log.after.gen)} is missing")

    def _blame(self, name: str, note: str) -> None:
        self.damaged.append(name)
        self.notes.append(note)
