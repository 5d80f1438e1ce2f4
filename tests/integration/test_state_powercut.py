"""S2, S3 and S4 without a machine to kill: before every call of a save, what would a killed process leave, and what a
power cut? The disk is a real directory whose synced content is remembered; tests/soak cuts real file systems."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.contract.world import decision
from tests.support.disks import POWER_CUTS, Shot, WatchedDisk, harm
from tests.support.writers import JOB, NAIVE, TWIN, number_of, opened, read, read_naive, read_rows, write
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.load import load
from vmsh_scheduler.stores.local.snapshot import parse

CHANGES = 12
EVERY = 9
"""A start with its journal takes a while: this is the step through the moments."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[WatchedDisk]:
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    watched = WatchedDisk(directory)
    yield watched
    watched.close()


def lived(disk: WatchedDisk) -> WatchedDisk:
    """The real store, stopped and started again in between."""
    for _ in range(2):
        asyncio.run(write(disk.directory / "scheduler.json", CHANGES, disk.ack, disk.disk()))
    return disk


def naive(disk: WatchedDisk, kind: str) -> WatchedDisk:
    NAIVE[kind](disk.directory / "scheduler.json", CHANGES, disk.ack, disk.disk())
    return disk


def test_s2_a_kill_before_any_call_of_a_save_leaves_a_state_that_was(disk: WatchedDisk) -> None:
    lived(disk)
    assert {"write", "fdatasync", "fsync", "rename"} <= set(disk.calls)
    assert harm(disk, "kill -9", read) == []


def test_s2_bites_a_file_written_in_place_is_caught(disk: WatchedDisk) -> None:
    assert any("unreadable" in line for line in harm(naive(disk, "in place"), "kill -9", read_naive))


@pytest.mark.parametrize("view", POWER_CUTS)
def test_s3_a_power_cut_before_any_call_of_a_save_loses_nothing_acknowledged(disk: WatchedDisk, view: str) -> None:
    assert harm(lived(disk), view, read) == []


@pytest.mark.parametrize("view", POWER_CUTS)
def test_s3_bites_a_rename_without_a_sync_is_caught(disk: WatchedDisk, view: str) -> None:
    naive(disk, "rename")
    assert harm(disk, "kill -9", read_naive) == []
    wanted = "acknowledged, 0 found" if view == "power cut" else "unreadable"
    assert any(wanted in line for line in harm(disk, view, read_naive))


async def killed_with_a_line_in_the_page_cache(disk: WatchedDisk) -> None:
    store = opened(disk.directory / "scheduler.json", disk.disk())
    await store.leases.acquire("scheduler")
    await store.states.apply([Change(JOB, JobState(started=1)), Change(TWIN, JobState(started=1))])
    disk.ack(1)
    last = [Change(JOB, JobState(started=2), (decision(JOB, 2),)), Change(TWIN, JobState(started=2))]
    await store.states.apply(last, durable=False)
    store.lock.close()


async def starts_and_goes_on(disk: WatchedDisk) -> None:
    store = opened(disk.directory / "scheduler.json", disk.disk())
    disk.ack(number_of(store.states.all()))
    await store.leases.acquire("scheduler")
    await store.states.apply([Change("b/m", JobState(started=7))])
    disk.ack(disk.acked)
    store.lock.close()


@pytest.mark.parametrize("view", POWER_CUTS)
def test_s3_what_a_start_has_read_survives_a_power_cut(disk: WatchedDisk, view: str) -> None:
    """A killed writer's last lines are only in the page cache: whoever goes on from them says that they happened."""
    asyncio.run(killed_with_a_line_in_the_page_cache(disk))
    asyncio.run(starts_and_goes_on(disk))
    assert disk.acked == 2
    assert harm(disk, view, read) == []


def findings(at: Path) -> tuple[str, ...]:
    with closing(open_directory(at / "scheduler.json")) as directory:
        return load(directory).findings


