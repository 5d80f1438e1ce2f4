"""Disks that refuse: full, out of inodes, read-only, failing (S5 to S8, S10); writers that are killed (S1)."""

import asyncio
import errno
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.world import NOW, decision
from tests.support.daemon import UNMEASURED
from tests.support.statefiles import (
    STATES,
    FaultyDisk,
    but_the_journal,
    contents,
    file_size_limit,
    lived_in,
    looked_at,
    named,
    nothing_new,
    opened,
    refused,
    rows,
    used,
)
from tests.support.writers import NAIVE, read_naive
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import Denied, Exit, StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.load import Condition

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, sys
from pathlib import Path
from typing import TypeVar
from tests.contract.world import FixedClock
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.store import open_store

async def main():
    store = open_store(Path(sys.argv[1]), FixedClock())
    old = store.states.get("a/n") or JobState()
    n = old.started
    print("opened", store.opened.condition.value, n, flush=True)
    while True:
        n += 1
        await store.states.apply([Change("a/n", JobState(started=n)), Change("_b", JobState(started=n))])
        print("acked", n, flush=True)
        if n % 7 == 0:
            await store.states.save()

asyncio.run(main())
"""


def killed_writer(path: Path, acks: int) -> tuple[str, int, int]:
    """Condition at start, count at start, last acknowledged count of a writer that was killed -9."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        env={**os.environ, **UNMEASURED},
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as writer:
        assert writer.stdout is not None
        _, condition, start = writer.stdout.readline().split()
        for _ in range(acks):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
    whole = [line for line in rest if line.startswith("acked ") and line.split()[1].isdigit()]
    return condition, int(start), int(whole[-1].split()[1]) if whole else int(start) + acks


def test_s1_a_dozen_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    path, dice, acked = tmp_path / "s" / "scheduler.json", random.Random(3), 0  # no secret hangs on it
    for number in range(12):
        condition, start, last = killed_writer(path, dice.randrange(12))
        assert condition == ("fresh" if number == 0 else "loaded")
        assert start >= acked
        acked = last
    state = looked_at(path.parent)
    assert state.states["a/n"].started >= acked
    assert state.states["_b"] == state.states["a/n"]


async def test_s5_a_full_disk_fails_changes_and_recovers_at_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.states.apply([Change("a/b", JobState(level=1))])
    log = tmp_path / "scheduler.1.wal"
    before = log.read_bytes()
    with file_size_limit(len(before) + 40):
        for n in range(100):
            with pytest.raises(StateWriteFailed, match="wal cannot be written: File too large"):
                await store.states.apply([Change("a/b", JobState(level=2, started=n))])
        assert log.read_bytes() == before
        assert store.states.get("a/b") == JobState(level=1)
    await store.states.apply([Change("a/b", JobState(level=3))])
    await store.close()
    assert looked_at(tmp_path).states == {"a/b": JobState(level=3)}


@pytest.mark.parametrize("call", ["write", "sync", "rename"])
async def test_s5_a_full_disk_never_touches_the_files(tmp_path: Path, call: str) -> None:
    """The file system may notice that it is full as late as it likes."""
    faulty = FaultyDisk(errno.ENOSPC)
    store = opened(tmp_path, faulty.disk)
    await store.states.apply([Change("a/b", JobState(level=1))])
    await store.states.save()
    before = (tmp_path / "scheduler.json").read_bytes()
    store.states.note_config("other")
    faulty.broken = {call}
    for _ in range(50):
        with pytest.raises(StateWriteFailed, match="cannot be replaced: No space left on device"):
            await store.states.save()
    assert (tmp_path / "scheduler.json").read_bytes() == before
    assert named(tmp_path, ".*") == []
    faulty.broken = {"write"}
    assert await refused(store, 50) == 100
    faulty.broken = set()
    await store.states.apply([Change("a/b", JobState(level=3))])
    await store.close()
    assert looked_at(tmp_path).states == {"a/b": JobState(level=3)}


