"""Snapshots in the background: soon, never in the loop's way, and their failure costs nothing but themselves."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.world import FixedClock, decision
from tests.support.statefiles import FaultyDisk, looked_at, named, opened, rows
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import states as states_module
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.load import Condition, peek
from vmsh_scheduler.stores.local.records import Position, read_tail
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


async def test_a_reader_beside_a_daemon_sees_every_acknowledged_change(tmp_path: Path) -> None:
    store = opened(tmp_path)
    beside = open_directory(tmp_path / "scheduler.json", create=False)
    for n in range(20):
        await store.states.apply([Change("a/b", JobState(started=n))])
        if n % 5 == 0:
            await store.states.save()
        found = peek(beside)
        assert found.states == {"a/b": JobState(started=n)}
        assert found.condition is Condition.LOADED
    beside.close()
    await store.close()


async def test_logs_rotate_and_are_deleted_once_nobody_needs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmsh_scheduler.stores.local.log.LogFile.__init__.__kwdefaults__", {"rotate_at": 2000})
    store = opened(tmp_path)
    for n in range(100):
        await store.states.apply([Change("a/b", JobState(started=n), (decision("a/b", n),))])
    gens = store.directory.generations()
    assert len(gens) > 5
    assert store.states.synced.gen == gens[-1]
    tail = read_tail(store.directory, Position(gens[0], 0))
    assert [record["state"].get("started", 0) for record in tail.records] == list(range(100))
    await store.states.save()
    store.states.note_config("x")
    await store.close()
    left = sorted(int(file.name.split(".")[1]) for file in named(tmp_path, "scheduler.*.wal"))
    assert left == gens[-1:]
    assert len(rows(tmp_path).decisions(limit=200)) == 100
    assert rows(tmp_path).verify() == []


async def test_the_previous_snapshot_keeps_its_logs_until_a_newer_one_takes_its_place(tmp_path: Path) -> None:
    """A life whose snapshot fails must not take away what the older generation lacks."""
    store = opened(tmp_path)
    await store.states.apply([Change("a/b", JobState(level=1))])
    await store.states.save()
    await store.states.apply([Change("a/b", JobState(level=2))])
    await store.close()
    halfway = (tmp_path / "scheduler.json.prev").read_bytes()
    second = opened(tmp_path)
    await second.states.apply([Change("a/b", JobState(level=3))])
    await second.close()
    (tmp_path / "scheduler.json.prev").write_bytes(halfway)
    faulty = FaultyDisk(errno.ENOSPC)
    third = opened(tmp_path, faulty.disk)
    third.states.note_config("other")
    faulty.broken = {"write"}
    with pytest.raises(StateWriteFailed):
        await third.close()
    (tmp_path / "scheduler.json").write_bytes(b"damaged")
    found = looked_at(tmp_path)
    assert found.states == {"a/b": JobState(level=3)}
    assert not any("missing" in finding for finding in found.findings)