def torn(shot: Shot, at: Path) -> Path:
    """As the cut left it, and the newest log ends in half a line."""
    shot.lay_out("power cut", at)
    newest = max(at.glob("*.wal"), key=lambda path: int(path.suffixes[-2][1:]))
    content = newest.read_bytes()
    newest.write_bytes(content + content.splitlines(keepends=True)[-1][:-9])
    return at


def test_s4_a_power_cut_costs_no_row_of_the_journal(disk: WatchedDisk) -> None:
    """The journal is gone altogether: whatever the logs hold is in it again after a start."""
    lived(disk)
    begun = [shot for shot in disk.shots if any(name.endswith(".wal") and shot.durable[name] for name in shot.durable)]
    for number, shot in enumerate(begun[:: len(begun) // EVERY]):
        at = torn(shot, disk.directory.parent / f"torn {number}")
        (said,) = findings(at)
        assert "cut short and is dropped" in said
        assert read_rows(at) >= shot.acked
        assert findings(at) == ()


def test_s4_bites_logs_that_went_before_their_rows_were_in_are_missed(disk: WatchedDisk) -> None:
    shot = lived(disk).shots[-1]
    at = shot.lay_out("power cut", disk.directory.parent / "cut")
    min(at.glob("*.wal")).unlink()
    assert read(at) == shot.acked
    with pytest.raises(AssertionError, match=f"rows for {shot.acked} changes"):
        read_rows(at)


@dataclass
class Turnstile:
    """Syncs of the log pass one by one, when they are let."""

    passes: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    waiting: int = 0
    shut: bool = False

    def sync(self, fd: int) -> None:
        if self.shut:
            self.waiting += 1
            self.passes.acquire(timeout=20)
        os.fdatasync(fd)

    async def arrived(self, count: int) -> None:
        deadline = time.monotonic() + 60
        while self.waiting < count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


async def test_s4_a_snapshot_is_never_ahead_of_the_log(tmp_path: Path) -> None:
    """Or a power cut leaves a state whose rows are nowhere, and one that failed comes back."""
    gate = Turnstile()
    store = opened(tmp_path / "scheduler.json", Disk(sync_data=gate.sync))
    await store.states.apply([Change(JOB, JobState(started=1))])
    gate.shut = True
    first = asyncio.ensure_future(store.states.apply([Change(JOB, JobState(started=2))]))
    await gate.arrived(1)
    saving = asyncio.ensure_future(store.states.save())
    await asyncio.sleep(0)
    second = asyncio.ensure_future(store.states.apply([Change(JOB, JobState(started=3))]))
    await asyncio.sleep(0)
    gate.passes.release()
    await gate.arrived(2)
    await asyncio.wait({saving}, timeout=1)
    found = parse((tmp_path / "scheduler.json").read_bytes()).states
    acknowledged = second.done()
    gate.shut = False
    gate.passes.release(9)
    await asyncio.gather(first, second, saving)
    await store.close()
    assert found.get(JOB) != JobState(started=3) or acknowledged


def listed_by_two(names: Callable[[], list[str]], wanted: int) -> set[int]:
    """How many names two threads that list a directory at the same time ever saw; stops at the first wrong answer."""
    seen: set[int] = set()

    def look() -> None:
        for _ in range(1500):
            seen.add(len(names()))
            if seen != {wanted}:
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def test_s4_the_journal_sees_every_log_while_others_are_looked_for(tmp_path: Path) -> None:
    """Its thread lists the directory while the loop does, to delete logs: one that is overlooked is lost rows."""
    for number in range(60):
        (tmp_path / f"scheduler.{number}.wal").touch()
    with closing(open_directory(tmp_path / "scheduler.json")) as directory:
        assert listed_by_two(directory.names, 60) == {60}


def test_s4_bites_a_shared_place_in_the_listing_is_caught(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"scheduler.{number}.wal").touch()
    with closing(open_directory(tmp_path / "scheduler.json")) as directory:
        found = (listed_by_two(lambda: os.listdir(directory.fd), 60) for _ in range(20))  # noqa: PTH208 - the descriptor is the fault
        assert any(seen != {60} for seen in found)
