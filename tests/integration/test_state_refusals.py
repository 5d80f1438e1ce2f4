"""S8: a sync that takes long and is refused in the end, with changes upon changes that wait for it."""

import asyncio
import errno
import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.world import decision
from tests.support.builders import NOON, cadence
from tests.support.statefiles import FaultyDisk, looked_at, named, nothing_new, opened, rows
from tests.support.world import World
from vmsh_scheduler.domain.job import Job, Overlap
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.store import LocalStore

DOWN = Outcome(Status.FAILED, ErrorClass.UNKNOWN, "exit_1", "down")


class StuckDisk:
    """While it is `stuck` syncs hang; `fail` ends them with an error and refuses the next ones, `free` lets them be."""

    def __init__(self) -> None:
        self.hanging = 0
        self.full = False
        self._stuck = self._failing = False
        self._gate = threading.Event()
        self.disk = Disk(sync_data=self._sync, write=self._write)

    def stick(self) -> None:
        self._gate.clear()
        self._stuck = True

    def fail(self) -> None:
        self._failing = True
        self._gate.set()

    def free(self) -> None:
        self._stuck = self._failing = False
        self._gate.set()

    def _sync(self, fd: int) -> None:
        if self._stuck:
            self.hanging += 1
            self._gate.wait(20)
            self.hanging -= 1
        if self._failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        os.fdatasync(fd)

    def _write(self, fd: int, data: memoryview) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)


def not_cut(fd: int, size: int) -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def world_over(store: LocalStore, *jobs: Job, **bounds: int) -> World:
    return World(*jobs, states=store.states, **bounds)  # type: ignore[arg-type]  # asks no more than any States give


async def eventually(true: Callable[[], object], world: World | None = None) -> None:
    """With a world: while its engine ticks, and its time stands still."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        if world is not None:
            await world.engine.tick()
        await asyncio.sleep(0.005)


async def hanging(root: Path, level: int) -> tuple[StuckDisk, LocalStore, "asyncio.Task[None]"]:
    """A change of `a/b` from level 0 to this one waits for its sync."""
    stuck = StuckDisk()
    store = opened(root, stuck.disk)
    await store.states.apply([Change("a/b", JobState(level=0))])
    stuck.stick()
    intent = asyncio.create_task(store.states.apply([Change("a/b", JobState(level=level))]))
    await eventually(lambda: stuck.hanging)
    return stuck, store, intent


async def test_s8_what_was_built_on_a_refused_change_is_refused_with_it(tmp_path: Path) -> None:
    stuck, store, intent = await hanging(tmp_path, level=7)
    row = [Change("a/b", JobState(level=7, newest_slot=5)), Change("e/f", JobState(level=5))]
    upon = asyncio.ensure_future(store.states.apply(row, durable=False))
    await store.states.apply([Change("g/h", JobState(level=1))], durable=False)  # nobody else's sync is waited for
    assert not upon.done()
    stuck.fail()
    told = await asyncio.gather(intent, upon, return_exceptions=True)
    assert [type(error) for error in told] == [StateWriteFailed, StateWriteFailed]
    sure = {"a/b": JobState(level=0), "g/h": JobState(level=1)}
    assert store.states.all() == sure
    stuck.free()
    await store.states.apply([Change("c/d", JobState())])
    assert looked_at(tmp_path).states == {**sure, "c/d": JobState()}
    await store.close()
    assert looked_at(tmp_path).states == {**sure, "c/d": JobState()}


async def test_s8_a_refused_change_takes_back_nothing_that_came_before_it(tmp_path: Path) -> None:
    """The disk is full for a moment, while what was written before waits for its sync."""
    stuck, store, intent = await hanging(tmp_path, level=1)
    stuck.full = True
    with pytest.raises(StateWriteFailed, match="No space left"):
        await store.states.apply([Change("a/b", JobState(level=2))])
    stuck.full = False
    stuck.free()
    await intent
    assert store.states.get("a/b") == JobState(level=1)
    await store.close()
    assert looked_at(tmp_path).states == {"a/b": JobState(level=1)}


async def test_s8_a_refused_intent_leaves_no_run_behind(tmp_path: Path) -> None:
    """Its slots pass while the disk hangs; another job goes on all the while."""
    stuck = StuckDisk()
    store = opened(tmp_path, stuck.disk)
    world = world_over(store, cadence(10, crash_exact=True), cadence(10, id="b/fast"))
    await world.start()
    await store.states.apply([Change("x/y", JobState())])
    stuck.stick()
    await eventually(lambda: stuck.hanging and world.state().runs, world)
    world.executor.hold = True
    world.clock.move(30 * SECOND)
    begun = time.monotonic()
    await world.tick()
    assert time.monotonic() - begun < 5, "the tick stood still for a disk that hangs"
    assert world.slots("b/fast"), "it waits for nobody's sync"
    stuck.fail()
    await eventually(lambda: not world.state().runs, world)
    assert world.slots() == []
    stuck.free()

    def tried_again() -> list[int]:
        """A refusal that was on its way still is answered by a second's patience from then on."""
        world.clock.move(10)
        return world.slots()

    await eventually(tried_again, world)
    assert world.slots() == [NOON + 30 * SECOND]
    world.executor.hold = False
    world.executor.finish(next(run for run in world.executor.runs if run.job_id == "ns/fast"))
    await eventually(lambda: world.state().succeeded, world)
    assert [(d.slot, d.count, d.verdict.value) for d in world.decisions if d.job_id == "ns/fast"] == [
        (NOON + 20 * SECOND, 3, "missed"),
        (NOON + 30 * SECOND, 1, "fired"),
    ]
    assert (world.state().started, world.state().succeeded) == (1, 1)
    await store.close()


