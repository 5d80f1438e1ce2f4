"""scheduler.db: opening, migrations, and the statements that keep rows, heads and pruned segments together."""

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from urllib.parse import quote

from vmsh_scheduler.domain.trigger import DAY, Millis
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.stores.chain import Link, Row, Segment, next_row
from vmsh_scheduler.stores.local.directory import StateDirectory
from vmsh_scheduler.stores.local.records import Position
from vmsh_scheduler.stores.local.text import Fact

BUSY_TIMEOUT_S = 5.0
YIELD_EVERY = 16

MIGRATIONS = (
    (
        "entries, heads, segments, position",
        """
        CREATE TABLE entries(
            job TEXT NOT NULL, seq INTEGER NOT NULL, kind TEXT NOT NULL, at INTEGER NOT NULL, run TEXT NOT NULL,
            body TEXT NOT NULL, prev TEXT NOT NULL, hash TEXT NOT NULL, PRIMARY KEY(job, seq)) WITHOUT ROWID;
        CREATE INDEX entries_at ON entries(kind, at);
        CREATE INDEX entries_run ON entries(run) WHERE run <> '' AND kind = 'execution';
        CREATE TABLE heads(job TEXT PRIMARY KEY, seq INTEGER NOT NULL, hash TEXT NOT NULL, first INTEGER NOT NULL)
            WITHOUT ROWID;
        CREATE TABLE segments(
            job TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL, prev TEXT NOT NULL, head TEXT NOT NULL,
            pruned_at INTEGER NOT NULL, PRIMARY KEY(job, first)) WITHOUT ROWID;
        CREATE TABLE position(one INTEGER PRIMARY KEY CHECK(one = 1), gen INTEGER NOT NULL, offset INTEGER NOT NULL);
        INSERT INTO position VALUES(1, 0, 0);
        CREATE VIEW decisions AS SELECT job, seq, at, body, prev, hash FROM entries WHERE kind = 'decision';
        CREATE VIEW executions AS SELECT job, seq, at, run, body, prev, hash FROM entries WHERE kind = 'execution';
        CREATE VIEW notes AS SELECT job, seq, at, body, prev, hash FROM entries WHERE kind = 'note';
        """,
    ),
    (
        "days on which rows were written, counted from the epoch",
        """
        CREATE TABLE days(day INTEGER PRIMARY KEY);
        INSERT INTO days SELECT DISTINCT at / 86400000 FROM entries;
        """,
    ),
)


def connect_writer(directory: StateDirectory, now: Millis) -> sqlite3.Connection:
    """Raises sqlite3.Error, OSError, StateUnreadable (newer version). The file is ours, 0600, never a symlink."""
    directory.check(directory.database)
    with suppress(FileExistsError):
        os.close(directory.create(directory.database))
    path = directory.path / directory.database
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _migrate(connection, now)
    except BaseException:
        connection.close()
        raise
    return connection


def identity(directory: StateDirectory) -> tuple[tuple[int, int] | None, ...]:
    """Which files have the names of database and log now: SQLite goes on writing to ones that were deleted."""
    found: list[tuple[int, int] | None] = []
    for name in (directory.database, f"{directory.database}-wal"):
        try:
            status = os.stat(name, dir_fd=directory.fd, follow_symlinks=False)
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((status.st_dev, status.st_ino))
    return tuple(found)


def connect_reader(directory: StateDirectory) -> sqlite3.Connection | None:
    """None: there is no journal yet. Works beside a daemon, and without the right to write."""
    if not directory.exists(directory.database):
        return None
    directory.check(directory.database)
    uri = f"file:{quote(os.fsencode((directory.path / directory.database).absolute()))}?mode=ro"
    try:
        return _begun(uri)
    except sqlite3.OperationalError:
        found = _begun(f"{uri}&immutable=1")
        if found is None and directory.size(f"{directory.database}-wal"):
            raise  # everything may be in that log, which is looked past here
        return found


def _begun(uri: str) -> sqlite3.Connection | None:
    """None: no table yet, as a first start leaves it that was killed. What its rollback journal would take back is
    nothing: the file was empty until then, and has no other once it has tables."""
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    try:
        if connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'entries'").fetchone()[0]:
            return connection
    except sqlite3.Error:
        connection.close()
        raise
    connection.close()
    return None


