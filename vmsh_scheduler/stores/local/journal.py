"""ports.Journal on SQLite. One thread writes what was synced to the log, out of memory while it can follow; the log
stays the truth, and is read after a crash or when too much has gathered."""

import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from time import sleep
from typing import TYPE_CHECKING

from vmsh_scheduler.domain.codec import decision_from_json, execution_from_json, note_from_json
from vmsh_scheduler.domain.decision import Decision, Note
from vmsh_scheduler.domain.run import Execution
from vmsh_scheduler.domain.trigger import HOUR, Millis
from vmsh_scheduler.errors import SchedulerError, StateUnreadable
from vmsh_scheduler.stores.chain import check
from vmsh_scheduler.stores.local import database
from vmsh_scheduler.stores.local.directory import StateDirectory
from vmsh_scheduler.stores.local.load import Condition, peek
from vmsh_scheduler.stores.local.log import Stretch
from vmsh_scheduler.stores.local.records import NOWHERE, Position, read_tail
from vmsh_scheduler.stores.local.retention import Retention, prune
from vmsh_scheduler.stores.local.text import Fact, facts_of

if TYPE_CHECKING:
    from vmsh_scheduler.ports import Clock  # brings asyncio, which `history` does not need

GATHER_S = 0.3
"""Changes gather this long before a commit."""
BEGINS_S = 1.0
"""After its first row a daemon has begun its journal. Before it has, its state takes what room a disk has left."""
GATHER_MANY_S = 2.0
MANY = 500
"""Rows in a commit from which on the next one gathers longer: rows of many jobs lie on as many pages, each of which is
written at every commit, which for a thousand runs a second was three quarters of the work."""
RETRY_S = 5.0
HANDED_CAP = 4 << 20
"""Bytes of rows that wait in memory; beyond that they are read from the log."""
PRUNE_AFTER = 2000
"""Looked for what retention ends after so many changes, and every hour."""
BROKEN = (sqlite3.Error, OSError, SchedulerError)
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT)


class JournalReader:
    """Every read has its own read-only connection: works beside a daemon and without one."""

    def __init__(self, directory: StateDirectory) -> None:
        self._directory = directory

    def decisions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Decision]:
        return [decision_from_json(json.loads(body)) for body in self._bodies("decision", job_id, before, limit)]

    def executions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Execution]:
        return [execution_from_json(json.loads(body)) for body in self._bodies("execution", job_id, before, limit)]

    def execution(self, run_id: str) -> Execution | None:
        with self._reading() as connection:
            found = (
                connection
                and connection.execute(
                    "SELECT body FROM entries WHERE kind = 'execution' AND run = ? AND run <> '' "
                    "ORDER BY at DESC LIMIT 1",
                    (database.clean(run_id),),
                ).fetchone()
            )
        return execution_from_json(json.loads(found[0])) if found else None

    def notes(self, *, limit: int = 50) -> list[Note]:
        return [note_from_json(json.loads(body)) for body in self._bodies("note", "", None, limit)]

    def verify(self, job_id: str = "") -> list[str]:
        found = self._checked(job_id)
        if found is None and self._missing():
            sleep(BEGINS_S)
            found = self._checked(job_id)
        return self._missing() if found is None else found

    def _checked(self, job_id: str) -> list[str] | None:
        """None: there is no journal."""
        with self._reading() as connection:
            if connection is None:
                return None
            try:
                names = [database.clean(job_id)] if job_id else database.jobs(connection)
                return [line for name in names for line in _verify(connection, name)]
            except sqlite3.DatabaseError as error:
                return [f"{self._directory.path / self._directory.database} is damaged: {error}"]

    def _missing(self) -> list[str]:
        """A finding, unless no row was ever written: then nothing is missed."""
        if _no_row_yet(self._directory):
            return []
        what = "is empty" if self._directory.exists(self._directory.database) else "is gone"
        return [f"{self._directory.path / self._directory.database} {what}; the daemon begins it anew from the logs"]

    def _bodies(self, kind: str, job_id: str, before: Millis | None, limit: int) -> list[str]:
        """Newest first: of one job as they were written, of all by the wall clock, which may have been wrong."""
        query, order = "SELECT body FROM entries WHERE kind = ?", "at DESC, seq DESC"
        values: list[object] = [kind]
        if job_id:
            query, values, order = query + " AND job = ?", [*values, database.clean(job_id)], "seq DESC"
        if before is not None:
            query, values = query + " AND at < ?", [*values, before]
        with self._reading() as connection:
            if connection is None:
                return []
            rows = connection.execute(f"{query} ORDER BY {order} LIMIT ?", [*values, limit])
            return [body for (body,) in rows.fetchall()]

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """Raises StateUnreadable when there is a journal that cannot be read."""
        try:
            connection = database.connect_reader(self._directory)
            if connection is None:
                yield None
                return
            with closing(connection):
                yield connection
        except sqlite3.Error as error:
            path = self._directory.path / self._directory.database
            raise StateUnreadable(f"{path} cannot be read: {error}", hint="a running daemon repairs it") from error


