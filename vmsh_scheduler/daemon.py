"""The process: signals, service manager, reload, upkeep, graceful stop. What it runs is App's."""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any, Protocol

from vmsh_scheduler.api.tcp_socket import Address, bind_tcp
from vmsh_scheduler.app import App, Facts, Observers
from vmsh_scheduler.domain.events import Trouble
from vmsh_scheduler.domain.secrets import secret_values
from vmsh_scheduler.domain.trigger import MINUTE, SECOND, Millis
from vmsh_scheduler.errors import Busy, Exit, SchedulerError
from vmsh_scheduler.facts import Alone
from vmsh_scheduler.observe.log_events import LogObserver
from vmsh_scheduler.observe.logs import FATAL, SERVER_STARTED, STARTING, LogHandler, say
from vmsh_scheduler.observe.redact import Redactor
from vmsh_scheduler.observe.systemd import Notifier
from vmsh_scheduler.reload import Reloader
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.signals import Signals
from vmsh_scheduler.sources.catalog import SettingsRequest
from vmsh_scheduler.sources.child import Child, opened
from vmsh_scheduler.sources.compiler import ChildCompiler
from vmsh_scheduler.threads import start_threads
from vmsh_scheduler.wiring import open_app, open_logging

LOOK_EVERY_S = 1.0
YOUNG = 5_000
"""Objects made before they are searched for garbage: a run makes a hundred, and next to none in cycles."""
EXTRA_STOP: Millis = 15 * SECOND
STATE_FINDING = "state finding"
API_STARTED = "api started"

_LOG = logging.getLogger("vmsh_scheduler")


class Closing(Protocol):
    """Something that accepts connections."""

    async def close(self) -> None: ...


