"""SQLite `memories` below `ops/data` (spec vaultmesh section 15): rows are only added, each with the root after it."""

import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.anchors.memory_tree import LEAF_COLUMNS, MemoryTree, leaf
from vmsh_scheduler.errors import Busy

COLUMNS = (*LEAF_COLUMNS, "merkle_root")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?(Z|\+00:00)")
_WAIT_S = 30.0
_RESTORE = "restore it, or move it away"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS memories (id TEXT PRIMARY KEY, timestamp TEXT NOT NULL, type TEXT NOT NULL, component TEXT,
    version TEXT, hash TEXT, sig TEXT, data TEXT, merkle_root TEXT);
CREATE INDEX IF NOT EXISTS idx_memories_timestamp ON memories (timestamp);
CREATE INDEX IF NOT EXISTS idx_memories_component ON memories (component);
CREATE INDEX IF NOT EXISTS idx_memories_type ON memories (type);
CREATE TABLE IF NOT EXISTS memories_edge (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL,
    hashes TEXT NOT NULL, last TEXT NOT NULL);
"""
"""`memories_edge` is a cache: the tree's right edge, so that a row costs the same in a large database."""


@dataclass(frozen=True, slots=True)
class Memory:
    """One row. `data`: JSON text."""

    id: str
    type: str
    component: str
    version: str
    hash: str
    data: str
    timestamp: str = ""
    """ "" = not added yet."""
    sig: str | None = None
    merkle_root: str | None = None


class Memories:
    """One database file, made at first use."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, memory: Memory, beside: Callable[[Memory], None]) -> Memory | None:
        """The row as it stands there now; None: the id was there. `beside` writes what belongs to the row before it
        is committed, so that no row is ever without it. Raises Corrupt, Busy."""
        disk.make_directory(self.path.parent)
        with self._open() as database:
            database.executescript(_SCHEMA)
            database.execute("BEGIN IMMEDIATE")
            if database.execute("SELECT 1 FROM memories WHERE id = ?", (memory.id,)).fetchone():
                return None
            tree, last = self._edge(database)
            memory = replace(memory, timestamp=_after(memory.id, *last))
            tree = tree.append(leaf(asdict(memory)))
            memory = replace(memory, merkle_root=tree.root())
            self._insert(database, memory, tree)
            beside(memory)
            database.commit()
        return memory

    def find(self, identity: str) -> Memory | None:
        """Also where there is no database yet."""
        if not self.path.exists():
            return None
        with self._open("rw") as database:
            query = f"SELECT {', '.join(COLUMNS)} FROM memories WHERE id = ?"  # noqa: S608  # constants of ours
            row = database.execute(query, (identity,)).fetchone()
        return None if row is None else Memory(**dict(zip(COLUMNS, row, strict=True)))

    def rows(self) -> Iterator[dict[str, Any]]:
        """All, in the order of the tree (timestamp, id); read once, without holding anybody up for long."""
        with self._open("rw") as database:  # "ro" could not undo what a killed writer left
            _intact(self.path, database)
            yield from _in_order(database)

    @contextmanager
    def _open(self, mode: str = "rwc") -> Iterator[sqlite3.Connection]:
        try:
            address = f"{self.path.absolute().as_uri()}?mode={mode}"
            with closing(sqlite3.connect(address, uri=True, timeout=_WAIT_S, isolation_level=None)) as database:
                database.execute("PRAGMA synchronous = EXTRA")
                yield database
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CORRUPT", "SQLITE_ERROR")):
                raise Corrupt(f"{self.path}: {error}", hint=_RESTORE) from None
            raise Busy(f"{self.path}: {error}") from None
        except sqlite3.DatabaseError as error:
            raise Corrupt(f"{self.path}: {error}", hint=_RESTORE) from None

    def _edge(self, database: sqlite3.Connection) -> tuple[MemoryTree, tuple[str, str]]:
        """From the cache if the newest row and the last of the tree are those that it knows, else from all rows."""
        latest = "SELECT max(timestamp) FROM memories"  # by its index: to sort by both would be to read all
        newest = f"SELECT timestamp, id FROM memories WHERE timestamp = ({latest}) ORDER BY id DESC LIMIT 1"  # noqa: S608  # a constant
        last = database.execute(newest).fetchone() or ("", "")
        (newest_row,) = database.execute("SELECT max(rowid) FROM memories").fetchone()
        kept = database.execute("SELECT size, hashes, last FROM memories_edge").fetchone()
        if kept is not None and kept[2] == json.dumps([newest_row, *last]):
            return MemoryTree(kept[0], tuple(json.loads(kept[1]))), (str(last[0]), str(last[1]))
        tree = MemoryTree()
        for row in _in_order(database):
            tree = tree.append(leaf_of(row))
        return tree, (str(last[0]), str(last[1]))

    def _insert(self, database: sqlite3.Connection, memory: Memory, tree: MemoryTree) -> None:
        marks = ", ".join("?" * len(COLUMNS))
        insert = f"INSERT INTO memories ({', '.join(COLUMNS)}) VALUES ({marks})"  # noqa: S608  # constants of ours
        row = asdict(memory)
        added = database.execute(insert, [row[name] for name in COLUMNS])
        last = json.dumps([added.lastrowid, memory.timestamp, memory.id])
        edge = (tree.size, json.dumps(tree.hashes), last)
        database.execute("INSERT OR REPLACE INTO memories_edge VALUES (1, ?, ?, ?)", edge)


def leaf_of(row: dict[str, Any]) -> str:
    """Corrupt for a row that has no JSON text (a blob)."""
    try:
        return leaf(row)
    except (TypeError, ValueError):
        raise Corrupt(f"memory {row['id']!r} cannot be written as JSON") from None


def _intact(path: Path, database: sqlite3.Connection) -> None:
    """A query takes columns from an index where it can: table and indexes have to say the same."""
    (found,) = database.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise Corrupt(f"{path}: {found}", hint=_RESTORE)


def _in_order(database: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    query = f"SELECT {', '.join(COLUMNS)} FROM memories ORDER BY timestamp, id"  # noqa: S608  # constants of ours
    for row in database.execute(query):
        yield dict(zip(COLUMNS, row, strict=True))


def _after(identity: str, timestamp: str, last: str) -> str:
    """Now, or as little later as makes (timestamp, id) the last of all: the root after a row is then the root of
    all rows up to it, for ever. Corrupt when the last of all has no time."""
    now = _text(datetime.now(UTC))
    if (now, identity) > (timestamp, last):
        return now
    found = _TIME.fullmatch(timestamp)
    try:
        moment = datetime.fromisoformat(f"{found[1] if found else ''}+00:00")
        moment += timedelta(seconds=float((found and found[2]) or 0))
        later = [_text(moment + timedelta(milliseconds=step)) for step in (1, 1001)]  # a text's order is not a time's
        return next(text for text in later if (text, identity) > (timestamp, last))
    except (ValueError, OverflowError, StopIteration):
        raise Corrupt(f"memory {last!r} has a timestamp that is none: {timestamp[:40]!r}") from None


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"
