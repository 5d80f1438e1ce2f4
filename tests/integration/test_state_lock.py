"""One daemon per state directory; test names carry the rows of the failure catalogue (L*)."""

import errno
import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

from tests.contract.world import NOW, FixedClock
from tests.support.contend import HELD, KINDS, race, seconds_after_a_kill
from vmsh_scheduler.errors import Busy, CannotCreate, Denied
from vmsh_scheduler.stores.local.directory import StateDirectory, open_directory
from vmsh_scheduler.stores.local.lock import StateLock, holder
from vmsh_scheduler.stores.local.store import open_store


def lock_of(path: Path) -> StateLock:
    return StateLock(open_directory(path), FixedClock(), "vmsh-scheduler run")


def test_l1_of_many_parallel_starts_one_wins(tmp_path: Path) -> None:
    for number in range(5):
        answers = race("real", 20, tmp_path / str(number) / "scheduler.json")
        assert answers.count(HELD) == 1
        assert sum("is in use by pid " in answer for answer in answers) == 19


def test_l1_a_pid_file_lets_several_in(tmp_path: Path) -> None:
    """The race is one: without a lock it is lost."""
    assert race("pid file", 20, tmp_path / "scheduler.json").count(HELD) > 1


def test_l1_the_second_learns_within_a_second_who_holds_it(tmp_path: Path) -> None:
    first = lock_of(tmp_path / "scheduler.json")
    first.acquire()
    began = time.monotonic()
    with pytest.raises(Busy) as refused:
        open_store(tmp_path / "scheduler.json", FixedClock())
    assert time.monotonic() - began < 1
    text = str(refused.value)
    assert f"pid {os.getpid()}, host " in text
    assert "since 2027-01-15T08:00:00Z, command vmsh-scheduler run" in text
    assert refused.value.exit == 75
    first.release()
    open_directory(tmp_path / "scheduler.json").close()