async def test_s8_an_outcome_whose_sync_was_refused_counts_once(tmp_path: Path) -> None:
    """A slot comes due while it waits, whose row would be built on it."""
    stuck = StuckDisk()
    store = opened(tmp_path, stuck.disk)
    world = world_over(store, cadence(10))
    world.executor.hold = True
    await world.start()
    await world.tick()
    stuck.stick()
    world.executor.finish(world.executor.runs[0], DOWN)
    await eventually(lambda: stuck.hanging and world.state().failed, world)
    world.clock.move(10 * SECOND)
    await world.tick()
    await world.tick()
    stuck.fail()
    await eventually(lambda: not world.state().failed, world)
    assert world.finished == []
    stuck.free()
    await eventually(lambda: world.finished, world)
    state = world.state()
    assert (state.started, state.failed, state.level) == (1, 1, 1)
    await store.close()
    assert looked_at(tmp_path).states["ns/fast"] == state


async def test_s8_nothing_begins_upon_an_outcome_that_may_be_refused(tmp_path: Path) -> None:
    """Two runs of one job, and a third slot that waits for a permit when one of them ends."""
    stuck = StuckDisk()
    store = opened(tmp_path, stuck.disk)
    world = world_over(store, cadence(10, overlap=Overlap.ALLOW), concurrency=2)
    world.executor.hold = True
    await world.start()
    await world.go(20 * SECOND)
    assert len(world.executor.runs) == 2
    assert "ns/fast" in world.engine.board.waiting
    stuck.stick()
    for run in world.executor.runs[:2]:
        world.executor.finish(run)
    await eventually(lambda: stuck.hanging and world.state().succeeded, world)
    await world.tick()
    assert len(world.executor.runs) == 2
    stuck.fail()
    await eventually(lambda: world.state().succeeded == 0, world)
    stuck.free()
    await eventually(lambda: len(world.finished) == 2, world)
    world.clock.move(SECOND)
    await eventually(lambda: len(world.executor.runs) == 3, world)
    state = world.state()
    assert (state.started, state.succeeded) == (3, 2)
    assert [run.id for run in state.runs] == [world.executor.runs[2].id]
    world.executor.finish(world.executor.runs[2])
    await eventually(lambda: world.state().succeeded == 3, world)
    await store.close()


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EMFILE, errno.EACCES])
async def test_s8_what_filled_a_log_is_acknowledged_though_no_new_one_can_be_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """It is on disk, and in the journal: what is told as refused would be in force at the next start."""
    monkeypatch.setattr("vmsh_scheduler.stores.local.log.LogFile.__init__.__kwdefaults__", {"rotate_at": 400})
    store = opened(tmp_path)
    await store.states.apply([Change("a/b", JobState(level=0))])
    with nothing_new(error):
        full = JobState(level=1, last_error="x" * 400)
        await asyncio.gather(
            store.states.apply([Change("c/d", JobState(level=1))]),
            store.states.apply([Change("a/b", full, (decision("a/b", 1),))]),
        )
        for level in (2, 3):
            with pytest.raises(StateWriteFailed, match="cannot be begun"):
                await store.states.apply([Change("a/b", JobState(level=level))])
        assert store.states.all() == {"a/b": full, "c/d": JobState(level=1)}
        assert looked_at(tmp_path).states == store.states.all()
    await store.states.apply([Change("a/b", JobState(level=4))])
    await store.close()
    assert looked_at(tmp_path).states == {"a/b": JobState(level=4), "c/d": JobState(level=1)}
    assert len(rows(tmp_path).decisions()) == 1


