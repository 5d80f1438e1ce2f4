"""The local stores as one: opened under the lock, closed in the order that loses nothing."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Clock
from vmsh_scheduler.stores.local.directory import StateDirectory, open_directory
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.journal import SqliteJournal
from vmsh_scheduler.stores.local.load import Condition, Opened, load
from vmsh_scheduler.stores.local.lock import LocalLeases, StateLock
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.stores.local.snapshot import Blocks, Meta, render
from vmsh_scheduler.stores.local.states import LocalStates

DIRECTORIES = ("runs", "keys")


@dataclass(slots=True)
class LocalStore:
    """`opened` says what was found; `journal.findings` and `states.snapshot_error` what went wrong since."""

    directory: StateDirectory
    lock: StateLock
    opened: Opened
    states: LocalStates
    journal: SqliteJournal
    leases: LocalLeases
    saves: int = 0
    """Snapshots of this life. Until the first, the previous one on disk needs logs that nobody here knows of."""

    def on_saved(self) -> None:
        self.saves += 1
        purge(self.directory, self.states, self.journal)

    def troubles(self) -> tuple[str, ...]:
        """Everything a person has to see, worst first; empty = all is well."""
        states, journal = self.states, self.journal
        now = (states.snapshot_error, states.log_trouble, journal.trouble, *journal.findings, *self.opened.findings)
        return tuple(trouble for trouble in now if trouble)

    async def close(self) -> None:
        """Last sync, last snapshot, last rows, then the lock. Raises StateWriteFailed after freeing everything."""
        try:
            await self.states.close()
        finally:
            self.journal.close(self.states.synced)
            if self.saves:
                purge(self.directory, self.states, self.journal)
            self.lock.close()
            self.directory.close()


def open_store(
    snapshot: Path,
    clock: Clock,
    *,
    command: str = "vmsh-scheduler",
    keep: Retention | None = None,
    disk: Disk | None = None,
) -> LocalStore:
    """`snapshot` is what VMSH_STATE names. Raises Busy, Denied, CannotCreate, StateUnreadable (newer version),
    StateWriteFailed (read-only or full). Needs no event loop."""
    directory = open_directory(snapshot, disk=disk)
    lock = StateLock(directory, clock, command)
    try:
        lock.acquire()
        opened = load(directory)
        _repair(directory, opened, clock.now())
        return _assemble(directory, lock, opened, clock, keep)
    except BaseException:
        lock.release()
        directory.close()
        raise


def _assemble(
    directory: StateDirectory, lock: StateLock, opened: Opened, clock: Clock, keep: Retention | None
) -> LocalStore:
    journal = SqliteJournal(directory, clock, opened.end, keep)
    states = LocalStates(directory, opened, clock, journal.follow)
    store = LocalStore(directory, lock, opened, states, journal, LocalLeases(lock, states, clock))
    states.on_saved = store.on_saved
    return store


def _repair(directory: StateDirectory, opened: Opened, now: Millis) -> None:
    """Damaged files are kept; a fresh directory becomes one that was in use, before anything else is in it. A killed
    writer leaves lines that no disk has yet: what was read counts from now on, so it has to be there."""
    try:
        directory.sync(*(directory.wal(gen) for gen in directory.generations() if gen >= opened.base.gen))
        for name in opened.keep_copy:
            directory.set_aside(name, now, move=False)
        for name in opened.set_aside:
            directory.set_aside(name, now)
        if opened.condition is Condition.FRESH:
            _first_snapshot(directory, opened, now)
        for name in DIRECTORIES:
            directory.make_directory(name)
        directory.sweep(now)
    except OSError as error:
        raise StateWriteFailed(
            f"the state directory {directory.path} cannot be written: {error.strerror}", hint="see df, mount and lsattr"
        ) from error


def _first_snapshot(directory: StateDirectory, opened: Opened, now: Millis) -> None:
    blocks = Blocks(opened.states)
    blocks.take()
    parts = render(Meta(opened.end, opened.fence, "", now), *blocks.pieces())
    directory.replace(directory.snapshot, *parts, keep_as=directory.previous)


def purge(directory: StateDirectory, states: LocalStates, journal: SqliteJournal) -> None:
    """Logs that neither snapshot needs and whose rows are in the journal."""
    oldest = min(states.oldest_needed, journal.taken.gen)
    with suppress(OSError):  # they are only in the way, and it is tried again
        for gen in directory.generations():
            if gen < oldest:
                directory.remove(directory.wal(gen))
