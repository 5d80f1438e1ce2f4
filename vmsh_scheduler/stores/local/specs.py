"""ports.Specs on SQLite, in a file of its own: the journal can be begun anew from the log, documents cannot."""

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.errors import StateUnreadable, StateWriteFailed
from vmsh_scheduler.stores.local.directory import StateDirectory, identity
from vmsh_scheduler.stores.local.spec_rows import FORMAT, check_version, read

T = TypeVar("T")
Key = tuple[str, str]

BUSY_TIMEOUT_S = 5.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS specs(
    kind TEXT NOT NULL, id TEXT NOT NULL, document TEXT NOT NULL, version INTEGER NOT NULL, created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL, by TEXT NOT NULL, PRIMARY KEY(kind, id)) WITHOUT ROWID
"""


class SqliteSpecs:
    """Memory answers; a change is in memory once it is on disk. One thread writes, in the order of the calls."""

    def __init__(self, connection: sqlite3.Connection, path: Path, *, fresh: bool = False) -> None:
        self.fresh = fresh
        """There was no file, or an empty one."""
        self.trouble = ""
        """Why the last change was refused."""
        self._connection = connection
        self._path = path
        self._file = identity(path)
        self._disk = ThreadPoolExecutor(1, "specs")
        self._specs: dict[Key, Spec] = {(spec.kind, spec.id): spec for spec in read(connection)}

    def get(self, kind: str, id: str) -> Spec | None:
        return self._specs.get((kind, id))

    def all(self, kind: str) -> Mapping[str, Spec]:
        return {spec.id: spec for spec in self._specs.values() if spec.kind == kind}

    async def save(self, spec: Spec) -> bool:
        """False: `spec.version` does not follow the stored one. Raises StateWriteFailed."""
        if not await self._written(lambda: _save(self._connection, spec)):
            return False
        self._specs[spec.kind, spec.id] = spec
        return True

    async def delete(self, kind: str, id: str) -> bool:
        """False: there is none. Raises StateWriteFailed."""
        gone = await self._written(lambda: _delete(self._connection, kind, id))
        self._specs.pop((kind, id), None)
        return gone

    def close(self) -> None:
        """After the last call returned."""
        self._disk.shutdown()
        with suppress(sqlite3.Error):
            self._connection.close()

    async def _written(self, work: Callable[[], T]) -> T:
        """Finished whether or not the caller still waits."""

        def written() -> T:
            if identity(self._path) != self._file:
                raise sqlite3.OperationalError(f"{self._path} was taken away or replaced")
            return work()

        try:
            done = await asyncio.shield(asyncio.get_running_loop().run_in_executor(self._disk, written))
        except sqlite3.Error as error:
            self.trouble = f"the document cannot be stored: {error}"
            raise StateWriteFailed(self.trouble, hint="see df, mount and lsattr") from error
        self.trouble = ""
        return done


def open_specs(directory: StateDirectory) -> SqliteSpecs:
    """Under the state directory's lock. Raises StateUnreadable: a damaged file is never replaced by an empty one."""
    path = directory.path / directory.specs
    try:
        directory.check(directory.specs)
        with suppress(FileExistsError):
            os.close(directory.create(directory.specs))
        fresh = path.stat().st_size == 0
        connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _check_format(connection)
        return SqliteSpecs(connection, path, fresh=fresh)
    except (sqlite3.Error, ValueError, TypeError) as error:  # the last two: rows that we never wrote
        hint = "it holds what was registered over the API: restore it from a backup, or move it away to begin without"
        raise StateUnreadable(f"{path} cannot be read: {error}", hint=hint) from error


def _check_format(connection: sqlite3.Connection) -> None:
    check_version(connection)
    harm = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if harm != "ok":
        raise sqlite3.DatabaseError(harm)
    connection.execute(_SCHEMA)
    connection.execute(f"PRAGMA user_version = {FORMAT}")


def _save(connection: sqlite3.Connection, spec: Spec) -> bool:
    """One statement, so one transaction."""
    text = json.dumps(dict(spec.document), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    values = (spec.kind, spec.id, text, spec.version, spec.created_at, spec.updated_at, spec.by)
    if spec.version == 1:
        added = connection.execute("INSERT INTO specs VALUES(?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values)
        return added.rowcount == 1
    changed = connection.execute(
        "UPDATE specs SET document = ?, version = ?, created_at = ?, updated_at = ?, by = ? "
        "WHERE kind = ? AND id = ? AND version = ?",
        (*values[2:], spec.kind, spec.id, spec.version - 1),
    )
    return changed.rowcount == 1


def _delete(connection: sqlite3.Connection, kind: str, id: str) -> bool:
    return connection.execute("DELETE FROM specs WHERE kind = ? AND id = ?", (kind, id)).rowcount == 1
