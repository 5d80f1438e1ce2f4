"""The composition root: Settings -> everything wired. The only module that knows the concrete classes."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from socket import gethostname

from vmsh_scheduler import __version__
from vmsh_scheduler.app import App, Executors, Observers, Shared
from vmsh_scheduler.clock import SystemClock, boot_id
from vmsh_scheduler.cycles import Cycles
from vmsh_scheduler.domain.action import Callback, Command
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.bounds import Bounds, Pool
from vmsh_scheduler.engine.carry import Identity
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.engine.engine import Engine, Stores
from vmsh_scheduler.errors import Busy, StateUnreadable
from vmsh_scheduler.executors.command import CommandExecutor
from vmsh_scheduler.executors.environment import KILL_SWITCH
from vmsh_scheduler.first_tick import FirstTick
from vmsh_scheduler.forwarding import FarRegistry
from vmsh_scheduler.observe.logs import LogHandler, LogOptions, open_log, under_journald
from vmsh_scheduler.observe.metrics import Metrics
from vmsh_scheduler.observe.redact import Redactor
from vmsh_scheduler.originals import Shown
from vmsh_scheduler.ports import Specs, States, Subjects
from vmsh_scheduler.registered import cycle_timeout
from vmsh_scheduler.registry import Registry, Rules
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.agents import POOL as AGENTS
from vmsh_scheduler.sources.subjects import BatchSubjects
from vmsh_scheduler.sources.watch import ConfigWatch
from vmsh_scheduler.stores.local.agenda import HeapAgenda
from vmsh_scheduler.stores.local.load import Condition
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.stores.local.specs import open_specs
from vmsh_scheduler.stores.local.store import LocalStore, open_store
from vmsh_scheduler.tools import KillSwitch, Tools


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


@dataclass(frozen=True, slots=True)
class _Maker:
    """App.make."""

    settings: Settings
    clock: SystemClock
    observers: Observers
    cycles: Cycles
    subjects: Subjects
    identity: Identity
    bounds: Bounds
    states: States
    specs: Specs | None
    shown: Shown
    several: bool

    def __call__(self, fence: int, executors: Executors) -> tuple[Engine, Registry | None]:
        engine = Engine(
            Stores(self.states, HeapAgenda()),
            executors,
            self.subjects,
            self.clock,
            self.observers,
            identity=replace(self.identity, fence=fence),
            bounds=self.bounds,
        )
        if self.specs is None:
            return engine, None
        kind = FarRegistry if self.several and not fence else Registry
        self.shown.registry = kind(self.specs, engine, _rules(self.settings, self.cycles))
        return engine, self.shown.registry


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
    told = environ if settings.anchor_write_enabled else {**environ, KILL_SWITCH: "0"}
    commands = CommandExecutor(store.directory.path / "runs", clock, told, boot, mask=redactor.mask)
    commands.prepare(lease.fence)
    metrics = Metrics(version=__version__, python=sys.version.split()[0])
    observers.observers.append(metrics.observe)
    cycles = Cycles(settings.sections, clock)
    observers.observers.append(cycles.metrics.observe)
    local: Executors = {Command: commands, Callback: cycles.executor}
    shared, shown = _shared(settings, clock, cycles)
    specs, begun = _documents(settings, store, shared)
    make = _Maker(
        settings,
        clock,
        observers,
        cycles,
        _subjects(settings, Tools(commands, clock, settings), observers, clock),
        Identity(0, boot, gethostname()),
        _bounds(settings, environ),
        store.states if shared is None else shared.states,
        specs,
        shown,
        several=shared is not None,
    )
    fence = lease.fence if shared is None else 0
    engine, registry = make(fence, local)
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
        registry,
        started_at := clock.now(),
        clock.elapsed(),
        fence,
        FirstTick(started_at, settings.sections["agents.tick_ms"]),
        make,
        local,
        shared=shared,
        documents_begun=begun,
    )


def _documents(settings: Settings, store: LocalStore, shared: Shared | None) -> tuple[Specs | None, bool]:
    """None while the API is off; whether their file is new. Raises StateUnreadable."""
    if not settings.api_is_on:
        return None, False
    if shared is not None:
        return shared.specs, False
    specs = open_specs(store.directory)
    return specs, specs.fresh


def _shared(settings: Settings, clock: SystemClock, cycles: Cycles) -> "tuple[Shared | None, Shown]":
    """None: this is the only instance. Raises ConfigError."""
    shown = Shown()
    if not settings.is_shared:
        return None, shown
    from vmsh_scheduler.redis_settings import options, shape
    from vmsh_scheduler.stores.redis.store import open_redis

    sections = settings.sections
    return open_redis(options(sections), shape(sections, cycles.instance, settings.retention_rows), clock, shown), shown


def _bounds(settings: Settings, environ: Mapping[str, str]) -> Bounds:
    agents = Pool(settings.sections["agents.concurrency"], settings.sections["agents.queue"])
    return Bounds(settings.concurrency, {AGENTS: agents}, longest_nap(settings, environ))


def _rules(settings: Settings, cycles: Cycles) -> Rules:
    return Rules(
        settings.sections["agents.max"],
        settings.sections["agents.max_per_user"],
        cycle_timeout(settings.sections),
        cycles.url_problem,
    )


def _subjects(settings: Settings, tools: Tools, observers: Observers, clock: SystemClock) -> Subjects:
    if not settings.anchor_write_enabled:
        return KillSwitch()
    return BatchSubjects(clock, tools, observers)


def longest_nap(settings: Settings, environ: Mapping[str, str]) -> Millis:
    """The least of the configured ticks and half of systemd's watchdog (decision 7)."""
    watchdog = environ.get("WATCHDOG_USEC", "")
    half = int(watchdog) // 2000 if watchdog.isascii() and watchdog.isdigit() and int(watchdog) else settings.tick_ms
    return max(1, min(settings.tick_ms, half))
