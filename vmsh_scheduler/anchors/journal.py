"""The scheduler's own journal as something to seal: the heads of its hash chains, and what became of sealed ones.

Reads `<stem>.db` of the state directory, which stores/local/database.py writes: read-only, beside a daemon or alone."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.domain.batch import Document, is_hash
from vmsh_scheduler.errors import Busy
from vmsh_scheduler.stores.chain import Link, digest

HEADS_LIMIT = 200_000
"""Jobs of one batch."""
PRUNED = "pruned"
"""Neither right nor wrong: retention took the row, and the record of what it took speaks of others only."""
_BUSY_TIMEOUT_S = 5.0
_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_CONFIRMING = "_anchors/"
"""Jobs that look again at what was anchored (sources/confirming.py)."""


@dataclass(slots=True)
class _Walk:
    """How far a chain was recomputed; from row `broken_at` on it is what `fault` says."""

    link: Link = field(default_factory=Link)
    fault: str = ""
    broken_at: int = 0


def heads(path: Path, namespace: str) -> list[Document]:
    """{job, seq, head} by job: not those jobs whose rows anchoring this itself writes, else nothing was ever unchanged.

    Empty while there is no journal."""
    if not path.is_file():
        return []
    with _reading(path) as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'heads'").fetchone()[0]:
            return []
        found = connection.execute("SELECT job, seq, hash FROM heads ORDER BY job")
        kept = [_head(*row) for row in found if not _is_own(row[0], namespace)]
    if len(kept) > HEADS_LIMIT:
        raise Invalid(f"{path} has more than {HEADS_LIMIT} jobs")
    return kept


def _is_own(job: str, namespace: str) -> bool:
    """A level's name has no slash; a namespace's may."""
    return job.startswith(_CONFIRMING) or job.rpartition("/")[0] == namespace


def _head(job: str, seq: int, head: str) -> Document:
    made = {"job": job, "seq": seq, "head": f"sha256:{head}"}
    if not is_hash(made["head"]) or type(seq) is not int:
        raise Invalid(f"the journal's head of {job!r} is damaged", hint="see `vmsh-scheduler history --verify`")
    return made


class Chains:
    """One journal, asked about sealed heads: every row is hashed once, however many batches speak of its chain."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._walks: dict[str, _Walk] = {}
        self._holding: dict[str, Document] = {}
        """The newest head of each job that was found to hold."""

    def judge(self, sealed: Iterable[Document]) -> list[str]:
        """For each {job, seq, head}: "" (the journal has it), PRUNED, or what is wrong. Invalid, Busy: unreadable."""
        if not self.path.is_file():
            raise Invalid(f"{self.path} is gone: the journal that was sealed cannot be compared")
        with _reading(self.path) as connection:
            return [self._judged(connection, head) for head in sealed]

    def _judged(self, connection: sqlite3.Connection, head: Document) -> str:
        if self._holding.get(head["job"]) == head:
            return ""
        fault = self._fault(connection, head["job"], head["seq"], head["head"])
        if not fault:
            self._holding[head["job"]] = head
        return fault

    def _fault(self, connection: sqlite3.Connection, job: str, seq: int, head: str) -> str:
        walk = self._walks.setdefault(job, _Walk())
        _go_on(connection, job, walk, seq)
        if walk.fault and walk.broken_at <= seq:
            return walk.fault
        found = connection.execute("SELECT hash FROM entries WHERE job = ? AND seq = ?", (job, seq)).fetchone()
        if found is None:
            found = connection.execute(
                "SELECT head FROM segments WHERE job = ? AND last = ? "
                "UNION ALL SELECT '' FROM segments WHERE job = ? AND first <= ? AND last > ?",
                (job, seq, job, seq, seq),
            ).fetchone()
        if found is None:
            return f"row {seq} was sealed, but the chain ends at row {walk.link.seq}"
        if found[0] == "":
            return PRUNED
        return "" if f"sha256:{found[0]}" == head else f"row {seq} is another one than was sealed"


def _go_on(connection: sqlite3.Connection, job: str, walk: _Walk, upto: int) -> None:
    """Recomputes the chain as far as `upto`."""
    if walk.fault or walk.link.seq >= upto:
        return
    if fault := _pass_pruned(connection, job, walk):
        walk.fault, walk.broken_at = fault, walk.link.seq + 1
        return
    rows = connection.execute(
        "SELECT seq, kind, body, prev, hash FROM entries WHERE job = ? AND seq > ? AND seq <= ? ORDER BY seq",
        (job, walk.link.seq, upto),
    )
    for seq, kind, body, prev, hashed in rows:
        if fault := _row_fault(walk.link, seq, prev, digest(prev, job, seq, kind, body) == hashed):
            walk.fault, walk.broken_at = fault, walk.link.seq + 1
            return
        walk.link = Link(seq, hashed)


def _pass_pruned(connection: sqlite3.Connection, job: str, walk: _Walk) -> str:
    """What is wrong with the record of rows that went: retention leaves one row for all that it took, which has to join
    what was before with what is there."""
    segments = connection.execute(
        "SELECT first, last, prev, head FROM segments WHERE job = ? AND last > ? ORDER BY first", (job, walk.link.seq)
    )
    for first, last, prev, head in segments:
        follows = first <= walk.link.seq or (first, prev) == (walk.link.seq + 1, walk.link.hash)
        if not follows:
            return f"the record of pruned rows {first} to {last} does not fit"
        walk.link = Link(last, head)
    return ""


def _row_fault(link: Link, seq: int, prev: str, is_whole: bool) -> str:
    if seq != link.seq + 1:
        return f"rows {link.seq + 1} to {seq - 1} are missing"
    if prev != link.hash:
        return f"row {seq} does not follow row {link.seq}"
    return "" if is_whole else f"row {seq} was edited"


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """One view of it for all that is asked."""
    try:
        with closing(_connect(path)) as connection:
            connection.execute("BEGIN")
            yield connection
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            raise Busy(f"{path} is busy: {error}") from error
        raise Invalid(f"the journal {path} cannot be read: {error}") from error


def _connect(path: Path) -> sqlite3.Connection:
    """Where nothing may be written beside the file, it is read as it stands, unless newer rows lie beside it."""
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    connection = _opened(uri)
    try:
        connection.execute("SELECT 1 FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError:
        connection.close()
        beside = path.with_name(f"{path.name}-wal")
        if beside.exists() and beside.stat().st_size:
            raise
        return _opened(f"{uri}&immutable=1")
    return connection


def _opened(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
    connection.text_factory = _text
    return connection


def _text(raw: bytes) -> str:
    """What is no UTF-8 any more is an edited row, and not a failure to read."""
    return raw.decode("utf-8", "replace")
