"""The rows of scheduler-specs.db, for their writer and for who only looks: `status` is spared what a writer needs."""

import json
import os
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TypeVar
from urllib.parse import quote

from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.stores.local.directory import StateDirectory

T = TypeVar("T")

FORMAT = 1


def read(connection: sqlite3.Connection) -> list[Spec]:
    """In the order of their creation. Raises ValueError and TypeError for rows that we never wrote."""
    rows = connection.execute("SELECT kind, id, document, version, created_at, updated_at, by FROM specs").fetchall()
    specs = [Spec(kind, id, json.loads(document), *rest) for kind, id, document, *rest in rows]
    return sorted(specs, key=lambda spec: (spec.created_at, spec.id))


def check_version(connection: sqlite3.Connection) -> None:
    """Raises StateUnreadable."""
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found > FORMAT:
        raise StateUnreadable(
            f"the documents were written by a newer version (format {found}, this one knows {FORMAT})",
            hint="install that version; nothing was changed",
        )


def look(directory: StateDirectory, kind: str, made: Callable[[Mapping[str, object]], T]) -> list[T]:
    """Of each document; makes no file, and reads also where it may not write. Raises StateUnreadable."""
    directory.check(directory.specs)
    path = directory.path / directory.specs
    # the log of a database that was closed well is gone, and reading it would make another one
    mode = "mode=ro" if directory.exists(f"{directory.specs}-wal") else "immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(os.fsencode(path.absolute()))}?{mode}", uri=True)) as connection:
            check_version(connection)
            return [made(spec.document) for spec in read(connection) if spec.kind == kind]
    except (sqlite3.Error, ValueError, TypeError, KeyError) as error:
        raise StateUnreadable(f"{path} cannot be read: {error}", hint="a running daemon says more") from error