def _migrate(connection: sqlite3.Connection, now: Millis) -> None:
    connection.execute("CREATE TABLE IF NOT EXISTS migrations(number INTEGER PRIMARY KEY, name TEXT, at INTEGER)")
    done = connection.execute("SELECT coalesce(max(number), 0) FROM migrations").fetchone()[0]
    if done > len(MIGRATIONS):
        raise StateUnreadable(
            f"the journal was written by a newer version (migration {done}, this one knows {len(MIGRATIONS)})",
            hint="install that version; nothing was changed",
        )
    for number, (name, script) in enumerate(MIGRATIONS[done:], start=done + 1):
        insert = f"INSERT INTO migrations VALUES({number}, '{name}', {int(now)});"
        connection.executescript(f"BEGIN IMMEDIATE; {script}; {insert} COMMIT;")


def position(connection: sqlite3.Connection) -> Position:
    return Position(*connection.execute("SELECT gen, offset FROM position").fetchone())


def store(connection: sqlite3.Connection, facts: Iterable[Fact], reached: Position) -> int:
    """Rows and the position they came from in one transaction, so none is ever taken twice; how many."""
    rows: list[tuple[str, int, str, Millis, str, str, str, str]] = []
    links: dict[str, Link] = {}
    with transaction(connection):
        for n, fact in enumerate(facts):
            if n % YIELD_EVERY == 0:
                time.sleep(0)  # lets the loop's thread have the interpreter at once instead of after 5 ms
            job = clean(fact.job)
            row = next_row(links.get(job) or head(connection, job), job, fact.kind, fact.body)
            links[job] = Link(row.seq, row.hash)
            rows.append((job, row.seq, fact.kind, fact.at, clean(fact.run), row.body, row.prev, row.hash))
        connection.executemany("INSERT INTO entries VALUES(?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.executemany(
            "INSERT INTO heads VALUES(?, ?, ?, 1) "
            "ON CONFLICT(job) DO UPDATE SET seq = excluded.seq, hash = excluded.hash",
            [(job, link.seq, link.hash) for job, link in links.items()],
        )
        days = {(row[3] // DAY,) for row in rows}
        connection.executemany("INSERT OR IGNORE INTO days VALUES(?)", days)
        connection.execute("UPDATE position SET gen = ?, offset = ?", (reached.gen, reached.offset))
    return len(rows)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def moment(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read inside is of one moment, though somebody writes meanwhile."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")


def head(connection: sqlite3.Connection, job: str) -> Link:
    found = connection.execute("SELECT seq, hash FROM heads WHERE job = ?", (job,)).fetchone()
    return Link(*found) if found else Link()


def jobs(connection: sqlite3.Connection) -> list[str]:
    """Every job any table knows."""
    found = connection.execute("SELECT job FROM heads UNION SELECT job FROM entries UNION SELECT job FROM segments")
    return sorted(job for (job,) in found)


def chain_of(connection: sqlite3.Connection, job: str) -> tuple[list[Segment], Iterator[Row], Link | None]:
    """What `chain.check` needs; rows come one by one."""
    segments = [
        Segment(*row)
        for row in connection.execute(
            "SELECT job, first, last, prev, head FROM segments WHERE job = ? ORDER BY first", (job,)
        )
    ]
    rows = connection.execute("SELECT job, seq, kind, body, prev, hash FROM entries WHERE job = ? ORDER BY seq", (job,))
    end = connection.execute("SELECT seq, hash FROM heads WHERE job = ?", (job,)).fetchone()
    return segments, (Row(*row) for row in rows), Link(*end) if end else None


def misfiled(connection: sqlite3.Connection, job: str) -> list[int]:
    """Rows whose indexed columns, which no hash covers, differ from what the row itself says."""
    found = connection.execute(
        "SELECT seq FROM entries WHERE job = ? AND json_valid(body) AND ("
        "at IS NOT json_extract(body, CASE kind WHEN 'execution' THEN '$.finished_at' ELSE '$.at' END) OR "
        "run IS NOT CASE kind WHEN 'execution' THEN json_extract(body, '$.run.id') ELSE '' END) ORDER BY seq",
        (job,),
    )
    return [seq for (seq,) in found]


def close_quietly(connection: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error), closing(connection):
        connection.execute("PRAGMA optimize")


def clean(job: str) -> str:
    """SQLite stores UTF-8, which has no lone surrogates."""
    return job if job.isascii() else job.encode("utf-8", "backslashreplace").decode()