def test_l1_a_holder_that_left_no_name_is_still_a_holder(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    (tmp_path / "scheduler.lock").write_text("pid x\033[2J")
    with pytest.raises(Busy, match="left no name"):
        lock_of(tmp_path / "scheduler.json").acquire()
    os.close(fd)


def test_l1_the_lock_file_alone_keeps_others_out(tmp_path: Path) -> None:
    """Whoever locks it by hand, to keep the daemon from starting, is heard."""
    with (tmp_path / "scheduler.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("pid 12\nhost h\n")
        file.flush()
        with pytest.raises(Busy, match="pid 12, host h"):
            lock_of(tmp_path / "scheduler.json").acquire()
    lock = lock_of(tmp_path / "scheduler.json")
    lock.acquire()
    lock.release()


def test_l1_a_lease_is_refused_while_somebody_else_has_locked_the_file(tmp_path: Path) -> None:
    """Deleted and locked anew by hand: the directory's own lock keeps no hold of a lease that was not given."""
    lock = lock_of(tmp_path / "scheduler.json")
    lock.acquire()
    (tmp_path / "scheduler.lock").unlink()
    with (tmp_path / "scheduler.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(Busy):
            lock.mend()
    assert lock.mend()
    lock.release()
    assert not lock.held


def test_l3_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    assert seconds_after_a_kill(tmp_path) < 0.5


def test_l4_a_deleted_lock_file_lets_nobody_in_and_is_noticed(tmp_path: Path) -> None:
    first = lock_of(tmp_path / "scheduler.json")
    first.acquire()
    assert first.check() == ""
    (tmp_path / "scheduler.lock").unlink()
    assert "was deleted or replaced" in first.check()
    with pytest.raises(Busy):
        lock_of(tmp_path / "scheduler.json").acquire()
    assert first.mend()
    assert first.check() == ""
    first.release()
    assert first.check() == "the state directory is not locked"


def test_l4_with_the_lock_file_alone_a_second_one_gets_in(tmp_path: Path) -> None:
    """Why the directory is locked too."""
    path = tmp_path / "scheduler.json"
    first = KINDS["file only"](path)
    path.with_suffix(".lock").unlink()
    assert (first, KINDS["file only"](path)) == (HELD, HELD)


@pytest.mark.parametrize("plant", [Path.mkdir, lambda path: path.symlink_to("elsewhere")])
def test_l4_a_lock_file_that_cannot_be_made_again_does_not_cost_the_lock(
    tmp_path: Path, plant: Callable[[Path], None]
) -> None:
    """It is there for people; the directory's own lock still keeps everybody out."""
    first = lock_of(tmp_path / "scheduler.json")
    first.acquire()
    (tmp_path / "scheduler.lock").unlink()
    plant(tmp_path / "scheduler.lock")
    for _ in range(2):
        assert first.mend()
        assert "was deleted or replaced" in first.check()
    assert race("real", 2, tmp_path / "scheduler.json").count(HELD) == 0
    first.release()


def test_l4_a_replaced_directory_is_noticed_and_cannot_be_mended(tmp_path: Path) -> None:
    state = tmp_path / "state"
    first = lock_of(state / "scheduler.json")
    first.acquire()
    state.rename(tmp_path / "elsewhere")
    assert "was moved or replaced" in first.check()
    state.mkdir(mode=0o700)
    assert "was moved or replaced" in first.check()
    assert not first.mend()
    first.release()


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.ENOTSUP])
def test_l6_no_flock_is_said_and_nothing_weaker_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def no_flock(fd: int, operation: int) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(fcntl, "flock", no_flock)
    with pytest.raises(CannotCreate, match="has no flock") as refused:
        lock_of(tmp_path / "scheduler.json").acquire()
    assert refused.value.exit == 73
    assert not (tmp_path / "scheduler.lock").exists()


def test_l6_a_marker_lock_would_have_been_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the library does by default, and what must not be asked of it."""

    def no_flock(fd: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_flock)
    weaker = FileLock(tmp_path / "scheduler.lock", timeout=0)
    with pytest.warns(UserWarning, match="flock"):
        weaker.acquire()
    assert weaker.is_locked
    weaker.release()


def test_l7_two_paths_to_one_directory_are_one_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    paths = [tmp_path / name / "scheduler.json" for name in ("real", "alias")]
    first = lock_of(paths[0])
    first.acquire()
    with pytest.raises(Busy):
        lock_of(paths[1]).acquire()
    first.release()
    monkeypatch.setenv("NAMED_LOCKS", str(tmp_path))
    assert [KINDS["by name"](path) for path in paths] == [HELD, HELD], "a lock by name would be two"


async def test_l4_a_lease_is_lost_with_the_lock_file_and_taken_again_with_a_higher_fence(tmp_path: Path) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    lease = await store.leases.acquire("engine")
    assert lease is not None
    assert lease.fence == NOW
    (tmp_path / "scheduler.lock").unlink()
    assert not await store.leases.renew(lease)
    await store.leases.release(lease)
    again = await store.leases.acquire("engine")
    assert again is not None
    assert again.fence == NOW + 1
    assert await store.leases.renew(again)
    await store.close()
    later = open_store(tmp_path / "scheduler.json", FixedClock(5))
    assert later.states.fence == NOW + 1
    await later.close()


async def test_l4_a_lease_is_refused_once_the_directory_is_another(tmp_path: Path) -> None:
    state = tmp_path / "state"
    store = open_store(state / "scheduler.json", FixedClock())
    state.rename(tmp_path / "elsewhere")
    state.mkdir(mode=0o700)
    assert await store.leases.acquire("engine") is None
    await store.close()


def test_holder_reads_only_plain_files(tmp_path: Path) -> None:
    directory: StateDirectory = open_directory(tmp_path / "scheduler.json")
    assert holder(directory) is None
    os.mkfifo(tmp_path / "scheduler.lock", 0o600)
    assert holder(directory) is None
    with pytest.raises(Denied):
        StateLock(directory, FixedClock()).acquire()
    directory.close()
