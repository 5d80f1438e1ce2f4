"""State directories that were lived in, disks that refuse, and what is left of the files afterwards."""

import asyncio
import errno
import hashlib
import os
import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.contract.world import FixedClock, busy_state, decision
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.journal import JournalReader
from vmsh_scheduler.stores.local.load import Opened, load
from vmsh_scheduler.stores.local.store import LocalStore, open_store

T = TypeVar("T")
STATES = {"dao:x/fast": busy_state(), "dao:x/cold": JobState(level=1), "_agents/a": JobState(started=3)}


def opened(directory: Path, disk: Disk | None = None) -> LocalStore:
    return open_store(directory / "scheduler.json", FixedClock(), disk=disk)


def looked_at(directory: Path) -> Opened:
    """What a start would find."""
    with closing(open_directory(directory / "scheduler.json")) as found:
        return load(found)


def rows(directory: Path) -> JournalReader:
    return JournalReader(open_directory(directory / "scheduler.json"))


def named(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern))


def contents(directory: Path) -> dict[str, str]:
    """Name -> digest; the lock is for people, and SQLite's own files change when they are looked at."""
    files = (file for file in directory.iterdir() if file.is_file() and not file.name.endswith((".lock", "-shm")))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def generations(directory: Path) -> dict[str, str]:
    """Snapshots and logs only."""
    return {name: digest for name, digest in contents(directory).items() if name.endswith((".json", ".prev", ".wal"))}


def but_the_journal(directory: Path) -> dict[str, str]:
    """`contents` of all that is not written by a thread of its own whenever it can be."""
    return {name: digest for name, digest in contents(directory).items() if not name.startswith("scheduler.db")}


def used(directory: Path, jobs: int = 0) -> Path:
    """A directory with two snapshot generations; logs make up what the older one lacks. Its snapshot."""
    asyncio.run(lived_in(directory, jobs))
    return directory / "scheduler.json"


async def lived_in(directory: Path, jobs: int = 0) -> None:
    for level in range(3):
        store = opened(directory)
        await store.states.apply([Change(job_id, state) for job_id, state in STATES.items()])
        await store.states.apply([Change(f"more/{n}", busy_state()) for n in range(jobs)])
        await store.states.apply([Change("dao:x/cold", JobState(level=level), (decision("dao:x/cold", level),))])
        await store.close()


async def saved(store: LocalStore) -> None:
    """A change with its row, and the last snapshot."""
    await store.states.apply([Change("a/b", JobState(level=1), (decision("a/b", 1),))])
    await store.close()


class FaultyDisk:
    """Fails the calls whose names are in `broken`, with `error`."""

    def __init__(self, error: int = errno.EIO) -> None:
        self.broken: set[str] = set()
        self.error = error
        self.once = False
        self.synced: list[int] = []
        """Inodes, in the order of their syncs."""
        self.disk = Disk(
            write=lambda fd, data: self._do("write", lambda: os.write(fd, data)),
            truncate=lambda fd, size: self._do("truncate", lambda: os.ftruncate(fd, size)),
            sync_data=lambda fd: self._do("sync_data", lambda: self._sync(fd)),
            sync=lambda fd: self._do("sync", lambda: os.fsync(fd)),
            rename=lambda old, new, fd: self._do("rename", lambda: Disk().rename(old, new, fd)),
        )

    def _sync(self, fd: int) -> None:
        self.synced.append(os.fstat(fd).st_ino)
        os.fdatasync(fd)

    def _do(self, name: str, call: Callable[[], T]) -> T:
        if name in self.broken:
            if self.once:
                self.broken.discard(name)
            raise OSError(self.error, os.strerror(self.error))
        return call()


@contextmanager
def nothing_new(error: int) -> Iterator[None]:
    """No new file can be made in any directory (no inodes, read-only, immutable); those that are there can be used."""
    real = os.open

    def refuse(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        try:
            return real(path, flags & ~(os.O_CREAT | os.O_EXCL), mode, dir_fd=dir_fd)
        except FileNotFoundError:
            if flags & os.O_CREAT:
                raise OSError(error, os.strerror(error)) from None
            raise

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        yield


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A full disk for every file that is longer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


async def refused(store: LocalStore, rounds: int) -> int:
    """So many changes and as many snapshots, all of which must fail and leave every file as it was; how many."""
    directory, before = store.directory.path, generations(store.directory.path)
    for number in range(rounds):
        acknowledged = store.states.all()
        with pytest.raises(StateWriteFailed, match=str(directory)):
            await store.states.apply([Change("a/b", JobState(level=2, started=number))])
        assert store.states.all() == acknowledged, "shown and not written"
        store.states.note_config(f"config {number}")
        with pytest.raises(StateWriteFailed, match=str(directory)):
            await store.states.save()
        assert generations(directory) == before
    return 2 * rounds


def variants(raw: bytes, flips: int) -> Iterator[bytes]:
    """S11: single bits at `flips` places, cut at every 64th byte, the rest of it NUL, nothing, all NUL."""
    dice = random.Random(11)  # no secret hangs on it
    for offset in dice.sample(range(len(raw)), min(flips, len(raw))):
        yield flipped(raw, offset, dice.randrange(8))
    for size in range(0, len(raw), 64):
        yield raw[:size]
        yield raw[:size] + b"\0" * (len(raw) - size)
    yield b"\0" * len(raw)


def flipped(raw: bytes, offset: int, bit: int) -> bytes:
    return raw[:offset] + bytes([raw[offset] ^ (1 << bit)]) + raw[offset + 1 :]
