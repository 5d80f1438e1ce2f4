"""S8, S9 and S16: syncs that fail, syncs that take for ever, renames that are refused."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.disks import POWER_CUTS, WatchedDisk, failing, harm
from tests.support.writers import JOB, NAIVE, opened, read, read_naive, write
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import states as states_module
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.load import load
from vmsh_scheduler.stores.local.snapshot import parse

CHANGES = 12
VIEWS = ("kill -9", *POWER_CUTS)
REFUSED = (errno.EXDEV, errno.ESTALE, errno.EIO)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[WatchedDisk]:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    watched = WatchedDisk(directory)
    yield watched
    watched.close()


def lives(disk: WatchedDisk, changes: int) -> None:
    asyncio.run(write(disk.directory / "scheduler.json", changes, disk.ack, disk.disk()))


def lives_on(disk: WatchedDisk, changes: int) -> None:
    """A start that cannot be sure that what it read is on disk is refused; the next one is not."""
    with suppress(StateWriteFailed):
        lives(disk, changes)
        return
    assert disk.acked == 2, "refused before anything else"
    lives(disk, changes)


FAULTS = [(call, number) for call in ("fsync", "fdatasync") for number in range(1, 7)]


@pytest.mark.parametrize(("call", "number"), FAULTS)
def test_s8_a_sync_that_failed_is_trusted_neither_then_nor_later(disk: WatchedDisk, call: str, number: int) -> None:
    """Every change is written in the end, and no moment is left at which a power cut would cost one."""
    lives(disk, 2)
    disk.fail = failing(call, number)
    lives_on(disk, CHANGES)
    assert disk.failures == 1
    assert disk.acked == CHANGES + 2
    assert [line for view in VIEWS for line in harm(disk, view, read)] == []


def test_s8_bites_a_sync_tried_again_on_the_same_file_is_caught(disk: WatchedDisk) -> None:
    disk.fail = failing("fsync", 5)
    NAIVE["stubborn"](disk.directory / "scheduler.json", CHANGES, disk.ack, disk.disk())
    assert disk.failures == 1
    assert any("unreadable" in line for line in harm(disk, "power cut", read_naive))


@dataclass
class Torn:
    """A full disk on which a torn line cannot be cut off, while a sync of what came before it is still on its way."""

    synced: threading.Event = field(default_factory=threading.Event)
    told: threading.Event = field(default_factory=threading.Event)
    holding: bool = False
    full: bool = False

    def disk(self) -> Disk:
        return Disk(write=self.write, truncate=self.truncate, sync_data=self.sync_data)

    def write(self, fd: int, data: memoryview) -> int:
        if self.full and len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data[:-39] if self.full else data)

    def truncate(self, fd: int, size: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def sync_data(self, fd: int) -> None:
        os.fdatasync(fd)
        if self.holding:
            self.holding = False
            self.synced.set()
            self.told.wait(20)


async def test_s8_a_torn_line_beside_a_sync_costs_nothing_acknowledged(tmp_path: Path) -> None:
    torn = Torn()
    store = opened(tmp_path / "scheduler.json", torn.disk())
    await store.states.apply([Change("a/b", JobState(level=1))])
    torn.holding = True
    first = asyncio.ensure_future(store.states.apply([Change("a/b", JobState(level=2))]))
    await _eventually(torn.synced.is_set)
    second = asyncio.ensure_future(store.states.apply([Change("c/d", JobState(level=3))]))
    await asyncio.sleep(0)
    torn.full = True
    with pytest.raises(StateWriteFailed):
        await store.states.apply([Change("e/f", JobState(level=4))])
    torn.full = False
    torn.told.set()
    await asyncio.gather(first, second)
    with closing(open_directory(tmp_path / "scheduler.json")) as directory:
        states = load(directory).states
    await store.close()
    assert {job: state.level for job, state in states.items()} == {"a/b": 2, "c/d": 3}


@dataclass
class Gate:
    """A disk whose syncs wait until it is opened; `inside`: the threads that were held up."""

    free: threading.Event = field(default_factory=threading.Event)
    inside: list[threading.Thread] = field(default_factory=list)
    patience_s: float = 20

    def disk(self) -> Disk:
        return Disk(sync_data=self.through(os.fdatasync), sync=self.through(os.fsync))

    def through(self, sync: Callable[[int], None]) -> Callable[[int], None]:
        def wait(fd: int) -> None:
            if not self.free.is_set():
                self.inside.append(threading.current_thread())
            self.free.wait(self.patience_s)
            sync(fd)

        return wait


async def turned_while(gate: Gate, work: "asyncio.Future[None]") -> bool:
    """Did the loop go on while the work stood at the gate?"""
    await _eventually(lambda: bool(gate.inside) or work.done())
    for _ in range(50):
        await asyncio.sleep(0)
    turned = bool(gate.inside) and not work.done() and threading.main_thread() not in gate.inside
    gate.free.set()
    await work
    return turned


@pytest.mark.parametrize("what", ["a change", "a snapshot", "a fence"])
async def test_s9_no_sync_is_waited_for_on_the_loop(tmp_path: Path, what: str) -> None:
    gate = Gate()
    gate.free.set()
    store = opened(tmp_path / "scheduler.json", gate.disk())
    await store.states.apply([Change(JOB, JobState(started=1))])
    gate.free.clear()
    if what == "a change":
        work = asyncio.ensure_future(store.states.apply([Change(JOB, JobState(started=2))]))
    elif what == "a snapshot":
        work = asyncio.ensure_future(store.states.save())
    else:
        work = asyncio.ensure_future(store.states.raise_fence(7))
    assert await turned_while(gate, work)
    await store.close()


async def test_s9_bites_a_sync_on_the_loop_is_caught(tmp_path: Path) -> None:
    gate = Gate(patience_s=0.3)

    async def naive() -> None:
        with (tmp_path / "state").open("wb") as file:
            gate.disk().sync(file.fileno())

    assert not await turned_while(gate, asyncio.ensure_future(naive()))


@pytest.mark.parametrize("error", REFUSED, ids=errno.errorcode.__getitem__)
async def test_s16_a_refused_rename_leaves_the_old_file_and_is_tried_again(
    tmp_path: Path, error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states_module, "SNAPSHOT_EVERY_S", 0.05)
    state = tmp_path / "scheduler.json"
    disk = WatchedDisk(tmp_path)
    store = opened(state, disk.disk())
    before = state.read_bytes()
    disk.fail = failing("rename", 1, 3, error=error)
    await store.states.apply([Change(JOB, JobState(started=1))])
    with pytest.raises(StateWriteFailed, match=f"{state} cannot be replaced: {os.strerror(error)}"):
        await store.states.save()
    assert state.read_bytes() == before
    assert [name for name in os.listdir(tmp_path) if name.startswith(".")] == []  # noqa: PTH208 - no directory walk in a coroutine
    await store.states.apply([Change(JOB, JobState(started=2))])
    await _eventually(lambda: parse(state.read_bytes()).states.get(JOB) == JobState(started=2))
    await _eventually(lambda: store.states.snapshot_error == "")
    assert disk.failures == 3
    await store.close()
    disk.close()


async def _eventually(look: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("error", REFUSED, ids=errno.errorcode.__getitem__)
def test_s16_no_refused_rename_leaves_a_partial_file(disk: WatchedDisk, error: int) -> None:
    lives(disk, 2)
    disk.fail = failing("rename", 1, 99, error=error)
    lives(disk, CHANGES)
    assert disk.failures
    assert [line for view in VIEWS for line in harm(disk, view, read)] == []


def test_s16_bites_a_move_that_copies_instead_is_caught(disk: WatchedDisk) -> None:
    disk.fail = failing("rename", 3, error=errno.EXDEV)
    NAIVE["move"](disk.directory / "scheduler.json", CHANGES, disk.ack, disk.disk())
    assert any("unreadable" in line for line in harm(disk, "kill -9", read_naive))
