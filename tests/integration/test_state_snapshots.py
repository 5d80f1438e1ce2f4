"""Snapshots in the background: soon, never in the loop's way, and their failure costs nothing but themselves."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.world import FixedClock
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import states as states_module
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.snapshot import parse
from vmsh_scheduler.stores.local.store import open_store


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states_module, "SNAPSHOT_EVERY_S", 0.05)


async def eventually(check: Callable[[], bool]) -> None:
    for _ in range(2000):
        if check():
            return
        await asyncio.sleep(0.01)
    pytest.fail("it did not happen within 20 s")


async def test_a_change_is_in_the_snapshot_soon_and_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "scheduler.json"
    store = open_store(path, FixedClock())
    for level in (1, 2):
        await store.states.apply([Change("a/b", JobState(level=level))], durable=False)
        await eventually(lambda level=level: parse(path.read_bytes()).states == {"a/b": JobState(level=level)})  # type: ignore[misc]  # mypy cannot infer a lambda's default
    assert parse((tmp_path / "scheduler.json.prev").read_bytes()).states == {"a/b": JobState(level=1)}
    await store.close()


async def test_an_idle_store_writes_nothing(tmp_path: Path) -> None:
    await open_store(tmp_path / "scheduler.json", FixedClock()).close()
    before = sorted((file.name, file.stat().st_mtime_ns) for file in listed(tmp_path))
    await open_store(tmp_path / "scheduler.json", FixedClock()).close()
    after = sorted((file.name, file.stat().st_mtime_ns) for file in listed(tmp_path))
    assert [entry for entry in after if not entry[0].startswith(("scheduler.lock", "scheduler.db"))] == [
        entry for entry in before if not entry[0].startswith(("scheduler.lock", "scheduler.db"))
    ]


def listed(directory: Path) -> list[Path]:
    return [file for file in directory.iterdir() if file.is_file()]


async def test_a_snapshot_that_fails_is_reported_and_tried_again(tmp_path: Path) -> None:
    broken = [True]

    def sync(fd: int) -> None:
        if broken[0] and threading.current_thread() is not threading.main_thread():
            raise OSError(errno.EIO, "Input/output error")
        os.fsync(fd)

    store = open_store(tmp_path / "scheduler.json", FixedClock(), disk=Disk(sync=sync))
    broken[0] = False
    await store.states.apply([Change("a/b", JobState(level=1))])
    broken[0] = True
    await eventually(lambda: "cannot be replaced: Input/output error" in store.states.snapshot_error)
    assert store.states.snapshot_error in store.troubles()
    broken[0] = False
    await eventually(lambda: store.states.snapshot_error == "")
    assert store.troubles() == ()
    await store.close()


async def test_s9_a_slow_disk_slows_the_change_not_the_loop(tmp_path: Path) -> None:
    gate = threading.Event()

    def slow(fd: int) -> None:
        gate.wait(20)
        os.fdatasync(fd)

    store = open_store(tmp_path / "scheduler.json", FixedClock(), disk=Disk(sync_data=slow))
    change = asyncio.ensure_future(store.states.apply([Change("a/b", JobState(level=1))]))
    began = time.monotonic()
    for _ in range(50):
        await asyncio.sleep(0)
    assert time.monotonic() - began < 1
    assert not change.done()
    gate.set()
    await change
    await store.close()


async def test_changes_of_one_turn_share_one_sync(tmp_path: Path) -> None:
    syncs: list[int] = []

    def counted(fd: int) -> None:
        syncs.append(fd)
        os.fdatasync(fd)

    store = open_store(tmp_path / "scheduler.json", FixedClock(), disk=Disk(sync_data=counted))
    await store.states.apply([Change("a/b", JobState())])
    syncs.clear()
    await asyncio.gather(*(store.states.apply([Change(f"a/{n}", JobState(level=n))]) for n in range(500)))
    assert len(syncs) <= 3
    await store.close()


async def test_a_fence_that_cannot_be_written_is_nobodys(tmp_path: Path) -> None:
    full = [False]

    def write(fd: int, data: memoryview) -> int:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return os.write(fd, data)

    store = open_store(tmp_path / "scheduler.json", FixedClock(), disk=Disk(write=write))
    full[0] = True
    with pytest.raises(StateWriteFailed):
        await store.leases.acquire("engine")
    full[0] = False
    lease = await store.leases.acquire("engine")
    assert lease is not None
    await store.close()


async def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await store.states.apply([Change("a/b", JobState())])
    await store.states.close()
    await store.states.close()
    await store.close()