class SqliteJournal(JournalReader):
    """`trouble`: why rows are late ("" = they are not); `findings`: what was set aside. Neither stops anything:
    the logs are kept until their rows are in."""

    def __init__(self, directory: StateDirectory, clock: "Clock", end: Position, keep: Retention | None = None) -> None:
        super().__init__(directory)
        self.trouble = ""
        self.findings: list[str] = []
        self._clock = clock
        self._keep = keep or Retention()
        self._target = self._first_end = end
        self._handed: list[Stretch] = []
        self._handed_size = 0
        self._taken: Position | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[object, ...] = ()
        self._pruned_at: Millis | None = None
        """On Clock.elapsed(), so that a step of the wall clock is no reason to look."""
        self._closing = False
        self._wakeup = threading.Condition()
        self._working = threading.Lock()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self._since_prune = 0
        self._gather_s = GATHER_S

    @property
    def taken(self) -> Position:
        """Logs before it are not needed here any more."""
        return self._taken or Position()

    def follow(self, stretch: Stretch) -> None:
        """More of the log is durable; returns at once."""
        size = sum(len(fact.body) for fact in stretch.facts)
        with self._wakeup:
            if self._handed_size + size <= HANDED_CAP:
                self._handed.append(stretch)
                self._handed_size += size
                if self._handed_size > HANDED_CAP // 2:
                    self._hurry.set()
            else:
                self._handed, self._handed_size = [], 0  # what comes next fits to nothing: the log is read
        self.reached(stretch.end)

    def reached(self, target: Position) -> None:
        """The log is durable up to `target`; returns at once."""
        with self._wakeup:
            if target <= self._target and self._thread is not None:
                return
            self._target = max(self._target, target)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="journal", daemon=True)
                self._thread.start()
            self._wakeup.notify()

    def flush(self) -> bool:
        """Take everything now, in this thread; False: it could not (see `trouble`)."""
        with self._working:
            try:
                self._take()
            except sqlite3.Error as error:
                if _is_damage(error):
                    return self._start_over(error)
                self.trouble = f"the journal is late: {error}"
                return False
            except BROKEN as error:
                self.trouble = f"the journal is late: {error}"
                return False
        self.trouble = ""
        return True

    def close(self, target: Position | None = None) -> None:
        """Rows of everything durable are in afterwards, unless there is trouble."""
        with self._wakeup:
            self._target = max(self._target, target or self._target)
            self._closing = True
            self._hurry.set()
            self._wakeup.notify()
        if self._thread is not None:
            self._thread.join()
        self.flush()
        with self._working:
            self._disconnect()

    def _serve(self) -> None:
        while True:
            with self._wakeup:
                self._wakeup.wait_for(lambda: self._closing or self._target != self._taken)
            self._hurry.wait(self._gather_s)
            with self._wakeup:
                if self._closing:
                    return
                self._hurry.clear()
            if not self.flush():
                with self._wakeup:
                    self._wakeup.wait_for(lambda: self._closing, RETRY_S)

    def _take(self) -> None:
        connection = self._connected()
        target, handed = self._take_handed()
        start = database.position(connection)
        if start > target:
            self._find("the journal knew of changes that the log does not hold; it goes on from the log's end")
            start = self._first_end
        facts: Sequence[Fact] = ()
        if start < target:
            joined = _joined(handed, start, target)
            facts = self._logged(start, target) if joined is None else joined
        if start != self._taken or facts or target != start:
            database.store(connection, facts, target)
        self._taken = target
        self._gather_s = GATHER_MANY_S if len(facts) >= MANY else GATHER_S
        elapsed = self._clock.elapsed()
        if self._pruned_at is None or elapsed - self._pruned_at >= HOUR or self._stored_much(len(facts)):
            self._pruned_at = elapsed
            if not prune(connection, self._keep, self._clock.now()):
                self._since_prune = PRUNE_AFTER  # the next change looks again

    def _connected(self) -> sqlite3.Connection:
        """To the file that has the name: what went into one that was deleted since is in the logs, as far as they are
        left."""
        if self._connection is not None and database.identity(self._directory) != self._identity:
            self._disconnect()
            self._find(f"{self._directory.database} was taken away; begun anew from the logs that are left")
        if self._connection is None:
            self._connection = database.connect_writer(self._directory, self._clock.now())
            self._identity = database.identity(self._directory)
        return self._connection

    def _take_handed(self) -> tuple[Position, Sequence[Stretch]]:
        with self._wakeup:
            handed, self._handed, self._handed_size = self._handed, [], 0
            return self._target, handed

    def _logged(self, start: Position, target: Position) -> Sequence[Fact]:
        """Raises StateUnreadable for a log that was cut since: its rows are late, never passed over. Those of one
        that is gone or damaged cannot come any more."""
        tail = read_tail(self._directory, start, target)
        if tail.end != target:
            where = "; ".join(tail.notes) or f"{self._directory.wal(tail.end.gen)} ends at byte {tail.end.offset}"
            raise StateUnreadable(f"the log holds less than was written: {where}")
        for note in tail.notes:
            self._find(f"{self._directory.database} lacks rows: {note}")
        return [fact for record in tail.records for fact in facts_of(record)]

    def _find(self, finding: str) -> None:
        if finding not in self.findings:
            self.findings.append(finding)

    def _stored_much(self, more: int) -> bool:
        self._since_prune += more
        if self._since_prune < PRUNE_AFTER:
            return False
        self._since_prune = 0
        return True

    def _start_over(self, error: sqlite3.Error) -> bool:
        """A damaged file is kept beside; what the logs still hold goes into a new one."""
        self._disconnect()
        try:
            kept = self._directory.set_aside(self._directory.database, self._clock.now())
            for suffix in ("-wal", "-shm"):
                self._directory.remove(self._directory.database + suffix)
            self.findings.append(f"{self._directory.database} is damaged ({error}); kept as {kept}, begun anew")
            self._take()
        except BROKEN as again:
            self.trouble = f"the journal is damaged and cannot be begun anew: {again}"
            return False
        self.trouble = ""
        return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            database.close_quietly(self._connection)
            self._connection = None


def _no_row_yet(directory: StateDirectory) -> bool:
    """As far as the files tell. No log goes before the journal has its rows, so if none is missing all are there."""
    condition = peek(directory).condition
    if condition is not Condition.LOADED:
        return condition is Condition.FRESH
    logs = read_tail(directory, NOWHERE)
    return not logs.damaged and not any(True for record in logs.records for _ in facts_of(record))


def _joined(handed: Sequence[Stretch], start: Position, target: Position) -> Sequence[Fact] | None:
    """What was handed over, if that is all from `start` to `target`."""
    reached = start
    for stretch in handed:
        if stretch.start != reached:
            return None
        reached = stretch.end
    return [fact for stretch in handed for fact in stretch.facts] if reached == target else None


def _verify(connection: sqlite3.Connection, job: str) -> list[str]:
    with database.moment(connection):
        findings = check(job, *database.chain_of(connection, job))
        wrong = database.misfiled(connection, job)
    return findings + [f"{job}: row {seq} is filed under another time or run than it says" for seq in wrong]


def _is_damage(error: sqlite3.Error) -> bool:
    """Not a full disk or a busy file: the content is wrong (our statements are constant, so they are not)."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE
