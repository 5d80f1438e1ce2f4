"""Faults of disk and state files; test names carry the rows of the failure catalogue (S*)."""

import asyncio
import errno
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.contract.world import NOW, FixedClock, busy_state, decision
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import HOUR
from vmsh_scheduler.errors import Denied, StateUnreadable, StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.journal import JournalReader
from vmsh_scheduler.stores.local.load import Condition, Opened, load, peek
from vmsh_scheduler.stores.local.records import Position, parse_log, read_tail
from vmsh_scheduler.stores.local.snapshot import Corrupt, parse
from vmsh_scheduler.stores.local.store import LocalStore, open_store

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "state"
STATES = {"dao:x/fast": busy_state(), "dao:x/cold": JobState(level=1), "_agents/a": JobState(started=3)}


def opened(tmp_path: Path, disk: Disk | None = None) -> LocalStore:
    return open_store(tmp_path / "scheduler.json", FixedClock(), disk=disk)


def looked_at(tmp_path: Path) -> Opened:
    directory = open_directory(tmp_path / "scheduler.json")
    try:
        return load(directory)
    finally:
        directory.close()


def named(directory: Path, pattern: str) -> list[Path]:
    return sorted(directory.glob(pattern))


def rows(tmp_path: Path) -> JournalReader:
    return JournalReader(open_directory(tmp_path / "scheduler.json"))


def used(tmp_path: Path) -> Path:
    asyncio.run(lived_in(tmp_path))
    return tmp_path / "scheduler.json"