def test_s5_bites_a_writer_in_place_loses_what_there_was(tmp_path: Path) -> None:
    state, faulty = tmp_path / "scheduler.json", FaultyDisk(errno.ENOSPC)
    acked: list[int] = []
    NAIVE["in place"](state, 1, acked.append, faulty.disk)
    assert read_naive(tmp_path) == 1
    faulty.broken = {"write"}
    with pytest.raises(OSError, match="No space left"):
        NAIVE["in place"](state, 1, acked.append, faulty.disk)
    assert acked == [1]
    assert state.read_bytes() == b""


async def test_s5_a_torn_line_that_cannot_be_cut_off_is_left_behind(tmp_path: Path) -> None:
    """The disk is full and even truncating fails: the next generation says where the old one ends."""
    faulty = FaultyDisk(errno.ENOSPC)
    written: list[int] = []

    def torn_write(fd: int, data: memoryview) -> int:
        if "write" in faulty.broken:
            if written:
                raise OSError(errno.ENOSPC, "No space left on device")
            written.append(os.write(fd, data[:-5]))
            return written[0]
        return os.write(fd, data)

    disk = Disk(write=torn_write, truncate=faulty.disk.truncate)
    store = opened(tmp_path, disk)
    await store.states.apply([Change("a/b", JobState(level=1))])
    faulty.broken = {"write", "truncate"}
    with pytest.raises(StateWriteFailed):
        await store.states.apply([Change("a/b", JobState(level=2)), Change("c/d", JobState(level=2))])
    faulty.broken = set()
    await store.states.apply([Change("e/f", JobState(level=3))])
    found = looked_at(tmp_path)
    assert found.states == {"a/b": JobState(level=1), "e/f": JobState(level=3)}
    assert found.findings == ()
    await store.close()


class Careless(Disk):
    """Takes whatever the kernel took for everything."""

    def write_all(self, fd: int, data: bytes) -> None:
        self.write(fd, memoryview(data))


def one_byte(fd: int, data: memoryview) -> int:
    return os.write(fd, data[:1])


async def test_s6_one_byte_at_a_time_is_still_a_whole_write(tmp_path: Path) -> None:
    store = opened(tmp_path, Disk(write=one_byte))
    await store.states.apply([Change(job_id, state) for job_id, state in STATES.items()])
    assert looked_at(tmp_path).states == STATES, "from the log"
    await store.close()
    assert looked_at(tmp_path).states == STATES, "from the snapshot"


