"""The composition root: Settings -> everything wired. The only module that knows the concrete classes."""

import gc
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from socket import gethostname

from vmsh_scheduler import __version__
from vmsh_scheduler.clock import SystemClock, boot_id
from vmsh_scheduler.cycles import Cycles
from vmsh_scheduler.domain.action import Callback, Command
from vmsh_scheduler.domain.events import Event
from vmsh_scheduler.domain.health import Health, Vitals, assess
from vmsh_scheduler.domain.job import Job, Policy
from vmsh_scheduler.domain.retry import FlatRetry
from vmsh_scheduler.domain.run import Cause, Found, Nothing, Run, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import MINUTE, SANE_CLOCK, SECOND, Manual, Millis
from vmsh_scheduler.engine.bounds import Bounds, Pool
from vmsh_scheduler.engine.carry import Identity
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.engine.engine import Engine, Stores
from vmsh_scheduler.errors import Busy, StateUnreadable
from vmsh_scheduler.executors.command import CommandExecutor
from vmsh_scheduler.observe.logs import LogHandler, LogOptions, open_log, under_journald
from vmsh_scheduler.observe.metrics import Metrics
from vmsh_scheduler.observe.redact import Redactor
from vmsh_scheduler.ports import Observer, Subjects
from vmsh_scheduler.registry import Registry, Rules
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.agents import POOL as AGENTS
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.subjects import BatchSubjects, ToolFailed
from vmsh_scheduler.sources.watch import ConfigWatch, Reading
from vmsh_scheduler.stores.local.agenda import HeapAgenda
from vmsh_scheduler.stores.local.database import Retention
from vmsh_scheduler.stores.local.load import Condition
from vmsh_scheduler.stores.local.specs import open_specs
from vmsh_scheduler.stores.local.store import LocalStore, open_store

TOOL_TIMEOUT: Millis = 10 * MINUTE

MANY_JOBS = 1_000
"""From so many on, the cycle collector is told to leave them alone: looking through 25,000 stops the loop for 150 ms,
again and again, and there are no cycles in them."""
FULL_COLLECTION = 100
"""Their states are made anew with every run, so that it comes back to those: ten times less often than by default."""

Compiler = Callable[[Reading, Settings, Mapping[str, str]], Awaitable[JobSet]]


async def compile_here(reading: Reading, settings: Settings, environ: Mapping[str, str]) -> JobSet:
    """For programs that have nothing else to do meanwhile."""
    return compile_files(reading, settings, environ)


class Observers:
    """Fans events out; one that fails does not cost the others theirs."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = list(observers)

    def __call__(self, event: Event) -> None:
        for observer in self.observers:
            observer(event)


class Tools:
    """Our own anchor programs, run under the same supervision as every command."""

    def __init__(self, executor: CommandExecutor, clock: SystemClock, settings: Settings) -> None:
        self._executor = executor
        self._clock = clock
        self._settings = settings
        self._count = 0

    async def __call__(self, verb: str, document: Mapping[str, object]) -> Mapping[str, object]:
        """The tool's result. Raises ToolFailed with its last words."""
        self._count += 1
        now = self._clock.now()
        run = Run(f"tool-{self._count:x}", f"_system/{verb}", now, Cause.MANUAL, 1, 0, now, now + TOOL_TIMEOUT)
        outcome = await self._executor.run(self._job(verb, document), run)
        if outcome.status is not Status.OK:
            raise ToolFailed(outcome.message or f"{verb} failed")
        return outcome.result

    def _job(self, verb: str, document: Mapping[str, object]) -> Job:
        argv = (sys.executable, "-P", "-m", "vmsh_scheduler.anchors", verb)
        policy = Policy(retry=FlatRetry(SECOND), timeout=TOOL_TIMEOUT, misfire_grace=0)
        payload = {"root": str(self._settings.root), "keys": str(self._settings.keys_dir), **document}
        action = Command(argv, payload=payload)
        return Job(f"_system/{verb}", verb, verb, Manual(), action, policy, revision="")


class KillSwitch:
    """ANCHOR_WRITE_ENABLED=0: every slot is skipped, with that reason."""

    async def find(self, job: Job, state: JobState) -> Found | Nothing:
        return Nothing("kill_switch")


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
    control: Control
    commands: CommandExecutor
    metrics: Metrics
    observers: Observers
    watch: ConfigWatch
    cycles: Cycles
    registry: Registry | None
    """None: the API is off."""
    started_at: Millis
    fence: int
    config: ConfigStatus = field(default_factory=ConfigStatus)
    compiler: Compiler = compile_here
    reload: Callable[[], object] | None = None
    """Set by the daemon: read the configuration now."""

    async def compile(self, reading: Reading) -> JobSet:
        """Raises ConfigError with every problem of every file."""
        jobs = await self.compiler(reading, self.settings, self.environ)
        return jobs._replace(warnings=(*reading.warnings, *jobs.warnings))

    async def put_in_force(self, jobs: JobSet, *, first: bool = False, recover: bool = True) -> None:
        """The engine follows this job set from now on. `recover=False`: runs that are open are left alone."""
        lost = first and self.store.opened.condition is Condition.LOST and self.settings.on_state_loss == "wait"
        self.config = ConfigStatus(True, (), jobs.warnings, jobs.config_hash, jobs.counts)
        self.store.states.note_config(jobs.config_hash)
        await self._sync(jobs, lost=lost)
        if len(jobs.jobs) >= MANY_JOBS:
            gc.freeze()
            gc.set_threshold(*gc.get_threshold()[:2], FULL_COLLECTION)
        if not recover:
            return
        await self.engine.recover()
        if first:
            await self.engine.forget_removed()
            self.commands.sweep({run.id for state in self.store.states.all().values() for run in state.runs})

    async def _sync(self, jobs: JobSet, *, lost: bool) -> None:
        """Files' jobs over those that the API brought."""
        if self.registry is None:
            await self.engine.sync(jobs.jobs, jobs.config_hash[:12], lost=lost)
            return
        async with self.registry.changing:
            everything = {**self.registry.jobs(), **jobs.jobs}
            await self.engine.sync(everything, jobs.config_hash[:12], lost=lost)

    def health(self) -> Health:
        now = self.clock.now()
        vitals = Vitals(
            now=now,
            uptime_s=(now - self.started_at) / SECOND,
            tick=self.engine.bounds.nap,
            last_tick=self.engine.last_tick or None,
            config_loaded=self.config.loaded,
            config_valid=not self.config.problems,
            state_writable=not self.engine.board.write_error,
            state_saved=not self.store.states.snapshot_error,
            state_origin=_origin(self.store.opened.condition),
            clock_sane=now >= SANE_CLOCK,
        )
        return assess(self.engine.board.jobs.values(), self.store.states.all(), vitals)

    async def close(self) -> None:
        try:
            await self.cycles.close()
            await self.store.close()
        finally:
            if self.registry is not None:
                self.registry.close()
            self.commands.close()
            self.clock.close()


