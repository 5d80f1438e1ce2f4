"""T1, T2, T3, T7: the wall clock is set under the engine, stores on disk, restarts in between.

Zones and DST do not appear: interval slots are epoch arithmetic in UTC and know neither."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.builders import NOON, cadence
from tests.support.faults import books
from tests.support.ledger import gaps
from tests.support.world import NamedSubjects, ScriptedExecutor, ToldClock
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.events import ClockStepped, Event
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Run, Status
from vmsh_scheduler.domain.trigger import DAY, HOUR, MINUTE, SECOND, Interval, Millis
from vmsh_scheduler.engine.bounds import Bounds
from vmsh_scheduler.engine.carry import Identity
from vmsh_scheduler.engine.engine import Engine, Stores
from vmsh_scheduler.stores.local.agenda import HeapAgenda
from vmsh_scheduler.stores.local.store import LocalStore, open_store

FAST, STRONG, COLD = cadence(89, id="ns/fast"), cadence(34 * 89, id="ns/strong"), cadence(6 * 3600, id="ns/cold")
JOBS = (FAST, STRONG, COLD)
YEAR_2038: Millis = 2_147_483_647_000
FAILED = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit", "no route")


def period(job: Job) -> Millis:
    assert isinstance(job.trigger, Interval)
    return job.trigger.every


@dataclass
class Machine:
    """One engine over a state directory; `restart` is a new process on the same disk."""

    root: Path
    jobs: Sequence[Job] = JOBS
    clock: ToldClock = field(default_factory=ToldClock)
    executor: ScriptedExecutor = field(default_factory=ScriptedExecutor)
    events: list[Event] = field(default_factory=list)
    starts: list[tuple[Millis, Run]] = field(default_factory=list)
    """(elapsed time, run): elapsed time never steps."""
    store: LocalStore = field(init=False)
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        self.executor.on_run = lambda run: self.starts.append((self.clock.elapsed(), run))

    @property
    def state(self) -> Path:
        return self.root / "state" / "scheduler.json"

    async def boot(self) -> "Machine":
        self.store = open_store(self.state, self.clock)
        lease = await self.store.leases.acquire("scheduler")
        assert lease is not None
        self.engine = Engine(
            Stores(self.store.states, HeapAgenda()),
            {Command: self.executor},
            NamedSubjects(),
            self.clock,
            self.events.append,
            identity=Identity(lease.fence, "boot-1", "worker-1"),
            bounds=Bounds(),
        )
        await self.engine.sync({job.id: job for job in self.jobs}, "cfg")
        await self.engine.recover()
        return self

    async def halt(self) -> None:
        await self.store.close()

    async def set_clock(self, by: Millis, *, while_down: bool) -> None:
        """Somebody sets the wall clock, the daemon running or not."""
        if while_down:
            await self.halt()
        self.clock.step(by)
        if while_down:
            await self.boot()
        await self.tick()

    async def tick(self) -> None:
        await self.engine.tick()
        await self.engine.until_idle()

    async def go(self, by: Millis) -> None:
        """Let time pass, ticking whenever something is due."""
        end = self.clock.elapsed() + by
        await self.tick()
        while (due := await self.engine.board.agenda.next_due()) is not None:
            wait = max(0, due - self.clock.now())
            if self.clock.elapsed() + wait > end:
                break
            self.clock.move(wait)
            await self.tick()
        self.clock.move(end - self.clock.elapsed())
        await self.tick()

    def of(self, job: Job, since: Millis = 0) -> list[tuple[Millis, Run]]:
        return [(at, run) for at, run in self.starts if run.job_id == job.id and at >= since]

    def steps(self) -> list[Millis]:
        return [event.by for event in self.events if isinstance(event, ClockStepped)]


async def running(root: Path, *jobs: Job) -> Machine:
    """Past its first slots, in the middle of a period."""
    machine = await Machine(root, jobs or JOBS).boot()
    await machine.go(10 * MINUTE)
    assert machine.of(machine.jobs[0])
    return machine


def assert_keys_rise(machine: Machine) -> None:
    """No key is ever given to a second slot's work, and slots of a job only rise."""
    keys = Counter(run.key for _, run in machine.starts if run.attempt == 1)
    assert [key for key, count in keys.items() if count > 1] == []
    for job in machine.jobs:
        slots = [run.slot for _, run in machine.of(job)]
        assert slots == sorted(slots), job.id


@pytest.mark.parametrize("while_down", [False, True], ids=["running", "down"])
@pytest.mark.parametrize("step", [HOUR, 30 * DAY], ids=["1h", "30d"])
async def test_t1_forward_one_catch_up_per_cadence_and_no_burst(tmp_path: Path, step: Millis, while_down: bool) -> None:
    machine = await running(tmp_path)
    before = machine.clock.elapsed()
    await machine.set_clock(step, while_down=while_down)
    for job in JOBS:
        assert len(machine.of(job, before)) <= 1, job.id
    assert len(machine.of(FAST, before)) == 1
    await machine.go(10 * period(FAST))
    assert len(machine.of(FAST, before)) <= 1 + 10 + 1
    assert machine.steps() == ([] if while_down else [step])
    assert_keys_rise(machine)
    await machine.halt()
    assert gaps(books(machine.state), {job.id: period(job) for job in JOBS}) == []