async def test_s6_a_short_write_before_a_full_disk_is_no_success(tmp_path: Path) -> None:
    """What the kernel does: some bytes without any error, and the error only when the rest is tried."""
    room = [1 << 20]

    def short(fd: int, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = os.write(fd, data[: room[0]])
        room[0] -= taken
        return taken

    store = opened(tmp_path, Disk(write=short))
    await store.states.apply([Change("a/b", JobState(level=1))])
    before = but_the_journal(tmp_path)
    for left in range(40):
        room[0] = left
        with pytest.raises(StateWriteFailed, match="No space left"):
            await store.states.apply([Change("a/b", JobState(level=2))])
        room[0] = left
        store.states.note_config(f"config {left}")
        with pytest.raises(StateWriteFailed, match="No space left"):
            await store.states.save()
        assert but_the_journal(tmp_path) == before
    room[0] = 1 << 20
    await store.close()
    assert looked_at(tmp_path).states == {"a/b": JobState(level=1)}


async def test_s6_bites_a_short_write_taken_for_a_whole_one_loses_changes(tmp_path: Path) -> None:
    await lived_in(tmp_path)
    store = opened(tmp_path, Careless(write=one_byte))
    await store.states.apply([Change("new/job", JobState(level=7))])
    await store.close()
    found = looked_at(tmp_path)
    assert "new/job" not in found.states, "acknowledged and gone"
    assert found.condition is not Condition.LOADED


async def test_s7_without_inodes_changes_go_on_and_snapshots_wait(tmp_path: Path) -> None:
    await lived_in(tmp_path)
    store = opened(tmp_path)
    await store.states.apply([Change("a/b", JobState(level=1))])
    await store.states.save()
    before = (tmp_path / "scheduler.json").read_bytes()
    with nothing_new(errno.ENOSPC):
        for n in range(20):
            await store.states.apply([Change("a/b", JobState(started=n))])
            with pytest.raises(StateWriteFailed, match=r"scheduler.json cannot be replaced: No space left.*df"):
                await store.states.save()
        assert (tmp_path / "scheduler.json").read_bytes() == before
        assert named(tmp_path, ".*") == []
        assert looked_at(tmp_path).states["a/b"] == JobState(started=19)
    await store.states.save()
    await store.close()
    assert looked_at(tmp_path).states["a/b"] == JobState(started=19)


NO_NEW_FILE = {
    errno.ENOSPC: r"No space left on device; see df",
    errno.EROFS: r"Read-only file system \(directory {path}: uid \d+, mode 0700\); see .*mount",
    errno.EPERM: r"Operation not permitted \(directory {path}: uid \d+, mode 0700\); see .*(lsattr|mount)",
}


@pytest.mark.parametrize("error", NO_NEW_FILE)
def test_s7_s10_a_first_start_without_files_says_where_and_why(tmp_path: Path, error: int) -> None:
    why = NO_NEW_FILE[error].format(path=re.escape(str(tmp_path)))
    with nothing_new(error), pytest.raises(StateWriteFailed, match=f"{tmp_path}/scheduler.lock: {why}") as failed:
        opened(tmp_path)
    assert failed.value.exit == Exit.IO_ERROR
    assert named(tmp_path, "*") == []
    asyncio.run(opened(tmp_path).close())


@pytest.mark.parametrize("error", NO_NEW_FILE)
async def test_s7_s10_a_start_on_old_state_without_files_says_where_and_why(tmp_path: Path, error: int) -> None:
    """Opening needs no new file; the fence of whoever wants to work does."""
    await opened(tmp_path).close()
    why = NO_NEW_FILE[error].format(path=re.escape(str(tmp_path)))
    store = opened(tmp_path)
    before = contents(tmp_path)
    with nothing_new(error):
        for _ in range(3):
            with pytest.raises(StateWriteFailed, match=f"{tmp_path}/scheduler.\\d.wal cannot be begun: {why}"):
                await store.leases.acquire("scheduler")
        assert contents(tmp_path) == before
    assert await store.leases.acquire("scheduler") is not None
    await store.close()


def test_s10_a_lock_that_may_not_be_made_names_the_command_that_mends_it(tmp_path: Path) -> None:
    with nothing_new(errno.EACCES), pytest.raises(Denied, match=f"run: chown -R {os.geteuid()} {tmp_path}") as refusal:
        opened(tmp_path)
    assert refusal.value.exit == Exit.DENIED


@pytest.mark.parametrize("error", [errno.EROFS, errno.EPERM])
async def test_s10_a_snapshot_that_may_not_be_replaced_keeps_both_generations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """`chattr +i scheduler.json`: renaming over it is refused, and so is a second name for it."""
    await lived_in(tmp_path)
    (tmp_path / "scheduler.json").chmod(0o640)
    faulty = FaultyDisk(error)
    store = opened(tmp_path, faulty.disk)
    before = {name: digest for name, digest in contents(tmp_path).items() if ".json" in name}
    assert len(before) == 2
    store.states.note_config("other")
    faulty.broken = {"rename"}
    monkeypatch.setattr(os, "link", raising(errno.EPERM))
    whose = rf"\(scheduler.json: uid \d+, mode 0640; directory {tmp_path}: uid \d+, mode 0700\)"
    with pytest.raises(StateWriteFailed, match=rf"{os.strerror(error)} {whose}; see df, mount and lsattr"):
        await store.states.save()
    assert {name: digest for name, digest in contents(tmp_path).items() if ".json" in name} == before
    faulty.broken = set()
    await store.close()


def raising(error: int) -> Callable[..., None]:
    def refuse(*args: object, **options: object) -> None:
        raise OSError(error, os.strerror(error))

    return refuse


def test_s10_a_log_that_cannot_be_removed_is_only_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, *, dir_fd: int | None = None) -> None:
        if path.endswith(".wal"):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, dir_fd=dir_fd)

    unlink = os.unlink
    used(tmp_path)
    logs = named(tmp_path, "*.wal")
    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        used(tmp_path)
        assert set(logs) < set(named(tmp_path, "*.wal"))
    used(tmp_path)
    assert not set(logs) & set(named(tmp_path, "*.wal"))