async def test_s8_what_was_written_before_a_torn_line_is_acknowledged_though_no_new_log_can_be_begun(
    tmp_path: Path,
) -> None:
    """The torn line cannot be taken back either, which is the end of its log."""

    def write(fd: int, data: memoryview) -> int:
        if b"torn" in bytes(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)

    store = opened(tmp_path, Disk(write=write, truncate=not_cut))
    await store.states.apply([Change("a/b", JobState(level=0))])
    with nothing_new(errno.ENOSPC):
        whole, torn = await asyncio.gather(
            store.states.apply([Change("a/b", JobState(level=1))]),
            store.states.apply([Change("torn", JobState(level=1))]),
            return_exceptions=True,
        )
        assert (whole, type(torn)) == (None, StateWriteFailed)
        assert looked_at(tmp_path).states == store.states.all() == {"a/b": JobState(level=1)}
    await store.close()


async def test_s8_a_log_that_ends_in_a_torn_line_is_left_without_a_sync_in_the_loop(tmp_path: Path) -> None:
    """While a sync of it hangs: nobody waits for that but those whose lines it takes."""
    stuck = StuckDisk()

    store = opened(tmp_path, replace(stuck.disk, truncate=not_cut))
    await store.states.apply([Change("a/b", JobState(level=0))])
    stuck.stick()
    first = asyncio.ensure_future(store.states.apply([Change("a/b", JobState(level=1))]))
    await eventually(lambda: stuck.hanging)
    stuck.full = True
    begun = time.monotonic()
    with pytest.raises(StateWriteFailed, match="No space left"):
        await store.states.apply([Change("c/d", JobState(level=1))])
    assert time.monotonic() - begun < 5, "the loop stood still for a disk that hangs"
    stuck.full = False
    stuck.free()
    await first
    await store.states.apply([Change("e/f", JobState(level=1))])
    sure = {"a/b": JobState(level=1), "e/f": JobState(level=1)}
    assert store.states.all() == looked_at(tmp_path).states == sure
    assert named(tmp_path, "*.2.wal")
    await store.close()


async def test_s8_a_round_of_syncs_outlives_a_line_that_is_torn_in_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What waits for a shared sync is written when that begins."""
    faulty = FaultyDisk(errno.ENOSPC)
    store = opened(tmp_path, Disk(write=faulty.disk.write, truncate=faulty.disk.truncate))
    await store.states.apply([Change("a/b", JobState(level=0))])
    faulty.broken |= {"write", "truncate"}
    with pytest.raises(StateWriteFailed, match="cannot be written"):
        await store.states.apply([Change("a/b", JobState(level=1))], soon=True)
    faulty.broken.clear()
    await store.states.apply([Change("a/b", JobState(level=2))], soon=True)
    await store.close()
    gc.collect()
    assert caplog.text == "", "a task of the loop has failed"
    assert looked_at(tmp_path).states == {"a/b": JobState(level=2)}