def open_logging(settings: Settings, environ: Mapping[str, str], redactor: Redactor) -> LogHandler:
    """Lines on stderr; the caller closes it last."""
    fd = sys.stderr.fileno()
    options = LogOptions(settings.log_level, settings.log_format, __version__, under_journald(environ, fd))
    return open_log(options, fd, redactor)


async def open_app(
    settings: Settings,
    environ: Mapping[str, str],
    observers: Observers,
    redactor: Redactor,
    *,
    command: str,
    waits: bool = False,
) -> App:
    """Raises Busy, Denied, CannotCreate, StateUnreadable, StateWriteFailed; then nothing is left open.

    `waits`: whoever opens can wait a period; all others refuse lost state, and leave it lost (reliability S12)."""
    clock = SystemClock()
    keep = Retention(settings.retention_rows, settings.retention_days, settings.retention_bytes)
    store = open_store(settings.state_path, clock, command=command, keep=keep)
    try:
        if not waits:
            _refuse_lost(store, settings)
        return await _wire(settings, environ, observers, redactor, store=store, clock=clock)
    except BaseException:
        await store.close()
        clock.close()
        raise


def _refuse_lost(store: LocalStore, settings: Settings) -> None:
    if store.opened.condition is Condition.LOST and settings.on_state_loss == "wait":
        raise StateUnreadable(
            "; ".join(store.opened.findings) or "the state is lost",
            hint="start `vmsh-scheduler run`, which waits one period per cadence, or set on_state_loss: run",
        )


async def _wire(
    settings: Settings,
    environ: Mapping[str, str],
    observers: Observers,
    redactor: Redactor,
    *,
    store: LocalStore,
    clock: SystemClock,
) -> App:
    lease = await store.leases.acquire("scheduler")
    if lease is None:
        raise Busy(f"{store.directory.path} is in use", hint="one daemon per state directory")
    boot = boot_id()
    commands = CommandExecutor(store.directory.path / "runs", clock, environ, boot, mask=redactor.mask)
    commands.prepare()
    metrics = Metrics(version=__version__, python=sys.version.split()[0])
    observers.observers.append(metrics.observe)
    cycles = Cycles(settings.sections, clock)
    observers.observers.append(cycles.metrics.observe)
    engine = Engine(
        Stores(store.states, HeapAgenda()),
        {Command: commands, Callback: cycles.executor},
        _subjects(settings, Tools(commands, clock, settings), observers, clock),
        clock,
        observers,
        identity=Identity(lease.fence, boot, gethostname()),
        bounds=_bounds(settings, environ),
    )
    return App(
        settings,
        environ,
        clock,
        store,
        engine,
        Control(engine),
        commands,
        metrics,
        observers,
        ConfigWatch(settings.config_paths),
        cycles,
        _registry(settings, store, engine, cycles),
        clock.now(),
        lease.fence,
    )


def _bounds(settings: Settings, environ: Mapping[str, str]) -> Bounds:
    agents = Pool(settings.sections["agents.concurrency"], settings.sections["agents.queue"])
    return Bounds(settings.concurrency, {AGENTS: agents}, longest_nap(settings, environ))


def _registry(settings: Settings, store: LocalStore, engine: Engine, cycles: Cycles) -> Registry | None:
    """Raises StateUnreadable. Off, what was registered stays where it is and is not woken."""
    if not settings.api_is_on:
        return None
    timeout = settings.sections["market.timeout_ms"] + settings.sections["callbacks.timeout_ms"]
    rules = Rules(settings.sections["agents.max"], timeout, cycles.url_problem)
    return Registry(open_specs(store.directory), engine, rules)


def _subjects(settings: Settings, tools: Tools, observers: Observers, clock: SystemClock) -> Subjects:
    if not settings.anchor_write_enabled:
        return KillSwitch()
    return BatchSubjects(clock, tools, observers)


def longest_nap(settings: Settings, environ: Mapping[str, str]) -> Millis:
    """The least of the configured ticks and half of systemd's watchdog (decision 7)."""
    watchdog = environ.get("WATCHDOG_USEC", "")
    half = int(watchdog) // 2000 if watchdog.isascii() and watchdog.isdigit() and int(watchdog) else settings.tick_ms
    return max(1, min(settings.tick_ms, half))


def _origin(condition: Condition) -> str:
    return "found" if condition is Condition.LOADED else condition.value
