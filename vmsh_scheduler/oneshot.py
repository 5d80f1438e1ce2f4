"""What is done without a daemon, under the lock: one tick, one change of the state on disk."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from logging import getLogger

from vmsh_scheduler.api.operations import Json
from vmsh_scheduler.app import App, Compiler, Observers, compile_here
from vmsh_scheduler.at_rest import TickReport
from vmsh_scheduler.domain.events import Finished
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.secrets import secret_values
from vmsh_scheduler.errors import StateWriteFailed, Unavailable
from vmsh_scheduler.observe.log_events import LogObserver
from vmsh_scheduler.observe.logs import LOGGER
from vmsh_scheduler.observe.redact import Redactor
from vmsh_scheduler.operations import AppOperations
from vmsh_scheduler.ports import Observer
from vmsh_scheduler.reload import Reloader
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.signals import Signals
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.watch import Reading
from vmsh_scheduler.wiring import open_app, open_logging


def tick(settings: Settings, environ: Mapping[str, str], jobs: JobSet | None = None) -> TickReport:
    """Open, sync, run what is due, wait for it, save. Raises Busy beside a daemon, StateUnreadable on lost state,
    StateWriteFailed when something could not be written down: the next start finds what is open.

    `jobs`: what the files gave a moment ago; taken if they are still the same."""
    refuse_shared(settings)
    redactor = Redactor(secret_values(environ))
    handler = open_logging(settings, environ, redactor)
    try:
        return asyncio.run(_tick(settings, environ, LogObserver(getLogger(LOGGER), handler.flush), redactor, jobs))
    finally:
        handler.close()


async def _tick(
    settings: Settings, environ: Mapping[str, str], observer: Observer, redactor: Redactor, jobs: JobSet | None
) -> TickReport:
    ends: list[Status] = []

    def count(event: object) -> None:
        if isinstance(event, Finished):
            ends.append(event.execution.outcome.status)

    app = await open_app(settings, environ, Observers(observer, count), redactor, command="vmsh-scheduler tick")
    try:
        app.engine.board.patient = False
        if jobs is not None:
            app.compiler = _unless_changed(jobs)
        await Reloader(app).first()
        with _stoppable(app):
            await app.engine.tick()
            await app.engine.until_idle()
        if app.engine.board.write_error:
            raise StateWriteFailed(app.engine.board.write_error)
        failed = sum(status in {Status.FAILED, Status.UNKNOWN} for status in ends)
        return TickReport(len(ends), ends.count(Status.OK), failed, ends.count(Status.UNKNOWN), app.store.troubles())
    finally:
        await app.close()


def _unless_changed(jobs: JobSet) -> Compiler:
    async def compile_again(reading: Reading, settings: Settings, environ: Mapping[str, str]) -> JobSet:
        same = reading.sha256 == jobs.config_hash
        return jobs if same else await compile_here(reading, settings, environ)

    return compile_again


@contextmanager
def _stoppable(app: App) -> Iterator[None]:
    """A signal starts nothing more and ends what runs, politely: commands do not outlive their tick."""
    loop = asyncio.get_running_loop()
    signals = Signals(lambda number: None if number == signal.SIGHUP else app.engine.halt())
    signals.install(loop)
    try:
        yield
    finally:
        signals.remove(loop)


def change(
    settings: Settings,
    environ: Mapping[str, str],
    redactor: Redactor,
    operation: Callable[[AppOperations], Awaitable[Json]],
) -> Json:
    """Do `operation` on the state on disk, under its lock; nothing is started, and no run that goes on is touched."""
    refuse_shared(settings)

    async def work() -> Json:
        app = await open_app(settings, environ, Observers(), redactor, command="vmsh-scheduler")
        try:
            reloader = Reloader(app)
            await reloader.first(recover=False)
            return await operation(AppOperations(app, reloader))
        finally:
            await app.close()

    return asyncio.run(work())


def refuse_shared(settings: Settings) -> None:
    """Raises Unavailable where the state is not on this disk."""
    if settings.is_shared:
        raise Unavailable("the state is in Redis and no daemon runs here", hint="start one, or ask another")
