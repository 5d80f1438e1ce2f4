"""What leaves scheduler.db: the oldest rows of each job, which leave behind a record that joins the chain."""

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from vmsh_scheduler.domain.job import AGENT_PREFIX
from vmsh_scheduler.domain.trigger import DAY, Millis
from vmsh_scheduler.stores.local.database import transaction

SEGMENT = 250
"""Rows past the limit before a segment is pruned: the permanent record grows by one row for so many."""
AT_ONCE = 20_000
"""Rows of one look: new ones wait meanwhile, for well under a second."""
TOGETHER = 20
"""Jobs that share a wait for the disk."""
ROOM = 0.75
"""Of the cap is what is left when it was reached, so that not every look has to prune again."""
SPARE = 1 / 3
"""Of the file has to be free before it shrinks: what retention frees in passing is filled again soon."""
GIVEN_BACK = 1_000
"""Pages at a time; what one transaction writes lies beside the file until it is taken over."""
SPARE_DAYS = 2
"""Beside the days to keep: today, and the one that a wrong clock shows for a while."""


@dataclass(frozen=True, slots=True)
class Retention:
    """What the journal keeps; whole segments go, oldest first."""

    rows: int = 1000
    """Per job."""
    days: int = 30
    """By the clock, and days on which something was written: a clock that is set wrong and right again ages nothing."""
    bytes: int = 1 << 30


class Cut(NamedTuple):
    """Rows `first` to `upto` of a job are to go."""

    job: str
    first: int
    upto: int


class _Rows(NamedTuple):
    job: str
    last: int
    first: int

    @property
    def kept(self) -> int:
        return self.last - self.first + 1


class _Ages(NamedTuple):
    oldest: Millis
    """To be kept."""
    newest: Millis
    """That can be right."""


def prune(connection: sqlite3.Connection, keep: Retention, now: Millis) -> bool:
    """Segments by count and age, then by size; False: it was enough for once, and there is more to do."""
    left = AT_ONCE - _cut_all(connection, _outlived(connection, keep, now), AT_ONCE, now)
    while left > 0 and (share := _share_too_many(connection, keep.bytes)):
        gone = _cut_all(connection, _oldest(connection, share), left, now)
        if not gone:
            break
        left -= gone
    _give_back(connection)
    return left > 0


def _outlived(connection: sqlite3.Connection, keep: Retention, now: Millis) -> Iterator[Cut]:
    ages = _ages(connection, keep, now)
    for job in _jobs(connection):
        upto = job.last - keep.rows if job.kept >= keep.rows + SEGMENT else 0
        upto = max(upto, _aged(connection, job.job, ages))
        if upto >= job.first:
            yield Cut(job.job, job.first, upto)


def _oldest(connection: sqlite3.Connection, share: float) -> Iterator[Cut]:
    """The same share of every job's rows, of the longest first, but nobody's last one."""
    for job in sorted(_jobs(connection), key=lambda job: -job.kept):
        upto = min(job.first + int((job.kept - 1) * share), job.last - 1)
        if upto >= job.first:
            yield Cut(job.job, job.first, upto)


def _jobs(connection: sqlite3.Connection) -> list[_Rows]:
    return [_Rows(*found) for found in connection.execute("SELECT job, seq, first FROM heads")]


def _lived(connection: sqlite3.Connection, days: int) -> Millis:
    """Start of the oldest of the newest `days` days on which rows were written; 0: there are fewer, nothing is old."""
    found = connection.execute("SELECT day FROM days ORDER BY day DESC LIMIT 1 OFFSET ?", (days - 1,)).fetchone()
    return int(found[0]) * DAY if found else 0


def _ages(connection: sqlite3.Connection, keep: Retention, now: Millis) -> _Ages:
    """By the clock and by the days on which rows were written, so that a clock set wrong for a while moves neither."""
    oldest = min(now - keep.days * DAY, _lived(connection, keep.days + SPARE_DAYS))
    return _Ages(oldest, max(now, _lived(connection, SPARE_DAYS + 1) + DAY))


def _aged(connection: sqlite3.Connection, job: str, ages: _Ages) -> int:
    """Newest row of those too old, once some are a whole day past it: at most one segment a day. What a clock far ahead
    dated is as old as the next row that can be right."""
    first = connection.execute(
        "SELECT at FROM entries WHERE job = ? AND at <= ? ORDER BY seq LIMIT 1", (job, ages.newest)
    ).fetchone()
    if first is None or first[0] >= ages.oldest - DAY:
        return 0
    found = connection.execute(
        "SELECT coalesce(max(seq), 0) FROM entries WHERE job = ?1 AND at < ?2 AND seq < coalesce("
        "(SELECT min(seq) FROM entries WHERE job = ?1 AND at BETWEEN ?2 AND ?3), "
        "(SELECT seq + 1 FROM heads WHERE job = ?1))",
        (job, *ages),
    ).fetchone()
    return int(found[0])


def _cut_all(connection: sqlite3.Connection, cuts: Iterable[Cut], most: int, now: Millis) -> int:
    """How many rows went; the last cut is shortened."""
    gone, rest = 0, iter(cuts)
    while gone < most and (some := list(islice(rest, TOGETHER))):
        with transaction(connection):
            for cut in some:
                shortened = cut._replace(upto=min(cut.upto, cut.first + most - gone - 1))
                gone += _cut(connection, shortened, now)
    return gone


def _cut(connection: sqlite3.Connection, cut: Cut, now: Millis) -> int:
    if cut.upto < cut.first:
        return 0
    prev = connection.execute("SELECT prev FROM entries WHERE job = ? AND seq = ?", (cut.job, cut.first)).fetchone()
    head = connection.execute("SELECT hash FROM entries WHERE job = ? AND seq = ?", (cut.job, cut.upto)).fetchone()
    if prev is None or head is None:
        return 0
    _record(connection, cut, prev[0], head[0], now)
    connection.execute("DELETE FROM entries WHERE job = ? AND seq <= ?", (cut.job, cut.upto))
    connection.execute("UPDATE heads SET first = ? WHERE job = ?", (cut.upto + 1, cut.job))
    return cut.upto - cut.first + 1


def _record(connection: sqlite3.Connection, cut: Cut, prev: str, head: str, now: Millis) -> None:
    """One for each segment; thousands of agents that fire every few seconds have one each, which counts on (ADR 18)."""
    if cut.job.startswith(AGENT_PREFIX):
        counted = connection.execute(
            "UPDATE segments SET last = ?, head = ?, pruned_at = ? WHERE job = ? AND last = ? AND head = ?",
            (cut.upto, head, now, cut.job, cut.first - 1, prev),
        )
        if counted.rowcount:
            return
    connection.execute("INSERT INTO segments VALUES(?, ?, ?, ?, ?, ?)", (*cut, prev, head, now))


def _share_too_many(connection: sqlite3.Connection, cap: int) -> float:
    """Of all rows, that has to go; 0 = it fits."""
    pages, free = _pages(connection)
    used = (pages - free) * int(connection.execute("PRAGMA page_size").fetchone()[0])
    return 1 - ROOM * cap / used if used > cap else 0.0


def _give_back(connection: sqlite3.Connection) -> None:
    pages, free = _pages(connection)
    if free > pages * SPARE:
        # as a script, because `execute` steps once, which frees one page
        connection.executescript(f"PRAGMA incremental_vacuum({GIVEN_BACK})")


def _pages(connection: sqlite3.Connection) -> tuple[int, int]:
    """All of the file, and those that are free."""
    pages, free = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
    return int(pages), int(free)
