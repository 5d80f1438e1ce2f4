"""An engine in virtual time: a clock that is told, an executor that plays a script, stores in memory."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.support.builders import NOON
from vmsh_scheduler.domain.action import Callback, Command
from vmsh_scheduler.domain.decision import Decision
from vmsh_scheduler.domain.events import Decided, Event, Finished
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Found, Nothing, Outcome, Recovery, Run, Status, Trace
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.bounds import Bounds
from vmsh_scheduler.engine.carry import Identity
from vmsh_scheduler.engine.engine import Engine, Stores
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.agenda import HeapAgenda
from vmsh_scheduler.stores.memory import MemoryStates

OK = Outcome(Status.OK)


class ToldClock:
    """Time moves only when the test says so; wall and elapsed time can be moved apart."""

    def __init__(self, now: Millis = NOON) -> None:
        self.wall = now
        self.boot = 1_000_000

    def now(self) -> Millis:
        return self.wall

    def elapsed(self) -> Millis:
        return self.boot

    def move(self, by: Millis) -> None:
        self.wall += by
        self.boot += by

    def step(self, by: Millis) -> None:
        """Somebody sets the wall clock."""
        self.wall += by

    async def sleep_until(self, when: Millis, wakeup: asyncio.Event) -> None:
        if when > self.wall:
            self.move(when - self.wall)
        await asyncio.sleep(0)


@dataclass
class ScriptedExecutor:
    """Plays outcomes per job; `hold` keeps runs going until `finish`."""

    script: dict[str, list[Outcome]] = field(default_factory=dict)
    traces: dict[str, Recovery] = field(default_factory=dict)
    probes: dict[str, bool | None] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    """The job of each run, as it was when the run began."""
    forgotten: list[str] = field(default_factory=list)
    hold: bool = False
    hurried: bool = False
    on_run: Callable[[Run], None] | None = None
    _open: dict[str, asyncio.Future[Outcome]] = field(default_factory=dict)

    async def run(self, job: Job, run: Run) -> Outcome:
        self.runs.append(run)
        self.jobs.append(job)
        if self.on_run is not None:
            self.on_run(run)
        if self.hold:
            self._open[run.id] = asyncio.get_running_loop().create_future()
            return await self._open[run.id]
        outcomes = self.script.get(job.id, [])
        return outcomes.pop(0) if outcomes else OK

    def finish(self, run: Run, outcome: Outcome = OK) -> None:
        self._open.pop(run.id).set_result(outcome)

    async def recover(self, job: Job, run: Run) -> Recovery:
        return self.traces.get(run.id, Recovery(Trace.UNKNOWN))

    async def adopt(self, job: Job, run: Run) -> Outcome:
        return await self.run(job, run)

    async def probe(self, job: Job, run: Run) -> bool | None:
        return self.probes.get(run.id)

    def forget(self, run: Run) -> None:
        self.forgotten.append(run.id)

    def hurry(self) -> None:
        self.hurried = True
        for run_id in list(self._open):
            self._open.pop(run_id).set_result(Outcome(Status.FAILED, None, "cancelled", "hurried"))


class NamedSubjects:
    """Finds what the test put under the job's id."""

    def __init__(self) -> None:
        self.found: dict[str, Found | Nothing] = {}
        self.gate: asyncio.Event | None = None
        """Looking takes until this is set."""

    async def find(self, job: Job, state: JobState) -> Found | Nothing:
        if self.gate is not None:
            await self.gate.wait()
        return self.found.get(job.id, Nothing("no_batch"))


class FailingStates(MemoryStates):
    """A full disk that can be emptied."""

    full = False

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        if self.full:
            raise StateWriteFailed("no space left on device")
        await super().apply(changes, durable=durable, soon=soon)


class SlowStates(FailingStates):
    """What is written is shown at once; when `gate` opens it is acknowledged, or taken back: while the disk is `full`,
    or so many times as there are `refusals`."""

    refusals = 0

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        if not self.gate.is_set():
            before = [Change(change.job_id, self._states.get(change.job_id)) for change in changes]
            shown = [Change(change.job_id, change.state) for change in changes if change.state is not None]
            await MemoryStates.apply(self, shown)
            async with asyncio.timeout(10):  # the test waits for what has to wait for the test
                await self.gate.wait()
            if self.full or self.refusals:
                self.refusals = max(0, self.refusals - 1)
                await MemoryStates.apply(self, before)
                raise StateWriteFailed("no space left on device")
        await super().apply(changes, durable=durable, soon=soon)


class World:
    """Everything an engine needs, and what it told."""

    def __init__(self, *jobs: Job, states: MemoryStates | None = None, **bounds: Any) -> None:
        self.clock = ToldClock()
        self.executor = ScriptedExecutor()
        self.subjects = NamedSubjects()
        self.states = states or MemoryStates()
        self.jobs = {job.id: job for job in jobs}
        self.events: list[Event] = []
        self.bounds = Bounds(**bounds)
        self.engine = self.boot()

    def boot(self, fence: int = 1) -> Engine:
        """A new engine over the same states, as after a crash."""
        self.engine = Engine(
            Stores(self.states, HeapAgenda()),
            {Command: self.executor},
            self.subjects,
            self.clock,
            self.events.append,
            identity=Identity(fence, "boot-1", "worker-1"),
            bounds=self.bounds,
        )
        return self.engine

    async def start(self, **options: bool) -> None:
        await self.engine.sync(self.jobs, "cfg", **options)

    async def settle(self) -> None:
        """Let everything that can happen now happen."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def tick(self) -> None:
        await self.engine.tick()
        await self.settle()
        await self.engine.tick()
        await self.settle()

    async def go(self, by: Millis) -> None:
        """Move time on, ticking whenever something is due."""
        end = self.clock.wall + by
        while True:
            await self.tick()
            due = await self.engine.board.agenda.next_due()
            if due is None or due > end:
                break
            self.clock.move(max(0, due - self.clock.wall))
        self.clock.move(max(0, end - self.clock.wall))
        await self.tick()

    @property
    def decisions(self) -> list[Decision]:
        return [event.decision for event in self.events if isinstance(event, Decided)]

    @property
    def finished(self) -> list[Finished]:
        return [event for event in self.events if isinstance(event, Finished)]

    def slots(self, job_id: str = "ns/fast") -> list[Millis]:
        return [run.slot for run in self.executor.runs if run.job_id == job_id]

    def state(self, job_id: str = "ns/fast") -> JobState:
        return self.engine.board.state(job_id)


CALLBACK = Callback("http://localhost/x")
