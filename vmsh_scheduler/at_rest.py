"""Is there anything for a tick to do? Looked at without an engine: cron asks every minute, mostly for nothing, and
such a tick costs half as much and writes no file."""

import fcntl
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import ConfigError, SchedulerError
from vmsh_scheduler.registered import registered_jobs
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.watch import ConfigWatch
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.load import Condition, Opened, load


@dataclass(frozen=True, slots=True)
class TickReport:
    """What one tick did."""

    started: int = 0
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0
    findings: tuple[str, ...] = ()


def compiled(settings: Settings, environ: Mapping[str, str]) -> JobSet | None:
    """None: the files are wrong, which a tick says in its turn."""
    try:
        return compile_files(ConfigWatch(settings.config_paths).read_now(), settings, environ)
    except ConfigError:
        return None


def is_at_rest(settings: Settings, jobs: JobSet, now: Millis) -> bool:
    """False whenever there is any doubt: then a tick finds out, and says what is wrong."""
    try:
        directory = open_directory(settings.state_path, create=False)
        with closing(directory):
            fcntl.flock(directory.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as StateLock does: nobody writes meanwhile
            opened = load(directory)
            registered = registered_jobs(settings, directory) if settings.api_is_on else {}
    except (SchedulerError, OSError):
        return False
    return _was_closed_well(opened, jobs) and _nothing_waits({**registered, **jobs.jobs}, opened.states, now)


def _was_closed_well(opened: Opened, jobs: JobSet) -> bool:
    """Everything is in the snapshot, and so is this configuration."""
    whole = opened.condition is Condition.LOADED and not opened.findings and opened.base == opened.end
    return whole and opened.config_hash == jobs.config_hash


def _nothing_waits(jobs: Mapping[str, Job], states: Mapping[str, JobState], now: Millis) -> bool:
    return not any(state.runs for state in states.values()) and all(
        id in states and _rests(job, states[id], now) for id, job in jobs.items()
    )


def _rests(job: Job, state: JobState, now: Millis) -> bool:
    due = plan.next_due(job, state)
    return (due is None or due > now) and plan.admit(job, state, now) == state