class Daemon:
    """Runs until a signal, or until something that must not end ends."""

    def __init__(self, app: App, notifier: Notifier) -> None:
        self.app = app
        self.notifier = notifier
        self.reloader = Reloader(app)
        self.stop = asyncio.Event()
        self.hurried = False
        self._reload_wanted = asyncio.Event()
        self._draining = False
        self._fed: Millis = 0
        self._listeners: list[Closing] = []
        self._looking: asyncio.Future[None] | None = None
        self._troubles = list(app.store.troubles())
        self._quiet_until: Millis = 0

    async def run(self) -> Exit:
        """Start, serve, drain; the exit code says whether the drain was clean."""
        loop = asyncio.get_running_loop()
        signals = Signals(self._on_signal)
        signals.install(loop)
        settings = self.app.settings
        self._read_pins()
        self._address = Address(settings.metrics_host, settings.metrics_port)
        self._socket = bind_tcp(self._address)
        self._api_socket = self._bound_api()
        try:
            await self.reloader.first()
            await self.app.first_tick.await_it(self.app.engine.board)
            gc.freeze()  # modules and jobs stay: no search for garbage needs to go through them
            gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
            gc.enable()
            await self._serve()
            return Exit.FAILED if self.hurried else Exit.OK
        finally:
            self._socket.close()
            if self._api_socket is not None:
                self._api_socket.close()
            signals.remove(loop)

    def _read_pins(self) -> None:
        """Raises ConfigError."""
        if self.app.settings.api_is_on:
            from vmsh_scheduler.pins import open_pins

            self.app.pins = open_pins(self.app.settings, self.app.clock, self.app.observers)

    def _bound_api(self) -> socket.socket | None:
        """Taken before anything starts; None: the API is off. Raises Unavailable."""
        settings = self.app.settings
        if not settings.api_is_on:
            return None
        try:
            return bind_tcp(Address(settings.sections["api.host"], settings.sections["api.port"]))
        except BaseException:
            self._socket.close()
            raise

    async def _serve(self) -> None:
        engine = asyncio.ensure_future(self.app.work.run(self.stop))
        try:
            await self._started(engine)
            tasks = [engine, *map(asyncio.ensure_future, self._eternal())]
            await self._until_stopped(tasks)
        finally:
            self.stop.set()
            await self._drain()
            await self._close_listeners()
            engine.cancel()
            with suppress(asyncio.CancelledError):
                await engine

    def _eternal(self) -> tuple[Coroutine[None, None, None], ...]:
        return self._look_after(), self._reload_on_demand()

    async def _started(self, engine: "asyncio.Future[None]") -> None:
        """The first slots start before anything else is loaded."""
        await asyncio.sleep(0.05)
        if engine.done():
            engine.result()
        await self._listen()
        if self.notifier.active:
            self.notifier.ready(self._summary())

    async def _listen(self) -> None:
        from vmsh_scheduler.api.server import listen_control, listen_metrics
        from vmsh_scheduler.operations import AppOperations, AppProbes

        settings = self.app.settings
        control = await listen_control(str(settings.state_path.parent), AppOperations(self.app, self.reloader))
        self._listeners.append(control)
        listener = await listen_metrics(self._address, AppProbes(self.app), sock=self._socket)
        self._listeners.append(listener)
        say(_LOG, logging.INFO, SERVER_STARTED, host=settings.metrics_host, port=listener.port)
        if self._api_socket is not None:
            # beside the loop: 400 ms of imports must not be felt by a start that comes due
            door = await asyncio.to_thread(import_module, "vmsh_scheduler.door")
            api = await door.open_door(self.app, self._facts(), self._api_socket)
            self._listeners.append(api)
            say(_LOG, logging.INFO, API_STARTED, host=settings.sections["api.host"], port=api.port)

    def _facts(self) -> Facts:
        cluster = self.app.cluster
        return Alone(self.app) if cluster is None else cluster.facts

    async def _until_stopped(self, tasks: Sequence["asyncio.Future[None]"]) -> None:
        """A task that ends by itself is a defect or a fault: it stops the process loudly."""
        stopped = asyncio.ensure_future(self.stop.wait())
        watched: set[asyncio.Future[Any]] = {stopped, *tasks}
        try:
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done() and not self.stop.is_set():
                    task.result()
        finally:
            stopped.cancel()
            for task in tasks[1:]:
                task.cancel()
            await asyncio.gather(*tasks[1:], return_exceptions=True)

    async def _look_after(self) -> None:
        """Once a second: the files, the lock, the service manager, orphans."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._look_at_files()
            self._look_at_store()
            self._check_lock()
            self._feed_watchdog()
            if os.getpid() == 1:
                self.app.commands.reap_orphans()

    def _look_at_files(self) -> None:
        """A reload takes as long as it takes: the lock and the watchdog do not wait for it."""
        if self._looking is not None and not self._looking.done():
            return
        if self._looking is not None:
            self._looking.result()
        self._looking = asyncio.ensure_future(self.reloader.poll())

    def _look_at_store(self) -> None:
        """Snapshots and journal rows that cannot be written stop nothing, so nobody else says it. At most once a
        minute: the text of one trouble may change with every attempt."""
        troubles, now = self.app.store.troubles(), self.app.clock.elapsed()
        fresh = [trouble for trouble in troubles if trouble not in self._troubles]
        self._troubles = [trouble for trouble in self._troubles if trouble in troubles]
        if not fresh or now < self._quiet_until:
            return
        for trouble in fresh:
            say(_LOG, logging.WARNING, STATE_FINDING, finding=trouble)
        self._troubles += fresh
        self._quiet_until = now + MINUTE

    def _check_lock(self) -> None:
        if self.app.store.lock.check() and not self.app.store.lock.mend():
            raise Busy(
                f"the state directory {self.app.settings.state_path.parent} was moved or replaced",
                hint="stopping, so that two daemons never work on one state",
            )

    def _feed_watchdog(self) -> None:
        """Only if the engine advanced: a live loop over a dead engine is no life."""
        if self.notifier.active and self.app.work.last_tick != self._fed:
            self._fed = self.app.work.last_tick
            self.notifier.watchdog()
            self.notifier.status(self._summary())

    def _summary(self) -> str:
        body = self.app.health().body
        namespaces = body["namespaces"]
        counts: dict[str, int] = {}
        if isinstance(namespaces, Mapping):
            for namespace in namespaces.values():
                counts[namespace["status"]] = counts.get(namespace["status"], 0) + 1
        states = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "none"
        return f"{body['status']}: namespaces {states}; {self.app.work.running} running"

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload_wanted.set()
        elif self._draining or self.stop.is_set():
            self._hurry()
        else:
            say(_LOG, logging.INFO, "stopping", signal=signal.Signals(number).name)
            self.stop.set()
            self.app.work.wake()

    def _hurry(self) -> None:
        if not self.hurried:
            say(_LOG, logging.WARNING, "hurrying", running=self.app.work.running)
        self.hurried = True
        self.app.work.hurry()

    async def _reload_on_demand(self) -> None:
        """SIGHUPs that arrive together are one reload; at most one a second."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            self.notifier.reloading(time.monotonic_ns() // 1000)
            with suppress(Exception):  # said and counted by the reloader; the last good configuration stays
                await self.reloader.now()
            if self.notifier.active:
                self.notifier.ready(self._summary())
            await asyncio.sleep(LOOK_EVERY_S)

    async def _drain(self) -> None:
        """Start nothing more; wait for what runs, each by its own deadline and all by `drain`; then hurry."""
        self._draining = True
        work = self.app.work
        limit = self.app.settings.drain_ms
        self.notifier.stopping(f"waiting for {work.running} runs")
        if work.running:
            say(_LOG, logging.INFO, "draining", running=work.running, runs=self._open_runs(), limit_ms=limit)
            self.notifier.extend_timeout(limit + EXTRA_STOP)
        began = self.app.clock.elapsed()
        if not await work.drain(limit):
            self.hurried = True
        took = self.app.clock.elapsed() - began
        say(_LOG, logging.INFO, "stopped", forced=self.hurried, drained_ms=took)

    def _open_runs(self) -> list[str]:
        states = self.app.states.all().values()
        return [f"{run.job_id} ({run.id})" for state in states for run in state.runs][:20]

    async def _close_listeners(self) -> None:
        for listener in self._listeners:
            await listener.close()


