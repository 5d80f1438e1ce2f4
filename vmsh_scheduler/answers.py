"""What is asked of jobs, answered from their states and a journal: alike by the daemon and from disk."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.explain import did, will
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.domain.views import history_view, why_view
from vmsh_scheduler.errors import NotFound

if TYPE_CHECKING:  # they bring asyncio, which a look at the disk does not need
    from vmsh_scheduler.api.operations import HistoryQuery, Json
    from vmsh_scheduler.ports import Journal

LOOK_BACK = 2_000
"""Journal rows searched for the slot that `why --at` asks about."""


def find_job(jobs: Mapping[str, Job], job_id: str) -> Job:
    job = jobs.get(job_id)
    if job is None:
        known = ", ".join(list(jobs)[:5]) or "none configured"
        raise NotFound(f"no job {job_id}", hint=f"jobs are called NAMESPACE/CADENCE or _agents/USER/AGENT: {known}")
    return job


def explain(job: Job, state: JobState, now: Millis, at: Millis | None, journal: "Journal") -> "Json":
    """`why`: what will happen, or what became of the slot in force at `at`."""
    if at is None or at > now:
        return why_view(will(job, plan.admit(job, state, now), now))
    decisions = journal.decisions(job.id, limit=LOOK_BACK)
    return why_view(did(job, at, decisions, journal.executions(job.id, limit=LOOK_BACK)))


def history(jobs: Mapping[str, Job], journal: "Journal", query: "HistoryQuery") -> "Json":
    """A job that is configured no more keeps its rows; one that nobody knows is an error."""
    decisions = journal.decisions(query.job, before=query.before, limit=query.limit)
    executions = journal.executions(query.job, before=query.before, limit=query.limit)
    if query.job and not decisions and not executions:
        find_job(jobs, query.job)
    return history_view(decisions, executions)