@pytest.mark.parametrize("while_down", [False, True], ids=["running", "down"])
@pytest.mark.parametrize("step", [-HOUR, -30 * DAY], ids=["1h", "30d"])
async def test_t2_back_next_start_within_a_period(tmp_path: Path, step: Millis, while_down: bool) -> None:
    machine = await running(tmp_path)
    before = machine.clock.elapsed()
    await machine.set_clock(step, while_down=while_down)
    await machine.go(period(COLD))
    for job in JOBS:
        first, _ = machine.of(job, before)[0]
        assert first - before <= period(job), f"{job.id} froze for {first - before} ms"
    starts = [at for at, _ in machine.of(FAST, before)]
    assert {later - earlier for earlier, later in pairwise(starts)} == {period(FAST)}, "neither a burst nor a hole"
    assert_keys_rise(machine)
    await machine.halt()


async def test_t2_there_and_back_again_with_restarts(tmp_path: Path) -> None:
    machine = await running(tmp_path, FAST)
    for step in (HOUR, -30 * DAY, 30 * DAY, -HOUR):
        for while_down in (True, False):
            before = machine.clock.elapsed()
            await machine.set_clock(step, while_down=while_down)
            await machine.go(3 * period(FAST) + 25 * SECOND)
            starts = [at for at, _ in machine.of(FAST, before)]
            assert starts[0] - before <= period(FAST), step
            assert max(later - earlier for earlier, later in pairwise(starts)) <= period(FAST), step
            assert len(starts) <= 5, step
    assert_keys_rise(machine)
    await machine.halt()


@pytest.mark.parametrize("while_down", [False, True], ids=["running", "down"])
async def test_t2_a_backoff_never_waits_longer_than_its_longest(tmp_path: Path, while_down: bool) -> None:
    machine = Machine(tmp_path, (FAST,))
    machine.executor.script[FAST.id] = [FAILED] * 4
    await machine.boot()
    await machine.go(30 * SECOND)
    tried, before = len(machine.starts), machine.clock.elapsed()
    assert 2 <= tried <= 4
    await machine.set_clock(-30 * DAY, while_down=while_down)
    await machine.go(FAST.policy.retry.longest())
    assert len(machine.of(FAST, before)) >= 1
    assert {run.key for _, run in machine.of(FAST, before)[:1]} == {machine.starts[0][1].key}
    await machine.halt()


async def test_t3_a_state_from_2038_waits_one_period_at_most(tmp_path: Path) -> None:
    future = Machine(tmp_path, clock=ToldClock(YEAR_2038))
    await future.boot()
    await future.go(10 * MINUTE)
    await future.halt()
    machine = Machine(tmp_path)
    machine.clock.boot = future.clock.boot
    machine.starts += future.starts
    await machine.boot()
    before = machine.clock.elapsed()
    await machine.go(period(COLD))
    for job in JOBS:
        first, run = machine.of(job, before)[0]
        assert first - before <= period(job)
        assert run.slot > YEAR_2038 - period(job)
    assert_keys_rise(machine)
    await machine.halt()


async def test_t3_a_poisoned_file_of_the_original_waits_one_period_at_most(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    poisoned = '{"ns": {"last": {"fast": 2147483647, "strong": 2147483647}, "backoff": 7}}'
    (state / "scheduler.json").write_text(poisoned)
    (state / "scheduler.json").chmod(0o600)
    machine = await Machine(tmp_path).boot()
    before = machine.clock.elapsed()
    await machine.go(period(STRONG))
    for job in (FAST, STRONG):
        assert machine.of(job, before)[0][0] - before <= period(job)
    assert_keys_rise(machine)
    await machine.halt()


async def test_t7_before_2020_nothing_starts_and_a_set_clock_starts_everything(tmp_path: Path) -> None:
    machine = Machine(tmp_path, clock=ToldClock(3 * HOUR))
    await machine.boot()
    machine.clock.move(HOUR)
    await machine.tick()
    assert machine.starts == []
    await machine.set_clock(NOON, while_down=False)
    assert Counter(run.job_id for _, run in machine.starts) == Counter(job.id for job in JOBS)
    await machine.halt()


async def test_t7_waiting_for_a_sane_clock_is_no_busy_loop(tmp_path: Path) -> None:
    stop = asyncio.Event()

    class Counting(ToldClock):
        naps: tuple[Millis, ...] = ()

        async def sleep_until(self, when: Millis, wakeup: asyncio.Event) -> None:
            self.naps += (when - self.now(),)
            if len(self.naps) == 5:
                stop.set()
            await super().sleep_until(when, wakeup)

    clock = Counting(3 * HOUR)
    machine = await Machine(tmp_path, clock=clock).boot()
    await machine.engine.run(stop)
    assert min(clock.naps) >= SECOND
    await machine.halt()


async def test_what_bites_an_engine_that_trusts_the_wall_clock_freezes(tmp_path: Path) -> None:
    """The figure of T2 is no accident: without elapsed time beside it, the same step stops the cadence."""

    class Trusting(ToldClock):
        def elapsed(self) -> Millis:
            return self.now()

    machine = Machine(tmp_path, (FAST,), clock=Trusting())
    await machine.boot()
    await machine.go(10 * MINUTE)
    seen = len(machine.starts)
    machine.clock.step(-HOUR)
    for _ in range(10):
        machine.clock.move(period(FAST))
        await machine.tick()
    assert len(machine.starts) == seen
    await machine.halt()
