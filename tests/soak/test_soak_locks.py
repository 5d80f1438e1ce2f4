"""L1-L7 at full figures: starts by the hundred, ticks for a minute, a file system without flock, a bind mount."""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.contend import HELD, KINDS, hold, race, seconds_after_a_kill
from tests.support.daemon import COMMAND
from tests.support.faults import Site, site
from tests.support.rivals import one_author, start_together, tick_beside

Record = Callable[[str, object], None]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def test_l1_of_200_locks_one_is_held(tmp_path: Path, record_property: Record) -> None:
    rounds = 30
    for number in range(rounds):
        answers = race("real", 200, tmp_path / str(number) / "scheduler.json")
        assert answers.count(HELD) == 1
        assert sum("is in use by pid " in answer for answer in answers) == 199
    naive = race("pid file", 200, tmp_path / "naive.json").count(HELD)
    assert naive > 1
    record_property("L1", f"200 processes at once, {rounds} rounds: 1 winner each (a pid file: {naive} winners)")


def test_l1_of_200_daemons_one_wins(place: Site, record_property: Record) -> None:
    cadence = place.work("quick")
    place.configure(cadence)
    start_together(place, cadence, 200, timeout=600).stop()
    one_author(place, cadence)
    record_property("L1", "200 daemons at once: 1 winner, 199 exits 75 that name it, 0 duplicate runs")


def test_l1_the_second_daemon_ends_within_a_second(place: Site, record_property: Record) -> None:
    place.configure(place.work("quick"))
    place.place.daemon().ready()
    took = []
    for _ in range(10):
        began = time.monotonic()
        assert place.place.cli("run").code == 75
        took.append(time.monotonic() - began)
    assert min(took) <= 1.0
    record_property("L1", f"a second daemon ends after {sorted(took)[5]:.2f} s (median of 10)")


def test_l2_50_ticks_a_second_for_a_minute(place: Site, record_property: Record) -> None:
    cadences = [place.work(f"quick{number}") for number in range(3)]
    place.configure(*cadences, scheduler="retention_rows: 1000000\n")
    daemon = place.place.daemon().ready()
    found = tick_beside(place, daemon, 3_000, 50)
    daemon.stop()
    one_author(place, *cadences)
    runs = len(place.starts(cadences[0])) * len(cadences)
    record_property("L2", f"3,000 ticks in {found.seconds:.0f} s beside {runs} runs: 3,000 exits 75, 0 duplicates")


def test_l3_a_killed_holder_holds_nothing(tmp_path: Path, record_property: Record) -> None:
    took = [seconds_after_a_kill(tmp_path) for _ in range(20)]
    assert max(took) <= 0.5
    record_property("L3", f"20 holders killed: the next one had the lock after {max(took) * 1000:.1f} ms at most")


def test_l4_lock_files_deleted_30_times(place: Site, record_property: Record) -> None:
    """While others try to get in."""
    cadence = place.work("quick")
    place.configure(cadence)
    daemon = place.place.daemon().ready()
    state, mended, got_in = place.place.state, 0, 0
    for _ in range(30):
        (state.parent / "scheduler.lock").unlink(missing_ok=True)
        got_in += race("real", 5, state).count(HELD)
        began = time.monotonic()
        daemon.wait_until((state.parent / "scheduler.lock").exists, "a new lock file", 10)
        mended += time.monotonic() - began <= 2.0
    daemon.stop()
    one_author(place, cadence)
    assert (got_in, mended) == (0, 30)
    record_property("L4", "lock file deleted 30 times under 150 attempts: 0 got in, each mended within 2 s")


@pytest.mark.needs("strace")
@pytest.mark.parametrize("verb", ["run", "tick"])
def test_l6_without_flock_nothing_starts(place: Site, verb: str, record_property: Record) -> None:
    place.configure(place.work("quick"))
    argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "inject=flock:error=ENOSYS", str(COMMAND), verb]
    done = subprocess.run(
        argv, cwd=place.place.root, env=place.place.env(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 73, done.stderr
    assert "has no flock" in done.stderr
    assert "Traceback" not in done.stderr
    assert place.entries() == []
    assert not (place.place.state.parent / "scheduler.lock").exists()
    record_property("L6", f"flock answers ENOSYS: `{verb}` exits 73 and says so, 0 marker locks, 0 starts")


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A directory and a bind mount of it."""
    real, twin = tmp_path / "real", tmp_path / "twin"
    for path in (real, twin):
        path.mkdir(mode=0o700)
    subprocess.run(["mount", "--bind", str(real), str(twin)], check=True)
    yield real, twin
    subprocess.run(["umount", "--lazy", str(twin)], check=True)
    shutil.rmtree(twin)


@pytest.mark.needs("mounts")
def test_l7_a_bind_mount_is_the_same_directory(
    mirror: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record_property: Record
) -> None:
    paths = [directory / "scheduler.json" for directory in mirror]
    holder = hold("real", paths[0])
    assert race("real", 20, paths[1]).count(HELD) == 0
    holder.communicate("")
    assert race("real", 20, paths[1]).count(HELD) == 1
    monkeypatch.setenv("NAMED_LOCKS", str(tmp_path))
    assert [KINDS["by name"](path) for path in paths] == [HELD, HELD]
    record_property("L7", "bind mount and symlink to one directory: one lock (a lock by path name: two)")
