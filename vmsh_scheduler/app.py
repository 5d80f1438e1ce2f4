"""Everything of one process as one value."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.cycles import Cycles
from vmsh_scheduler.domain.action import Action
from vmsh_scheduler.domain.events import Event, Trouble
from vmsh_scheduler.domain.health import Health, Vitals, assess
from vmsh_scheduler.domain.job import AGENT_PREFIX, Job
from vmsh_scheduler.domain.trigger import SANE_CLOCK, SECOND, Millis
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.engine.engine import Engine
from vmsh_scheduler.executors.command import CommandExecutor
from vmsh_scheduler.first_tick import FirstTick
from vmsh_scheduler.observe.metrics import Metrics
from vmsh_scheduler.ports import Counters, Executor, Journal, Observer, Specs, States
from vmsh_scheduler.registry import Registry
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.watch import ConfigWatch, Reading
from vmsh_scheduler.stores.local.load import Condition
from vmsh_scheduler.stores.local.store import LocalStore

if TYPE_CHECKING:  # the API's own
    from vmsh_scheduler.pins import Pins

MANY_JOBS = 1_000
"""From so many on, the cycle collector is told to leave them alone: looking through 25,000 stops the loop for 150 ms,
again and again, and there are no cycles in them."""
FULL_COLLECTION = 100
"""Their states are made anew with every run, so that it comes back to those: ten times less often than by default."""
SHOWN = 20
"""Agents that are named where there are many."""

Executors = Mapping[type[Action], Executor]
Compiler = Callable[[Reading, Settings, Mapping[str, str]], Awaitable[JobSet]]


async def compile_here(reading: Reading, settings: Settings, environ: Mapping[str, str]) -> JobSet:
    """For programs that have nothing else to do meanwhile."""
    return compile_files(reading, settings, environ)


class Observers:
    """Fans events out. What one raises is a defect of ours, and whoever told the event gets it."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = list(observers)

    def __call__(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)


class Work(Protocol):
    """An engine alone, or an instance of several."""

    @property
    def running(self) -> int: ...

    @property
    def last_tick(self) -> Millis: ...

    async def run(self, stop: asyncio.Event) -> None: ...

    def wake(self) -> None: ...

    async def drain(self, limit: Millis) -> bool: ...

    def hurry(self) -> None: ...


class Instance(Work, Protocol):
    """One of several."""

    def condition(self) -> Mapping[str, object]:
        """`ok`, and what is wrong if it is not."""
        ...

    def details(self) -> Mapping[str, object]:
        """More of it, for the owner."""
        ...

    @property
    def facts(self) -> "Facts": ...


class Facts(Protocol):
    """What the Forge.OS surface says of Redis and of who leads (forge-os sections 12 to 14)."""

    async def fresh(self) -> None:
        """Before something is shown that other instances may have changed."""
        ...

    def load(self) -> tuple[int, int]:
        """Cycles that wait, and those that this instance carries out."""
        ...

    def leader(self) -> dict[str, object]: ...

    def redis(self) -> dict[str, object]: ...

    def queue(self) -> dict[str, object] | None: ...

    def gauges(self) -> dict[str, float]: ...

    def counters(self) -> dict[str, int]: ...


class Controls(Protocol):
    """engine.control.Control, or one that asks it."""

    async def fire(self, job_id: str, *, by: str) -> Millis: ...

    async def pause(self, job_id: str, *, until: Millis | None, note: str, by: str) -> None: ...

    async def resume(self, job_id: str, *, by: str) -> None: ...

    async def reset(self, job_id: str, *, by: str) -> None: ...

    async def resolve(self, run_id: str, verdict: str, *, by: str) -> str: ...


class Shared(Protocol):
    """The store that several instances share."""

    @property
    def states(self) -> States: ...

    @property
    def journal(self) -> Journal: ...

    @property
    def specs(self) -> Specs: ...

    @property
    def counters(self) -> Counters: ...

    @property
    def held_back(self) -> Mapping[str, str]:
        """By job what of it cannot be read: it must not start, and why."""
        ...

    async def close(self) -> None: ...


