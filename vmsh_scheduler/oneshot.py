"""Everything that works without a daemon: one tick, looking at the state on disk, changing it under the lock."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from vmsh_scheduler.api.operations import HistoryQuery, Json
from vmsh_scheduler.app import App, Observers, open_app
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.events import Finished
from vmsh_scheduler.domain.health import Vitals, assess
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.domain.views import job_view, next_view
from vmsh_scheduler.errors import ConfigError, StateWriteFailed
from vmsh_scheduler.observe.redact import Redactor
from vmsh_scheduler.operations import AppOperations, explain, find_job, history
from vmsh_scheduler.ports import Journal, Observer
from vmsh_scheduler.reload import Reloader
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.signals import Signals
from vmsh_scheduler.sources.catalog import compile_reading
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.watch import ConfigWatch
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.journal import JournalReader
from vmsh_scheduler.stores.local.load import Condition, Opened, peek
from vmsh_scheduler.stores.memory import MemoryJournal


@dataclass(frozen=True, slots=True)
class TickReport:
    """What one tick did."""

    started: int
    succeeded: int
    failed: int
    unknown: int
    findings: tuple[str, ...]


def tick(settings: Settings, environ: Mapping[str, str], observer: Observer, redactor: Redactor) -> TickReport:
    """Open, sync, run what is due, wait for it, save. Raises Busy beside a daemon, StateUnreadable on lost state,
    StateWriteFailed when something could not be written down: the next start finds what is open."""
    return asyncio.run(_tick(settings, environ, observer, redactor))


async def _tick(settings: Settings, environ: Mapping[str, str], observer: Observer, redactor: Redactor) -> TickReport:
    ends: list[Status] = []

    def count(event: object) -> None:
        if isinstance(event, Finished):
            ends.append(event.execution.outcome.status)

    app = await open_app(settings, environ, Observers(observer, count), redactor, command="vmsh-scheduler tick")
    try:
        app.engine.board.patient = False
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

    async def work() -> Json:
        app = await open_app(settings, environ, Observers(), redactor, command="vmsh-scheduler")
        try:
            reloader = Reloader(app)
            await reloader.first(recover=False)
            return await operation(AppOperations(app, reloader))
        finally:
            await app.close()

    return asyncio.run(work())


class DiskView:
    """The state on disk and the configuration, read only: what `status` and its kin show without a daemon."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        clock = SystemClock()
        self.now: Millis = clock.now()
        clock.close()
        self._settings = settings
        self._problems: tuple[str, ...] = ()
        self.jobset = self._compile(environ)
        self._opened, self._journal = _read(settings)

    @property
    def jobs(self) -> Mapping[str, Job]:
        return self.jobset.jobs

    def valid_jobs(self) -> Mapping[str, Job]:
        """Raises ConfigError if there is a problem."""
        if self._problems:
            raise ConfigError("the configuration is invalid", problems=self._problems)
        return self.jobs

    def state(self, job_id: str) -> JobState:
        return self._opened.states.get(job_id) or JobState()

    def status(self) -> Json:
        return {
            "now": self.now,
            "source": "no daemon is running (from disk)",
            "status": self._condition(),
            "config_hash": self.jobset.config_hash,
            "findings": [*self._problems, *self.jobset.warnings, *self._opened.findings],
            "fence": self._opened.fence,
            "jobs": [job_view(job, self.state(id), self.now) for id, job in self.jobs.items()],
        }

    def next(self, job: str, limit: int) -> Json:
        jobs = {job: find_job(self.jobs, job)} if job else self.jobs
        return {"now": self.now, "slots": next_view(jobs, self._opened.states, self.now, limit)}

    def why(self, job: str, at: Millis | None) -> Json:
        found = find_job(self.valid_jobs(), job)
        return {"now": self.now, **explain(found, self.state(job), self.now, at, self._journal)}

    def history(self, query: HistoryQuery) -> Json:
        return history(self.jobs, self._journal, query)

    def verify_history(self, job: str) -> list[str]:
        return self._journal.verify(job)

    def _compile(self, environ: Mapping[str, str]) -> JobSet:
        """A bad configuration is shown, and does not keep people from seeing the state."""
        try:
            reading = ConfigWatch(self._settings.config_paths).read_now()
            return asyncio.run(compile_reading(reading, self._settings, environ))
        except ConfigError as error:
            self._problems = error.problems
            return JobSet({}, "", ())

    def _condition(self) -> str:
        vitals = Vitals(
            now=self.now,
            uptime_s=0,
            tick=self._settings.tick_ms,
            last_tick=self.now,
            config_loaded=not self._problems,
            state_origin=self._opened.condition.value,
        )
        return assess(self.jobs.values(), self._opened.states, vitals).condition.value


def _read(settings: Settings) -> tuple[Opened, Journal]:
    """Raises Denied, StateUnreadable. A directory that does not exist yet is a fresh start, and is not made."""
    if not settings.state_path.parent.exists():
        return Opened({}, Condition.FRESH), MemoryJournal()
    directory = open_directory(settings.state_path, create=False)
    return peek(directory), JournalReader(directory)
