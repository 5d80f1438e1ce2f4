"""Who may own and write the state directory, what lies in it that should not, and what is said of it."""

import asyncio
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.contract.world import NOW, FixedClock, decision
from tests.support.statefiles import named, opened, rows, saved, used
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import HOUR, Millis
from vmsh_scheduler.errors import CannotCreate, Denied, StateUnreadable, StateWriteFailed
from vmsh_scheduler.executors.records import Phase, Record, Records
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import directory as directory_module
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.store import LocalStore, open_store


def test_it_is_made_for_nobody_else(tmp_path: Path) -> None:
    open_directory(tmp_path / "a" / "b" / "scheduler.json").close()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


async def test_all_names_come_from_the_snapshots_stem(tmp_path: Path) -> None:
    await open_store(tmp_path / "mine.json", FixedClock()).close()
    names = sorted(path.name for path in listed(tmp_path))
    assert names == ["keys", "mine.db", "mine.json", "mine.lock", "runs"]
    assert {path.stat().st_mode & 0o777 for path in listed(tmp_path)} == {0o600, 0o700}


def listed(path: Path) -> list[Path]:
    return list(path.iterdir())


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="state directory"):
        open_directory(tmp_path / "file" / "scheduler.json")
    with pytest.raises(CannotCreate, match="No such file"):
        open_directory(tmp_path / "none" / "scheduler.json", create=False)
    (tmp_path / "runs").touch()
    with pytest.raises(Denied, match="runs is not a directory"):
        open_store(tmp_path / "scheduler.json", FixedClock())


@pytest.mark.parametrize("name", ["scheduler.json", "scheduler.json.prev", "scheduler.lock"])
@pytest.mark.parametrize(("make", "line"), [(Path.mkdir, "rm -r"), (os.mkfifo, "rm")])
def test_what_is_no_file_is_refused_with_the_line_that_removes_it(
    tmp_path: Path, name: str, make: Callable[[Path], None], line: str
) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(Denied, match=f"look at it, then: {line} {path}$"):
        opened(tmp_path)


def test_runs_that_others_can_write_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    with pytest.raises(Denied, match=f"chmod go-w {tmp_path / 'runs'}"):
        open_store(tmp_path / "scheduler.json", FixedClock())


def test_an_enormous_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "READ_CAP", 1000)
    (tmp_path / "scheduler.json").touch(mode=0o600)
    os.truncate(tmp_path / "scheduler.json", 1001)
    with pytest.raises(StateUnreadable, match="is 1001 bytes, more than 1000"):
        open_store(tmp_path / "scheduler.json", FixedClock())


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["", "scheduler.json", "runs"])
def test_s14_what_belongs_to_somebody_else_is_refused_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "runs").mkdir(mode=0o700)
    (tmp_path / "scheduler.json").write_text("{}")
    os.chown(tmp_path / name, 4321, 4321)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(Denied, match=rf"belongs to uid 4321 \(mode .*run: chown 1234:\d+ {tmp_path / name}") as refused:
        open_store(tmp_path / "scheduler.json", FixedClock())
    assert refused.value.exit == 77