@dataclass
class ConfigStatus:
    """What is known of the configuration on disk."""

    loaded: bool = False
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    config_hash: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass
class App:
    """Everything of one process, opened under the state directory's lock."""

    settings: Settings
    environ: Mapping[str, str]
    clock: SystemClock
    store: LocalStore
    engine: Engine
    control: Controls
    commands: CommandExecutor
    metrics: Metrics
    observers: Observers
    watch: ConfigWatch
    cycles: Cycles
    registry: Registry | None
    """None: the API is off."""
    started_at: Millis
    began: Millis
    """The same by Clock.elapsed(), which no step of the wall clock moves."""
    fence: int
    """0: this instance does not lead."""
    first_tick: FirstTick
    make: Callable[[int, Executors], tuple[Engine, Registry | None]]
    """Another engine over the same stores, for the next term."""
    local: Executors
    """What carries out here."""
    documents_begun: bool = False
    """The file of what is registered is new, or was empty."""
    documents_lost: bool = False
    """And agents ran here before."""
    shared: "Shared | None" = None
    """None: one instance, whose state is in its directory."""
    cluster: "Instance | None" = None
    """Set by the daemon with `shared`."""
    pins: "Pins | None" = None
    """Set by the daemon: None = no file names the keys that count."""
    config: ConfigStatus = field(default_factory=ConfigStatus)
    jobs: JobSet | None = None
    """What the files gave last."""
    compiler: Compiler = compile_here
    reload: Callable[[], object] | None = None
    """Set by the daemon: read the configuration now."""

    async def compile(self, reading: Reading) -> JobSet:
        """Raises ConfigError with every problem of every file."""
        jobs = await self.compiler(reading, self.settings, self.environ)
        return jobs._replace(warnings=(*reading.warnings, *jobs.warnings))

    async def put_in_force(self, jobs: JobSet, *, first: bool = False, recover: bool = True) -> None:
        """The engine follows this job set from now on. `recover=False`: runs that are open are left alone."""
        lost = first and self._state_lost() and self.settings.on_state_loss == "wait"
        warnings = (*jobs.warnings, *self._hidden_by(jobs))
        self.config = ConfigStatus(True, (), warnings, jobs.config_hash, jobs.counts)
        self.jobs = jobs
        self.store.states.note_config(jobs.config_hash)
        if self.shared is not None and not self.fence:
            self.engine.board.jobs = self.everything(jobs)
            return
        await self._sync(jobs, lost=lost)
        if len(jobs.jobs) >= MANY_JOBS:
            gc.freeze()
            gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION)
        if not recover:
            return
        await self.engine.recover()
        if first:
            self._miss_documents()
            await self.engine.forget_removed()
            self.commands.sweep({run.id for state in self.states.all().values() for run in state.runs})

    def _hidden_by(self, jobs: JobSet) -> tuple[str, ...]:
        """Agents that somebody registered, and that a file speaks for now: their owners would wonder."""
        hidden = sorted(self.registry.ids & jobs.jobs.keys()) if self.registry is not None else []
        if not hidden:
            return ()
        names = [job_id.removeprefix(AGENT_PREFIX) for job_id in hidden[:SHOWN]]
        self.observers(Trouble(self.clock.now(), "agents_hidden", {"agents": names, "count": len(hidden)}))
        more = f" and {len(hidden) - SHOWN} more" if len(hidden) > SHOWN else ""
        return (
            f"{len(hidden)} agents that were registered stand in a file now, which counts: {', '.join(names)}{more}",
        )

    def _miss_documents(self) -> None:
        """Agents that ran, and that neither a file nor a document knows, in a directory whose documents are new: their
        file was emptied or taken away. Said for as long as we run."""
        jobs = self.engine.board.jobs
        gone = [id for id in self.states.all() if id.startswith(AGENT_PREFIX) and id not in jobs]
        if self.documents_begun and gone:
            self.documents_lost = True
            text = f"scheduler-specs.db was missing or empty: {len(gone)} agents that ran are registered no more"
            self.config.warnings = (*self.config.warnings, f"{text}; restore it from a backup, or register them again")
            self.observers(Trouble(self.clock.now(), "documents_lost", {"agents": len(gone)}))

    def begin_term(self, fence: int, executors: Executors | None = None) -> None:
        """Another engine works from now on; 0: none does, this one only shows what is known."""
        self.engine, self.registry = self.make(fence, executors or self.local)
        self.control = Control(self.engine)
        self.fence = fence

    @property
    def states(self) -> States:
        return self.store.states if self.shared is None else self.shared.states

    @property
    def journal(self) -> Journal:
        return self.store.journal if self.shared is None else self.shared.journal

    @property
    def work(self) -> "Work":
        """What the process does all the time."""
        return self.engine if self.cluster is None else self.cluster

    def _state_lost(self) -> bool:
        """What is in this directory says nothing of what several instances share."""
        return self.shared is None and self.store.opened.condition is Condition.LOST

    def everything(self, jobs: JobSet) -> dict[str, Job]:
        every = {**(self.registry.jobs() if self.registry is not None else {}), **jobs.jobs}
        back = self.shared.held_back if self.shared is not None else {}
        return {id: job for id, job in every.items() if id not in back} if back else every

    async def _sync(self, jobs: JobSet, *, lost: bool) -> None:
        """Files' jobs over those that the API brought."""
        if self.registry is None:
            await self.engine.sync(self.everything(jobs), jobs.config_hash[:12], lost=lost)
            return
        async with self.registry.changing:
            await self.engine.sync(self.everything(jobs), jobs.config_hash[:12], lost=lost)

    @property
    def problems(self) -> tuple[str, ...]:
        """What on disk is refused now."""
        pins = self.pins.problem if self.pins is not None else ""
        return (*self.config.problems, pins) if pins else self.config.problems

    @property
    def uptime_s(self) -> float:
        return (self.clock.elapsed() - self.began) / SECOND

    def health(self) -> Health:
        now = self.clock.now()
        vitals = Vitals(
            now=now,
            uptime_s=self.uptime_s,
            tick=self.engine.bounds.nap,
            last_tick=self.work.last_tick or None,
            config_loaded=self.config.loaded,
            config_valid=not self.problems,
            state_writable=not self.engine.board.write_error,
            state_saved=not (self.store.states.snapshot_error or (self.registry is not None and self.registry.trouble)),
            state_origin=self._origin(),
            clock_sane=now >= SANE_CLOCK,
            attestations=self.metrics.attestations.view(now),
            cluster=None if self.cluster is None else self.cluster.condition(),
        )
        return assess(self.engine.board.jobs.values(), self.states.all(), vitals)

    def _origin(self) -> str:
        """Of what was there at start: states, and documents."""
        if self.documents_lost:
            return Condition.LOST.value
        condition = Condition.LOADED if self.shared is not None else self.store.opened.condition
        return "found" if condition is Condition.LOADED else condition.value

    async def close(self) -> None:
        try:
            await self.cycles.close()
            if self.shared is not None:
                await self.shared.close()
            await self.store.close()
        finally:
            if self.registry is not None:
                self.registry.close()
            self.commands.close()
            self.clock.close()