def test_s10_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    faulty = FaultyDisk(errno.EROFS)
    faulty.broken = {"write"}
    with pytest.raises(StateWriteFailed, match=f"{tmp_path} cannot be written: Read-only file system"):
        opened(tmp_path, faulty.disk)
    faulty.broken = set()
    asyncio.run(opened(tmp_path, faulty.disk).close())


async def test_s8_a_failed_sync_goes_to_a_new_file_and_is_never_retried_on_the_old(tmp_path: Path) -> None:
    faulty = FaultyDisk()
    faulty.once = True
    store = opened(tmp_path, faulty.disk)
    await store.states.apply([Change("a/b", JobState(level=1), (decision("a/b", 1),))])
    old = (tmp_path / "scheduler.1.wal").stat().st_ino
    synced_before = faulty.synced.count(old)
    await store.states.apply([Change("e/f", JobState(level=9), (decision("e/f", 1),))], durable=False)
    faulty.broken = {"sync_data"}
    await store.states.apply([Change("a/b", JobState(level=2), (decision("a/b", 2),))])
    assert faulty.synced.count(old) == synced_before
    assert (tmp_path / "scheduler.2.wal").exists()
    (tmp_path / "scheduler.json").read_bytes()
    found = looked_at(tmp_path)
    assert found.states == {"a/b": JobState(level=2), "e/f": JobState(level=9)}
    await store.close()
    assert [row.at for row in rows(tmp_path).decisions()] == [NOW + 2, NOW + 1, NOW + 1]
    assert looked_at(tmp_path).findings == ()


async def test_s8_a_dead_disk_acknowledges_nothing(tmp_path: Path) -> None:
    faulty = FaultyDisk()
    store = opened(tmp_path, faulty.disk)
    await store.states.apply([Change("a/b", JobState(level=1))])
    faulty.broken = {"sync_data"}
    for n in range(3):
        with pytest.raises(StateWriteFailed, match="begun: Input/output error"):
            await store.states.apply([Change("a/b", JobState(level=2, started=n))])
        assert store.states.get("a/b") == JobState(level=1)
    faulty.broken = set()
    await store.states.apply([Change("c/d", JobState(level=3))])
    assert looked_at(tmp_path).states == {"a/b": JobState(level=1), "c/d": JobState(level=3)}
    await store.close()


@pytest.mark.parametrize("call", ["sync"])
async def test_s8_a_snapshot_whose_sync_fails_is_not_trusted(tmp_path: Path, call: str) -> None:
    faulty = FaultyDisk()
    store = opened(tmp_path, faulty.disk)
    await store.states.apply([Change("a/b", JobState(level=1))])
    before = (tmp_path / "scheduler.json").read_bytes()
    faulty.broken = {call}
    with pytest.raises(StateWriteFailed, match="Input/output error"):
        await store.states.save()
    assert (tmp_path / "scheduler.json").read_bytes() == before
    faulty.broken = set()
    await store.close()
    assert looked_at(tmp_path).states == {"a/b": JobState(level=1)}