@pytest.mark.needs("another user than root")
def test_s14_what_cannot_be_read_is_denied(tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text("{}")
    (tmp_path / "scheduler.json").chmod(0)
    with pytest.raises(Denied, match="run: chown"):
        open_store(tmp_path / "scheduler.json", FixedClock())
    tmp_path.chmod(0)
    with pytest.raises(Denied):
        open_store(tmp_path / "scheduler.json", FixedClock())
    tmp_path.chmod(0o700)


def test_a_group_writable_directory_of_our_own_is_tightened(tmp_path: Path) -> None:
    """git clone under umask 002 makes `state/` so."""
    tmp_path.chmod(0o775)
    with closing(open_directory(tmp_path / "scheduler.json")):
        assert tmp_path.stat().st_mode & 0o777 == 0o700


@pytest.mark.needs("root")
def test_s14_root_keeps_owner_and_mode_over_ten_saves(tmp_path: Path) -> None:
    state = tmp_path / "state"
    path = used(state)
    for name in [state, *state.iterdir()]:
        os.chown(name, 4321, 4321)
    path.chmod(0o640)
    for _ in range(10):
        asyncio.run(saved(opened(state)))
    assert {(file.stat().st_uid, file.stat().st_gid) for file in [state, *state.iterdir()]} == {(4321, 4321)}
    assert path.stat().st_mode & 0o777 == 0o640


def test_s14_ten_saves_keep_the_mode_that_was_chosen(tmp_path: Path) -> None:
    path = used(tmp_path)
    path.chmod(0o640)
    for _ in range(10):
        asyncio.run(saved(opened(tmp_path)))
    assert path.stat().st_mode & 0o777 == 0o640


def test_s14_bites_a_plain_rename_takes_the_state_over(tmp_path: Path) -> None:
    path = used(tmp_path)
    path.chmod(0o640)
    fresh = path.with_name("fresh")
    fresh.touch(mode=0o600)
    fresh.write_bytes(path.read_bytes())
    fresh.replace(path)
    assert path.stat().st_mode & 0o777 != 0o640


def test_s14_files_that_others_can_write_are_refused(tmp_path: Path) -> None:
    path = used(tmp_path)
    path.chmod(0o666)
    with pytest.raises(Denied, match=f"run: chmod go-w {path}"):
        opened(tmp_path)
    path.chmod(0o600)
    tmp_path.chmod(0o777)
    with pytest.raises(Denied, match=f"run: chmod go-w {tmp_path}"):
        opened(tmp_path)


@pytest.fixture(params=["a file", "nothing"])
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """What a planted symlink points to; afterwards it must be as it was."""
    path = tmp_path / "victim"
    if request.param == "a file":
        path.write_text("mine")
        path.chmod(0o604)
    yield path
    if request.param == "nothing":
        assert not path.exists(), "made through a symlink"
    else:
        assert (path.read_text(), path.stat().st_mode & 0o777) == ("mine", 0o604)


@pytest.mark.parametrize("name", ["scheduler.json", "scheduler.json.prev", "scheduler.1.wal", "scheduler.lock", "runs"])
def test_s15_symlinks_are_never_followed(tmp_path: Path, victim: Path, name: str) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    if name == "scheduler.1.wal":
        asyncio.run(opened(state).close())
    (state / name).symlink_to(victim)
    with pytest.raises(Denied):
        opened(state)
    assert (state / name).readlink() == victim


@pytest.mark.parametrize("name", ["scheduler.db", "scheduler.db-wal", "scheduler.db-shm", "scheduler.db-journal"])
async def test_s15_a_symlink_for_a_database_only_costs_the_journal(tmp_path: Path, victim: Path, name: str) -> None:
    """What SQLite opens itself it does not follow either; rows are taken from the log once the way is free."""
    state = tmp_path / "state"
    store = opened(state)
    (state / name).symlink_to(victim)
    await store.states.apply([Change("a/b", JobState(level=1), (decision("a/b", 1),))])
    taken = store.journal.flush()
    if name == "scheduler.db":
        assert not taken
        assert "symlink" in store.journal.trouble
    (state / name).unlink(missing_ok=True)
    await store.close()
    assert rows(state).decisions() == [decision("a/b", 1)]


async def work(store: LocalStore) -> None:
    await store.leases.acquire("scheduler")
    await store.states.save()


@pytest.mark.parametrize("name", ["temporary file", "new log"])
async def test_s15_a_planted_name_for_a_new_file_is_refused(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Temporary names cannot be guessed; even who knows one gains nothing by it (O_EXCL)."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    state = tmp_path / "state"
    store = opened(state)
    planted = state / (f".scheduler.json.{'0' * 16}" if name == "temporary file" else "scheduler.1.wal")
    planted.symlink_to(victim)
    with pytest.raises(StateWriteFailed, match="File exists"):
        await work(store)
    with suppress(StateWriteFailed):
        await store.close()


def test_s15_bites_a_plain_open_writes_the_victim(tmp_path: Path) -> None:
    victim, state = tmp_path / "victim", tmp_path / "scheduler.json"
    victim.write_text("mine")
    state.symlink_to(victim)
    state.write_text("{}")
    assert victim.read_text() == "{}"


LEFT = 500


def leave(path: Path, age: Millis) -> Path:
    path.touch(mode=0o600)
    os.utime(path, ns=((NOW - age) * 1_000_000, (NOW - age) * 1_000_000))
    return path


async def test_s17_five_hundred_leftovers_go_and_a_young_one_stays(tmp_path: Path) -> None:
    """A young one may be of a writer that is just writing it."""
    for n in range(LEFT):
        leave(tmp_path / f".scheduler.json{'.prev' * (n % 2)}.{n:016x}", HOUR + 1000)
    leave(tmp_path / "somebody elses", 2 * HOUR)
    young = leave(tmp_path / ".scheduler.json.young", HOUR - 1000)
    await opened(tmp_path).close()
    assert named(tmp_path, ".*") == [young]
    assert (tmp_path / "somebody elses").exists()


def records(tmp_path: Path, count: int) -> list[Path]:
    """Of runs that nobody knows any more."""
    names = (f"{n:x}-1{suffix}" for n in range(count // 4) for suffix in ("", ".in", ".out", ".err"))
    return [leave(tmp_path / name, 2 * HOUR) for name in names]


def test_s17_dead_run_records_go_and_live_ones_stay(tmp_path: Path) -> None:
    """Live: somebody holds its lock, or it is of a run that is open in the states."""
    records(tmp_path, LEFT)
    opened_run, running = leave(tmp_path / "open-1", 2 * HOUR), leave(tmp_path / "running-1", 2 * HOUR)
    with running.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert Records(tmp_path).sweep({"open-1"}, NOW) == LEFT
    assert named(tmp_path, "*") == [opened_run, running]


def test_s17_bites_a_sweep_by_age_takes_a_live_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running = leave(tmp_path / "running-1", 2 * HOUR)
    monkeypatch.setattr(Records, "look", lambda records, run_id: Record(Phase.EMPTY))
    with running.open("r+b") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert Records(tmp_path).sweep((), NOW) == 1
    assert not running.exists()
