"""S2 at the catalogue's figure: a kill before every system call of a save, and of a tick that runs one job."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.syscalls import KILLED, Point, Sweep, kill_at, sweep
from tests.support.ticks import ticks
from tests.support.writers import read_naive, read_rows

PLACES = 2
Record = Callable[[str, object], None]

pytestmark = pytest.mark.needs("strace")


def test_s2_a_kill_before_any_system_call_of_a_save(tmp_path: Path, record_property: Record) -> None:
    found = sweep(("store", "{}/state/scheduler.json", "{}/told"), tmp_path, read_rows)
    record_property("S2", f"changes, snapshots, a rotation, the journal, an end and a start: {found}")
    assert found.harm == []
    assert found.killed >= found.points * 0.95


def test_s2_bites_a_file_written_in_place_is_caught(tmp_path: Path, record_property: Record) -> None:
    found = sweep(("in place", "{}/state/scheduler.json", "{}/told"), tmp_path, read_naive)
    record_property("S2", f"bad variant, in place: {found}")
    assert found.harm


def killed(root: Path, work: Sequence[Point]) -> Sweep:
    """Every one of these points, a last clean tick, and the books."""
    played, seen = ticks(root), Sweep(points=len(work))
    for point in work:
        seen.killed += played.play(point, *kill_at(point)) == KILLED
    seen.harm += played.wrong()
    return seen


def test_s2_a_kill_before_any_system_call_of_a_tick(tmp_path: Path, record_property: Record) -> None:
    work = ticks(tmp_path / "count").points()
    with ThreadPoolExecutor(PLACES) as pool:
        parts = list(pool.map(lambda n: killed(tmp_path / str(n), work[n::PLACES]), range(PLACES)))
    found = Sweep(len(work), sum(part.killed for part in parts), [line for part in parts for line in part.harm])
    record_property("S2", f"a tick with one job: {found}")
    assert found.harm == []
    assert found.killed >= found.points * 0.8