async def lived_in(tmp_path: Path) -> None:
    """A state directory with two snapshot generations and logs; logs make up what the older generation lacks."""
    for level in range(3):
        store = opened(tmp_path)
        await store.states.apply([Change(job_id, state) for job_id, state in STATES.items()])
        await store.states.apply([Change("dao:x/cold", JobState(level=level), (decision("dao:x/cold", level),))])
        await store.close()


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
        [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as writer:
        assert writer.stdout is not None
        _, condition, start = writer.stdout.readline().split()
        for _ in range(acks):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        rest = writer.stdout.read().splitlines()
    whole = [line for line in rest if line.startswith("acked ") and line.split()[1].isdigit()]
    return condition, int(start), int(whole[-1].split()[1]) if whole else int(start) + acks


def test_s1_fifty_kills_lose_nothing_acknowledged(tmp_path: Path) -> None:
    path, dice, acked = tmp_path / "s" / "scheduler.json", random.Random(3), 0  # no secret hangs on it
    for number in range(50):
        condition, start, last = killed_writer(path, dice.randrange(12))
        assert condition == ("fresh" if number == 0 else "loaded")
        assert start >= acked
        acked = last
    state = looked_at(path.parent)
    assert state.states["a/n"].started >= acked
    assert state.states["_b"] == state.states["a/n"]


def test_s1_any_cut_of_a_log_is_a_state_that_was(tmp_path: Path) -> None:
    async def live() -> None:
        store = opened(tmp_path)
        for n in range(1, 13):
            await store.states.apply([Change("a/n", JobState(started=n))])
        os.link(tmp_path / "scheduler.1.wal", tmp_path / "kept")
        os.link(tmp_path / "scheduler.json", tmp_path / "kept.json")
        await store.close()

    asyncio.run(live())
    raw = (tmp_path / "kept").read_bytes()
    seen = []
    for cut in range(len(raw) + 1):
        log = parse_log(raw[:cut], 1)
        seen.append(len(log.lines))
        assert not log.damaged
        assert log.torn == (cut > 0 and raw[cut - 1 : cut] != b"\n")
        assert [line["state"]["started"] for _, line in log.lines] == list(range(1, len(log.lines) + 1))
    assert seen == sorted(seen)
    assert seen[-1] == 12
    small = tmp_path / "small"
    small.mkdir(mode=0o700)
    for cut in (len(raw) - 1, len(raw) // 2, 3, 0):
        (small / "scheduler.json").write_bytes((tmp_path / "kept.json").read_bytes())
        (small / "scheduler.1.wal").write_bytes(raw[:cut])
        found = looked_at(small)
        assert found.condition is Condition.LOADED
        assert found.states.get("a/n", JobState()).started == seen[cut]


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)


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


class FaultyDisk:
    """Fails the calls whose names are in `broken`, with `error`; counts every call."""

    def __init__(self, error: int = errno.EIO) -> None:
        self.broken: set[str] = set()
        self.error = error
        self.once = False
        self.synced: list[int] = []
        self.disk = Disk(
            write=lambda fd, data: self._do("write", lambda: os.write(fd, data)),
            truncate=lambda fd, size: self._do("truncate", lambda: os.ftruncate(fd, size)),
            sync_data=lambda fd: self._do("sync_data", lambda: self._sync(fd)),
            sync=lambda fd: self._do("sync", lambda: os.fsync(fd)),
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


async def test_s5_a_full_disk_never_touches_the_snapshot(tmp_path: Path) -> None:
    faulty = FaultyDisk(errno.ENOSPC)
    store = opened(tmp_path, faulty.disk)
    await store.states.apply([Change("a/b", JobState(level=1))])
    await store.states.save()
    before = (tmp_path / "scheduler.json").read_bytes()
    store.states.note_config("other")
    faulty.broken = {"write"}
    for _ in range(20):
        with pytest.raises(StateWriteFailed, match="cannot be replaced: No space left on device"):
            await store.states.save()
    assert (tmp_path / "scheduler.json").read_bytes() == before
    assert named(tmp_path, ".*") == []
    faulty.broken = set()
    await store.close()
    assert looked_at(tmp_path).config_hash == "other"


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


async def test_s6_one_byte_at_a_time_is_still_a_whole_write(tmp_path: Path) -> None:
    store = opened(tmp_path, Disk(write=lambda fd, data: os.write(fd, data[:1])))
    await store.states.apply([Change(job_id, state) for job_id, state in STATES.items()])
    await store.close()
    assert looked_at(tmp_path).states == STATES


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


def test_s10_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    faulty = FaultyDisk(errno.EROFS)
    faulty.broken = {"write"}
    with pytest.raises(StateWriteFailed, match=f"{tmp_path} cannot be written: Read-only file system"):
        opened(tmp_path, faulty.disk)
    faulty.broken = set()
    asyncio.run(opened(tmp_path, faulty.disk).close())


def variants(raw: bytes) -> Iterator[bytes]:
    dice = random.Random(11)  # no secret hangs on it
    for offset in dice.sample(range(len(raw)), min(200, len(raw))):
        yield raw[:offset] + bytes([raw[offset] ^ (1 << dice.randrange(8))]) + raw[offset + 1 :]
    for size in range(0, len(raw), 64):
        yield raw[:size]
        yield raw[:size] + b"\0" * (len(raw) - size)
    yield b"\0" * len(raw)


def test_s11_every_damage_to_the_snapshot_is_noticed(tmp_path: Path) -> None:
    path = used(tmp_path)
    raw, count = path.read_bytes(), 0
    assert looked_at(tmp_path).condition is Condition.LOADED
    for bad in variants(raw):
        path.write_bytes(bad)
        count += 1
        try:
            found = looked_at(tmp_path)
        except StateUnreadable:
            assert b'"schema": 1,' not in bad
            continue
        assert found.condition is Condition.RECOVERED
        assert found.states == STATES | {"dao:x/cold": JobState(level=2)}
        assert found.set_aside == ("scheduler.json",)
    assert count > 200


def test_s11_a_reader_without_a_checksum_would_not_notice(tmp_path: Path) -> None:
    """The harness bites: plain JSON parsing takes some of the same variants for good."""
    raw = used(tmp_path).read_bytes()
    fooled = 0
    for bad in variants(raw):
        try:
            fooled += isinstance(json.loads(bad), dict)
        except ValueError:
            continue
        with pytest.raises((Corrupt, StateUnreadable)):
            parse(bad)
    assert fooled > 20


async def test_s11_the_damaged_file_is_kept_beside_and_never_overwritten(tmp_path: Path) -> None:
    await lived_in(tmp_path)
    path = tmp_path / "scheduler.json"
    for n in range(3):
        path.write_bytes(b"damage %d" % n)
        store = opened(tmp_path)
        assert store.opened.condition is Condition.RECOVERED
        assert any("scheduler.json is damaged" in finding for finding in store.troubles())
        await store.close()
    kept = sorted(file.read_bytes() for file in named(tmp_path, "scheduler.json.corrupt-*"))
    assert kept == [b"damage 0", b"damage 1", b"damage 2"]
    assert looked_at(tmp_path).condition is Condition.LOADED


async def test_s11_a_damaged_line_in_a_log_costs_only_its_own_job(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for job_id in ("a/a", "b/b", "c/c"):
        await store.states.apply([Change(job_id, JobState(level=1))])
    log = tmp_path / "scheduler.1.wal"
    raw = log.read_bytes()
    fresh = (tmp_path / "scheduler.json").read_bytes()
    await store.close()
    (tmp_path / "scheduler.json").write_bytes(fresh)
    log.write_bytes(raw.replace(b'"b/b"', b'"x/x"'))
    again = opened(tmp_path)
    assert again.opened.condition is Condition.RECOVERED
    assert set(again.states.all()) == {"a/a", "c/c"}
    assert any("scheduler.1.wal is damaged at byte" in finding for finding in again.opened.findings)
    assert named(tmp_path, "scheduler.1.wal.corrupt-*")
    await again.close()


async def test_s11_missing_and_foreign_logs_are_noticed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.states.apply([Change("a/b", JobState(level=1))])
    snapshot = (tmp_path / "scheduler.json").read_bytes()
    await store.close()
    second = opened(tmp_path)
    await second.states.apply([Change("a/b", JobState(level=2))])
    await second.close()
    (tmp_path / "scheduler.json").write_bytes(snapshot)
    first_log = (tmp_path / "scheduler.1.wal").read_bytes()
    (tmp_path / "scheduler.1.wal").unlink()
    missing = looked_at(tmp_path)
    assert missing.condition is Condition.RECOVERED
    assert missing.findings == ("scheduler.1.wal is missing",)
    assert missing.states == {"a/b": JobState(level=2)}
    (tmp_path / "scheduler.1.wal").write_bytes(first_log[: first_log.index(b"\n") + 1])
    assert any("damaged" in finding for finding in looked_at(tmp_path).findings)
    (tmp_path / "scheduler.1.wal").write_bytes(first_log)
    (tmp_path / "scheduler.2.wal").write_bytes((tmp_path / "scheduler.2.wal").read_bytes() + first_log)
    assert looked_at(tmp_path).states == {"a/b": JobState(level=2)}


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 500])
async def test_s12_both_generations_bad_is_lost_and_says_so(tmp_path: Path, damage: bytes) -> None:
    await lived_in(tmp_path)
    path = tmp_path / "scheduler.json"
    path.write_bytes(damage)
    (tmp_path / "scheduler.json.prev").write_bytes(damage)
    store = opened(tmp_path)
    assert store.opened.condition is Condition.LOST
    assert any("waits one period" in finding for finding in store.troubles())
    assert all(state.upcoming is None and state.revision == "" for state in store.states.all().values())
    await store.close()
    assert looked_at(tmp_path).condition is Condition.LOST, "a loss that nobody acted on is still a loss"
    again = opened(tmp_path)
    await again.states.apply([Change("dao:x/fast", busy_state())])
    await again.close()
    assert looked_at(tmp_path).condition is Condition.LOADED


@pytest.mark.parametrize("left", ["scheduler.db", "runs", "scheduler.3.wal", "scheduler.json.corrupt-20260101T000000Z"])
def test_s12_what_only_a_used_directory_holds_means_lost(tmp_path: Path, left: str) -> None:
    assert looked_at(tmp_path).condition is Condition.FRESH
    (tmp_path / "keys").mkdir()
    (tmp_path / ".gitkeep").touch()
    assert looked_at(tmp_path).condition is Condition.FRESH
    if left == "runs":
        (tmp_path / left).mkdir(mode=0o700)
    else:
        (tmp_path / left).touch(mode=0o600)
    assert looked_at(tmp_path).condition is Condition.LOST


def test_s12_the_previous_generation_alone_is_enough(tmp_path: Path) -> None:
    used(tmp_path).unlink()
    found = looked_at(tmp_path)
    assert found.condition is Condition.RECOVERED
    assert found.states == STATES | {"dao:x/cold": JobState(level=2)}


@pytest.mark.parametrize("newer", [b'{"_meta": {"schema": 99}}', None])
def test_s13_a_newer_schema_is_refused_and_nothing_is_touched(tmp_path: Path, newer: bytes | None) -> None:
    path = used(tmp_path)
    path.write_bytes(newer or path.read_bytes().replace(b'"schema": 1', b'"schema": 2'))
    before = contents(tmp_path)
    with pytest.raises(StateUnreadable, match="written by a newer version"):
        opened(tmp_path)
    assert contents(tmp_path) == before


def contents(directory: Path) -> dict[str, str]:
    files = (file for file in directory.iterdir() if file.is_file() and file.name != "scheduler.lock")
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.mark.needs("root")
def test_s14_root_keeps_owner_and_mode(tmp_path: Path) -> None:
    state = tmp_path / "state"
    path = used(state)
    for name in [state, *state.iterdir()]:
        os.chown(name, 4321, 4321)
    path.chmod(0o640)
    for _ in range(5):
        store = opened(state)
        asyncio.run(saved(store))
    for file in [state, *state.iterdir()]:
        assert (file.stat().st_uid, file.stat().st_gid) == (4321, 4321), file
    assert path.stat().st_mode & 0o777 == 0o640


async def saved(store: LocalStore) -> None:
    await store.states.apply([Change("a/b", JobState(level=1), (decision("a/b", 1),))])
    await store.close()


def test_s14_files_that_others_can_write_are_refused(tmp_path: Path) -> None:
    path = used(tmp_path)
    path.chmod(0o666)
    with pytest.raises(Denied, match=f"run: chmod go-w {path}"):
        opened(tmp_path)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(Denied, match=f"run: chmod go-w {tmp_path}"):
        opened(tmp_path)


@pytest.mark.parametrize("name", ["scheduler.json", "scheduler.json.prev", "scheduler.1.wal", "scheduler.lock", "runs"])
def test_s15_symlinks_are_never_followed(tmp_path: Path, name: str) -> None:
    victim, state = tmp_path / "victim", tmp_path / "state"
    victim.write_text("mine")
    state.mkdir(mode=0o700)
    if name == "scheduler.1.wal":
        asyncio.run(opened(state).close())
    (state / name).symlink_to(victim)
    with pytest.raises(Denied):
        opened(state)
    assert victim.read_text() == "mine"


async def test_s15_a_symlink_for_a_database_only_costs_the_journal(tmp_path: Path) -> None:
    victim, state = tmp_path / "victim", tmp_path / "state"
    victim.write_text("mine")
    store = opened(state)
    (state / "scheduler.db").symlink_to(victim)
    await store.states.apply([Change("a/b", JobState(level=1), (decision("a/b", 1),))])
    assert not store.journal.flush()
    assert "symlink" in store.journal.trouble
    (state / "scheduler.db").unlink()
    await store.close()
    assert rows(state).decisions() == [decision("a/b", 1)]
    assert victim.read_text() == "mine"


async def test_s17_old_leftovers_go_and_young_ones_stay(tmp_path: Path) -> None:
    for n in range(500):
        leftover = tmp_path / f".scheduler.json.{n:016x}"
        leftover.touch(mode=0o600)
        age = 2 * HOUR if n else 0
        os.utime(leftover, ns=((NOW - age) * 1_000_000, (NOW - age) * 1_000_000))
    await opened(tmp_path).close()
    assert [file.name for file in named(tmp_path, ".scheduler.json.*")] == [f".scheduler.json.{0:016x}"]


async def test_the_originals_file_loads_and_counts_as_fresh(tmp_path: Path) -> None:
    old = (DATA / "v0.json").read_bytes()
    (tmp_path / "scheduler.json").write_bytes(old)
    (tmp_path / "scheduler.json").chmod(0o600)
    store = opened(tmp_path)
    assert store.opened.condition is Condition.FRESH
    at = 1_700_000_000_000
    assert store.states.get("dao:vaultmesh/fast") == JobState(last_success=at, newest_slot=at, level=2)
    assert set(store.states.all()) == {f"dao:vaultmesh/{level}" for level in ("fast", "strong", "cold")}
    assert (tmp_path / "scheduler.json.prev").read_bytes() == old
    await store.close()
    mirrored = json.loads((tmp_path / "scheduler.json").read_bytes())
    assert {name: mirrored["dao:vaultmesh"][name] for name in ("last", "backoff")} == json.loads(old)["dao:vaultmesh"]
    again = looked_at(tmp_path)
    assert again.condition is Condition.LOADED
    assert again.states == store.states.all()


@pytest.mark.parametrize(
    "odd",
    [b"[]", b'{"a": 1}', b'{"a": {"last": {"x": "y"}}}', b'{"_jobs": {}}', b'{"a": {"last": {}, "cadences": {}}}'],
)
def test_what_only_looks_like_the_originals_file_is_damage(odd: bytes) -> None:
    with pytest.raises(Corrupt):
        parse(odd)


async def test_the_original_wrote_after_us(tmp_path: Path) -> None:
    """Its file has no checksum and no logs; what ours still say about open runs is added, its newer success counts."""
    store = opened(tmp_path)
    await store.states.apply(
        [Change("dao:vaultmesh/fast", JobState(last_success=1, started=5)), Change("x/y", JobState())]
    )
    await store.states.save()
    (tmp_path / "scheduler.json").write_bytes((DATA / "v0.json").read_bytes())
    found = looked_at(tmp_path)
    assert found.states["dao:vaultmesh/fast"].last_success == 1_700_000_000_000
    assert found.states["dao:vaultmesh/fast"].started == 5
    assert found.states["x/y"] == JobState()
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
