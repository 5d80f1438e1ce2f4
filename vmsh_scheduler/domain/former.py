"""What is left of a run whose job was replaced from zero while it went on (forge-os D18)."""

from vmsh_scheduler.domain.job import Job, Origin
from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND, Millis, Next


def is_former(job: Job, state: JobState, run: Run) -> bool:
    """Nothing has begun in this life of the job, or this run is not among what has. Files' jobs have one life."""
    own = state.last_start is not None and any(known.id == run.id for known in state.runs)
    return job.origin is Origin.API and not own


def settled(state: JobState, run: Run, now: Millis) -> JobState:
    """Its outcome says nothing about the new job, which waited for its end and is due soon."""
    state = state.without(run)
    if state.slot is not None or state.last_start is not None:
        return state
    newest = max(run.slot, state.newest_slot or run.slot)
    due = now + SECOND if state.upcoming is None else min(state.upcoming.due, now + SECOND)
    return state._replace(newest_slot=newest, upcoming=Next(max(due, newest + 1), due))