def run(child: Child, asked: SettingsRequest) -> Exit:
    """The whole life of a daemon. `child` reads the configuration, settings included, and is ended.

    Raises SchedulerError kinds for what keeps it from starting."""
    compiler = ChildCompiler(child)
    try:
        return _run(_settings(child, asked), asked.environ, compiler)
    finally:
        compiler.close()


def _settings(child: Child, asked: SettingsRequest) -> Settings:
    child.ask(asked)
    _, settings = opened(child.frame())
    assert isinstance(settings, Settings)  # noqa: S101  what the child answers to a SettingsRequest
    return settings


def _secrets_of_api(settings: Settings) -> list[str]:
    if not settings.api_is_on:
        return []
    from vmsh_scheduler.api_settings import secret_tokens

    return secret_tokens(settings.sections)


def _run(settings: Settings, environ: Mapping[str, str], compiler: ChildCompiler) -> Exit:
    redactor = Redactor([*secret_values(environ), *_secrets_of_api(settings)])
    handler = open_logging(settings, environ, redactor)
    try:
        return asyncio.run(_main(settings, environ, redactor, handler, compiler))
    except SchedulerError as error:
        say(_LOG, logging.CRITICAL, FATAL, err=str(error), code=error.code)
        raise
    except Exception as error:
        # a defect of ours: the trace goes to the log, and whoever supervises us starts us again
        _LOG.critical(FATAL, exc_info=error)
        return Exit.FAILED
    finally:
        handler.close()


async def _main(
    settings: Settings,
    environ: Mapping[str, str],
    redactor: Redactor,
    handler: LogHandler,
    compiler: ChildCompiler,
) -> Exit:
    observers = Observers(LogObserver(_LOG, handler.flush))
    start_threads()
    settings = await _with_or_without_redis(settings)
    app = await open_app(settings, environ, observers, redactor, command="vmsh-scheduler run", waits=True)
    app.compiler = compiler
    compiler.in_force = lambda: app.engine.board.jobs
    if app.shared is not None:
        from vmsh_scheduler.cluster import open_cluster
        from vmsh_scheduler.redis_settings import warnings
        from vmsh_scheduler.stores.redis.store import RedisStore

        assert isinstance(app.shared, RedisStore)  # noqa: S101  the one store that is shared
        app.cluster = open_cluster(app, app.shared)
        for warning in warnings(settings.sections):
            observers(Trouble(app.clock.now(), "setting", {"why": warning}))
    say(_LOG, logging.INFO, STARTING, pid=os.getpid(), state=str(settings.state_path), fence=app.fence)
    for finding in (*app.store.opened.findings, *filter(None, (app.store.directory.doubt().text,))):
        say(_LOG, logging.WARNING, STATE_FINDING, finding=finding)
    try:
        code = await Daemon(app, Notifier.from_environ(environ)).run()
    except BaseException:
        with suppress(SchedulerError):  # what went wrong first is what has to be read
            await app.close()
        raise
    await app.close()
    return code


async def _with_or_without_redis(settings: Settings) -> Settings:
    """What redis.on_down says, if it does not answer now: wait for it, go on alone until the next start, or end.
    Raises Unavailable."""
    rule = settings.sections.get("redis.on_down")
    if not settings.is_shared or rule == "wait":
        return settings
    from vmsh_scheduler.redis_settings import options
    from vmsh_scheduler.stores.redis.connect import answers

    down = await answers(options(settings.sections))
    if down is None:
        return settings
    if rule == "exit":
        raise down
    say(_LOG, logging.WARNING, "standalone", why=down.message)
    return replace(settings, sections={**settings.sections, "redis.url": ""})
