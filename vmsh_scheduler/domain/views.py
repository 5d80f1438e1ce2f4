"""What people and programs are shown of jobs, states and the journal, as plain JSON values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from heapq import merge
from itertools import islice, takewhile

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.codec import Json, decision_to_json, execution_to_json
from vmsh_scheduler.domain.decision import Decision
from vmsh_scheduler.domain.explain import Explanation, will
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Execution
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, Interval, Millis, Next


def job_view(job: Job, state: JobState, now: Millis, *, queued: bool = False) -> Json:
    """One row of `status`."""
    explanation = will(job, state, now, queued=queued)
    return {
        "job": job.id,
        **job.labels,
        "condition": condition(job, state, now),
        "last_success": state.last_success,
        "last_status": state.last_status,
        "last_error": state.last_error,
        "error_class": state.error_class,
        "backoff": min(state.level, 7),
        "failures_in_a_row": state.level,
        "next": explanation.at,
        "why": explanation.text,
        "running": [run.id for run in state.runs],
        "held": "" if state.held is None else state.held.id,
        "paused": state.pause is not None,
        "every_ms": job.trigger.every if isinstance(job.trigger, Interval) else None,
        "started": state.started,
        "succeeded": state.succeeded,
        "failed": state.failed,
        "unknown": state.unknown,
        "mean_ms": round(state.mean_ms, 1),
        "batch": state.found_id,
        "result": dict(state.result),
    }


def agents_view(rows: Sequence[Json]) -> Json:
    """Of all agents among the rows of `status`: how many run and are held up, and which fail."""
    agents = [row for row in rows if "agent" in row]
    paused = sum(row["condition"] in ("off", "paused") for row in agents)
    failing = [f"{row['user']}:{row['agent']}" for row in agents if row["failures_in_a_row"]]
    return {"count": len(agents), "running": len(agents) - paused, "paused": paused, "failing": failing}


def condition(job: Job, state: JobState, now: Millis) -> str:
    """One word for people: off, running, paused, held, backing_off, waiting, ok."""
    explanation = will(job, state, now)
    words = {"disabled": "off", "running": "running", "paused": "paused", "held": "held", "backoff": "backing_off"}
    return words.get(explanation.reason, "ok" if state.last_success is not None else "waiting")


def next_view(jobs: Mapping[str, Job], states: Mapping[str, JobState], now: Millis, limit: int) -> list[Json]:
    """The next `limit` planned slots over all jobs, were every run to succeed at once."""
    streams = [_planned(job, states.get(id) or JobState(), now) for id, job in jobs.items() if job.enabled]
    rows = islice(merge(*streams), limit)
    return [{"at": due, "job": job_id, "slot": slot, "reason": reason} for due, job_id, slot, reason in rows]


def _planned(job: Job, state: JobState, now: Millis) -> Iterator[tuple[Millis, str, Millis, str]]:
    state = plan.admit(job, state, now)
    if state.held or (state.pause is not None and state.pause.until is None):
        return
    from_then = now if state.pause is None else max(now, state.pause.until or now)
    if state.slot is not None and state.ready_at is not None:
        yield max(state.ready_at, from_then), job.id, state.slot, "retry" if state.attempt else "due"
    horizon = now + 400 * DAY
    for upcoming in takewhile(lambda u: u.due < horizon, upcoming_slots(job, state, from_then)):
        yield max(upcoming.due, from_then), job.id, upcoming.slot, "due"


def upcoming_slots(job: Job, state: JobState, now: Millis) -> Iterator[Next]:
    """Planned slots from now on, were every run to succeed at once; endless for intervals."""
    upcoming = state.upcoming if state.revision == job.revision else job.trigger.first(now)
    while upcoming is not None:
        yield upcoming
        at = max(upcoming.due, now)
        following = job.trigger.following(upcoming.slot, at)
        upcoming = following


def why_view(explanation: Explanation) -> Json:
    return asdict(explanation)


def history_view(decisions: Sequence[Decision], executions: Sequence[Execution]) -> Json:
    """Rows newest first; an execution's `ended` is its finish."""
    return {
        "decisions": [decision_to_json(decision) for decision in decisions],
        "executions": [execution_to_json(execution) for execution in executions],
    }
