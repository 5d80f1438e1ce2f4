"""Several instances of one cluster in virtual time: engines that lead in turns, workers, one store in memory."""

import asyncio
from collections.abc import Mapping

from tests.support.dispatching import lock_value
from tests.support.world import NamedSubjects, ScriptedExecutor, ToldClock
from vmsh_scheduler.domain.action import Callback, Command
from vmsh_scheduler.domain.events import Event
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.bounds import Bounds, Pool
from vmsh_scheduler.engine.carry import Identity
from vmsh_scheduler.engine.engine import Engine, Stores
from vmsh_scheduler.engine.errand import body_of
from vmsh_scheduler.engine.handed import Collector, HandedExecutor
from vmsh_scheduler.engine.worker import Worker
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.ports import Claim
from vmsh_scheduler.stores.local.agenda import HeapAgenda
from vmsh_scheduler.stores.memory import MemoryStates
from vmsh_scheduler.stores.memory_dispatch import MemoryDispatch, Table

LEASE: Millis = 9_000


class ShakyDispatch(MemoryDispatch):
    """One instance's end of the store, which can be cut off: before (`down`) or after (`deaf`) it was heard."""

    down = False
    deaf = False
    calls = 0


def _shaky(name: str) -> object:
    inner = getattr(MemoryDispatch, name)

    async def call(self: ShakyDispatch, *words: object) -> object:
        self.calls += 1
        if self.down:
            raise StoreDown("it does not answer")
        answer = await inner(self, *words)
        if self.deaf:
            raise StoreDown("it did not answer in time")
        return answer

    return call


for _name in (
    "push",
    "claim",
    "extend",
    "finish",
    "ended",
    "lost",
    "mend",
    "places",
    "doubt",
    "withdraw",
    "forget",
    "outcomes",
):
    setattr(ShakyDispatch, _name, _shaky(_name))


class Member:
    """One instance's worker and what it ran."""

    def __init__(self, crew: "Crew", name: str, pools: Mapping[str, int], jobs: Mapping[str, Job]) -> None:
        self.executor = ScriptedExecutor(hold=True)
        self.jobs = dict(jobs)
        self.events: list[Event] = []
        self.dispatch = ShakyDispatch(crew.clock, crew.table, crew.heard)
        self.asleep = False
        """Stopped, as by SIGSTOP: it does nothing, and is not gone."""
        self.worker = Worker(
            self.dispatch,
            {Command: self.executor, Callback: self.executor},
            self.find,
            crew.clock,
            pools=pools,
            lease=LEASE,
            observer=self.events.append,
        )

    def find(self, claim: Claim) -> Job | None:
        return self.jobs.get(str(claim.task.body.get("job")))

    @property
    def runs(self) -> list[Run]:
        return self.executor.runs


class Term:
    """An instance that leads, or led."""

    def __init__(self, crew: "Crew", fence: int) -> None:
        self.dispatch = ShakyDispatch(crew.clock, crew.table, crew.heard)
        self.dispatch.lead(lock_value(f"leader-{fence}", fence))
        self.collector = Collector(self.dispatch, crew.clock, crew.events.append)
        self.local = ScriptedExecutor(probes=crew.probes)
        handed = HandedExecutor(self.collector, lambda job, run: body_of(job, run, f"leader-{fence}"), self.local)
        self.engine = Engine(
            Stores(crew.states, HeapAgenda()),
            {Command: handed, Callback: handed},
            NamedSubjects(),
            crew.clock,
            crew.events.append,
            identity=Identity(fence, "boot", f"leader-{fence}"),
            bounds=crew.bounds,
        )

    async def end(self) -> None:
        """As a process that dies: nothing is said to anybody."""
        await self.engine.leave(0)


class Crew:
    """`jobs` are what every instance has in its files."""

    def __init__(self, *jobs: Job, concurrency: int = 8, agents: Pool | None = None) -> None:
        self.clock = ToldClock()
        self.table = Table()
        self.states = MemoryStates()
        self.jobs = {job.id: job for job in jobs}
        self.events: list[Event] = []
        self.probes: dict[str, bool | None] = {}
        self.bounds = Bounds(concurrency, {"agents": agents} if agents else {})
        self.members: list[Member] = []
        self.term: Term | None = None

    @property
    def state(self) -> JobState:
        """Of the only job."""
        (job_id,) = self.jobs
        return self.state_of(job_id)

    def state_of(self, job_id: str) -> JobState:
        return self.states.get(job_id) or JobState()

    def join(self, name: str = "w", *, jobs: Mapping[str, Job] | None = None, **pools: int) -> Member:
        member = Member(self, name, pools or {"": 4}, self.jobs if jobs is None else jobs)
        self.members.append(member)
        return member

    async def lead(self, fence: int = 1) -> Term:
        """A new leader; the one before is gone."""
        if self.term is not None:
            await self.term.end()
        term = self.term = Term(self, fence)
        await term.engine.sync(self.jobs, "cfg")
        recovering = asyncio.ensure_future(term.engine.recover())
        await self.settle()
        await recovering
        return term

    def heard(self, word: str) -> None:
        """What the channel between instances is for."""
        if word == "ready":
            for member in self.members:
                member.worker.wake()
        elif self.term is not None:
            self.term.collector.wake()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def step(self, by: Millis = 0) -> None:
        """Time moves on, and everybody does what is to be done now."""
        self.clock.move(by)
        for _ in range(2):
            if self.term is not None:
                await self.term.engine.tick()
                await self.settle()
                await self.term.collector.tick()
                await self.settle()
            for member in self.members:
                if not member.asleep:
                    member.worker.wake()
                    await member.worker.tick()
                    await self.settle()

    async def go(self, by: Millis, every: Millis = 1_000) -> None:
        end = self.clock.wall + by
        while self.clock.wall < end:
            await self.step(min(every, end - self.clock.wall))

    async def finish(self, member: Member, number: int = -1) -> None:
        member.executor.finish(member.runs[number])
        await self.settle()
        await self.step()
