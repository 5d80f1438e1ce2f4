"""The state on disk and the configuration, read only: what `status` and its kin show without a daemon."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmsh_scheduler.answers import explain, find_job, history
from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.health import Vitals, assess
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.domain.views import agents_view, job_view, next_view
from vmsh_scheduler.errors import ConfigError, StateUnreadable
from vmsh_scheduler.registered import registered_jobs
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.watch import ConfigWatch
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.load import Condition, Opened, peek
from vmsh_scheduler.wallclock import wall_clock

if TYPE_CHECKING:  # `status` needs neither asyncio nor SQLite, which these bring
    from vmsh_scheduler.api.operations import HistoryQuery, Json
    from vmsh_scheduler.ports import Journal


class DiskView:
    """Answers as AppOperations does, from what lies there now."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.now: Millis = wall_clock()
        self._settings = settings
        self._problems: tuple[str, ...] = ()
        self.jobset = self._compile(environ)
        self._opened = _read(settings)
        self._remarks: tuple[str, ...] = ()
        self.jobs: Mapping[str, Job] = {**self._registered(), **self.jobset.jobs}

    def valid_jobs(self) -> Mapping[str, Job]:
        """Raises ConfigError if there is a problem."""
        if self._problems:
            raise ConfigError("the configuration is invalid", problems=self._problems)
        return self.jobs

    def state(self, job_id: str) -> JobState:
        return self._opened.states.get(job_id) or JobState()

    def status(self) -> "Json":
        rows = [job_view(job, self._planned(job, self.state(id)), self.now) for id, job in self.jobs.items()]
        return {
            "now": self.now,
            "source": "no daemon is running (from disk)",
            "status": self._condition(),
            "config_hash": self.jobset.config_hash,
            "findings": [*self._problems, *self.jobset.warnings, *self._remarks, *self._opened.findings],
            "fence": self._opened.fence,
            "agents": agents_view(rows),
            "jobs": rows,
        }

    def _planned(self, job: Job, state: JobState) -> JobState:
        """What happened as it is written; when it goes on as a start would have it, which `next` and `why` tell too."""
        begun = plan.admit(job, state, self.now)
        return state._replace(upcoming=begun.upcoming, ready_at=begun.ready_at)

    def next(self, job: str, limit: int) -> "Json":
        jobs = {job: find_job(self.jobs, job)} if job else self.jobs
        return {"now": self.now, "slots": next_view(jobs, self._opened.states, self.now, limit)}

    def why(self, job: str, at: Millis | None) -> "Json":
        found = find_job(self.valid_jobs(), job)
        return {"now": self.now, **explain(found, self.state(job), self.now, at, self._journal)}

    def history(self, query: "HistoryQuery") -> "Json":
        return history(self.jobs, self._journal, query)

    def verify_history(self, job: str) -> list[str]:
        return self._journal.verify(job)

    @property
    def _journal(self) -> "Journal":
        if not self._settings.state_path.parent.exists():
            from vmsh_scheduler.stores.memory import MemoryJournal

            return MemoryJournal()
        from vmsh_scheduler.stores.local.journal import JournalReader

        return JournalReader(open_directory(self._settings.state_path, create=False))

    def _compile(self, environ: Mapping[str, str]) -> JobSet:
        """A bad configuration is shown, and does not keep people from seeing the state."""
        try:
            reading = ConfigWatch(self._settings.config_paths).read_now()
            return compile_files(reading, self._settings, environ)
        except ConfigError as error:
            self._problems = error.problems
            return JobSet({}, "", ())

    def _registered(self) -> Mapping[str, Job]:
        """Over the API; while it is off they are not woken, and are no jobs."""
        if not self._settings.state_path.parent.exists():
            return {}
        try:
            found = registered_jobs(self._settings, open_directory(self._settings.state_path, create=False))
        except StateUnreadable as error:
            self._remarks = (f"registered agents are not shown: {error.message}",)
            return {}
        if found and not self._settings.api_is_on:
            self._remarks = (f"{len(found)} agents were registered over the API, which is off here: not shown",)
            return {}
        return found

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


def _read(settings: Settings) -> Opened:
    """Raises Denied, StateUnreadable. A directory that does not exist yet is a fresh start, and is not made."""
    if not settings.state_path.parent.exists():
        return Opened({}, Condition.FRESH)
    return peek(open_directory(settings.state_path, create=False))
