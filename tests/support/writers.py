"""Writers whose every change is a number that rises: the real store, and naive ones that a good check catches.

`python -m tests.support.writers KIND STATE TOLD` writes for ever; the file TOLD holds the last number whose writer
was told that it is durable."""

import asyncio
import json
import os
import random
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from itertools import count
from pathlib import Path

from tests.contract.world import NOW, FixedClock, decision
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import database
from vmsh_scheduler.stores.local.directory import StateDirectory, open_directory
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.journal import JournalReader
from vmsh_scheduler.stores.local.load import Condition, load
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.stores.local.store import LocalStore, open_store

JOB, TWIN = "a/n", "_twin"
SAVE_EVERY = 5
KEEP = Retention(rows=10_000_000)
ATTEMPTS = 5
Acked = Callable[[int], None]


def opened(state: Path, disk: Disk | None = None) -> LocalStore:
    return open_store(state, FixedClock(), keep=KEEP, disk=disk)


async def write(state: Path, changes: int, acked: Acked, disk: Disk | None = None) -> None:
    """So many changes of two jobs with a journal row each, a snapshot now and then, and a clean end."""
    store = opened(state, disk)
    try:
        await change(store, changes, acked)
    finally:
        with suppress(StateWriteFailed):  # the log holds everything; what is on disk is looked at by the caller
            await store.close()


async def change(store: LocalStore, changes: int | None, acked: Acked, pad: int = 0) -> None:
    """`changes`: None = for ever; `pad`: bytes that a state may be longer, so that logs fill up."""
    first = number_of(store.states.all()) + 1
    dice = random.Random(first)
    for number in count(first) if changes is None else range(first, first + changes):
        await _until_written(store, number, "x" * dice.randrange(pad + 1))
        acked(number)
        if number % SAVE_EVERY == 0:
            with suppress(StateWriteFailed):  # a snapshot that fails costs nothing that was acknowledged
                await store.states.save()


async def _until_written(store: LocalStore, number: int, pad: str) -> None:
    """What the engine does: a change that could not be written is written again."""
    state = JobState(started=number, result={"pad": pad} if pad else {})
    changes = [Change(JOB, state, (decision(JOB, number),)), Change(TWIN, JobState(started=number))]
    for attempt in range(ATTEMPTS):
        try:
            await store.states.apply(changes)
        except StateWriteFailed:
            if attempt == ATTEMPTS - 1:
                raise
        else:
            return


def number_of(states: Mapping[str, JobState]) -> int:
    state = states.get(JOB)
    return state.started if state is not None else 0


def read(at: Path) -> int:
    """The number that a start would find; fails for whatever a crash may not leave."""
    with closing(open_directory(at / "scheduler.json")) as directory:
        found = load(directory)
    assert found.condition in {Condition.LOADED, Condition.FRESH}, (found.condition, found.findings)
    assert [finding for finding in found.findings if "cut short" not in finding] == []
    number, twin = number_of(found.states), found.states.get(TWIN, JobState()).started
    assert twin <= number <= twin + 1, "two changes of one write are further apart than one write"
    return twin


def read_rows(at: Path) -> int:
    """The same through a start: afterwards the journal has one row for each number up to the state's."""
    number = read(at)
    asyncio.run(_start(at / "scheduler.json"))
    with closing(open_directory(at / "scheduler.json")) as directory:
        begun = number_of(load(directory).states)
        journal = JournalReader(directory)
        rows = [row.at - NOW for row in journal.decisions(JOB, limit=10_000_000)]
        assert sorted(rows) == list(range(1, begun + 1)), f"{len(rows)} rows for {begun} changes"
        assert journal.verify() == []
    return number


async def _start(state: Path) -> None:
    """What every start does before anything else: a new fence, on disk."""
    store = opened(state)
    await store.leases.acquire("scheduler")
    await store.close()


def naive_in_place(state: Path, changes: int | None, acked: Acked, disk: Disk) -> None:
    """As the original does it: the file is emptied and written again."""
    for number in _numbers(state, changes):
        _whole(state, number, disk)
        acked(number)


def naive_rename(state: Path, changes: int | None, acked: Acked, disk: Disk) -> None:
    """Whole for whoever reads, but nothing says when it is on disk."""
    with closing(open_directory(state)) as directory:
        for number in _numbers(state, changes):
            _whole(state.with_name("fresh"), number, disk)
            disk.rename("fresh", state.name, directory.fd)
            acked(number)


def naive_stubborn(state: Path, changes: int | None, acked: Acked, disk: Disk) -> None:
    """Synced in file and directory, but a sync that failed is simply tried again."""

    def sync(fd: int) -> None:
        try:
            disk.sync(fd)
        except OSError:
            disk.sync(fd)

    with closing(open_directory(state)) as directory:
        for number in _numbers(state, changes):
            _whole(state.with_name("fresh"), number, disk, sync)
            disk.rename("fresh", state.name, directory.fd)
            sync(directory.fd)
            acked(number)


def naive_move(state: Path, changes: int | None, acked: Acked, disk: Disk) -> None:
    """As `mv` does it: where a rename is refused, the content is copied into the old file."""
    with closing(open_directory(state)) as directory:
        for number in _numbers(state, changes):
            _whole(state.with_name("fresh"), number, disk)
            try:
                disk.rename("fresh", state.name, directory.fd)
            except OSError:
                _whole(state, number, disk)
            acked(number)


def _whole(path: Path, number: int, disk: Disk, sync: Callable[[int], None] = lambda fd: None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    disk.write_all(fd, _body(number))
    sync(fd)
    os.close(fd)


def read_naive(at: Path) -> int:
    path = at / "scheduler.json"
    return int(json.loads(path.read_bytes())["number"]) if path.exists() else 0


def _numbers(state: Path, changes: int | None) -> "range | count[int]":
    state.parent.mkdir(mode=0o700, exist_ok=True)
    first = read_naive(state.parent) + 1
    return count(first) if changes is None else range(first, first + changes)


def _body(number: int) -> bytes:
    return json.dumps({"number": number, "pad": "x" * (3000 + number % 7000)}).encode()


NAIVE = {"in place": naive_in_place, "rename": naive_rename, "stubborn": naive_stubborn, "move": naive_move}
PAD = 40_000
UNSYNCED = Disk(sync_data=lambda fd: None, sync=lambda fd: None)


def teller(told: str) -> Acked:
    """Keeps the last acknowledged number in a file."""
    fd = os.open(told, os.O_WRONLY | os.O_CREAT, 0o600)

    def tell(number: int) -> None:
        os.pwrite(fd, b"%20d" % number, 0)

    return tell


def main(kind: str, state: str, told: str) -> None:
    """`store`, `unsynced` (its disk only says that it syncs), `unsynced journal`, or one of NAIVE."""
    tell = teller(told)
    if kind in NAIVE:
        NAIVE[kind](Path(state), None, tell, Disk())
        return
    if kind == "unsynced journal":
        _unsync_journal()
    asyncio.run(_for_ever(Path(state), tell, UNSYNCED if kind == "unsynced" else Disk()))


async def _for_ever(state: Path, tell: Acked, disk: Disk) -> None:
    store = opened(state, disk)
    await store.leases.acquire("scheduler")
    await change(store, None, tell, PAD)


def _unsync_journal() -> None:
    connect = database.connect_writer

    def unsynced(directory: StateDirectory, now: Millis) -> sqlite3.Connection:
        connection = connect(directory, now)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    database.connect_writer = unsynced


if __name__ == "__main__":
    main(*sys.argv[1:])
