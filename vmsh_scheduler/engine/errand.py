"""What goes with a run from the leader to a worker, as JSON and back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.codec import run_from_json, run_to_json
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Cause, Outcome, Run, Status
from vmsh_scheduler.domain.shape import HIGHEST_FENCE, WRONG, fitting, whole
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Claim

_RUN = fitting(Run)
INSTANCE = "instance"
"""Label that a callback's job has here: who enqueued its run (forge-os section 7)."""
HANDED_BACK = Outcome(
    Status.FAILED, code="resources", message="handed back: this instance has another configuration of the job, or none"
)
"""`resources`: not counted, tried again in a second (decision 15)."""
NOT_UNDERSTOOD = Outcome(
    Status.FAILED, ErrorClass.VALIDATION, "bad_task", "what the leader sent cannot be read: another version wrote it"
)


@dataclass(frozen=True, slots=True)
class Errand:
    """A run that this worker shall carry out, and the job as it knows it."""

    job: Job
    run: Run


def body_of(job: Job, run: Run, instance: str, agent: Mapping[str, object] | None = None) -> dict[str, object]:
    """`agent`: the document of one that was registered over the API, which no file of the worker's holds."""
    body: dict[str, object] = {
        "job": job.id,
        "revision": job.revision,
        "run": run_to_json(run),
        "instanceId": instance,
    }
    return body if agent is None else body | {"agent": agent}


def errand_of(claim: Claim, job: Job | None, now: Millis) -> Errand | Outcome:
    """The outcome, if there is nothing that could be carried out here.

    The deadline counts from now, and the fence is the newest there ever was: a receiver may have seen that one."""
    body = claim.task.body
    if "foreign" in body:
        return HANDED_BACK if job is None else Errand(job, _foreign(claim, job, now))
    if job is None or job.revision != body.get("revision"):
        return HANDED_BACK
    try:
        run: Run = _RUN(run_from_json(body["run"]))  # type: ignore[arg-type]  # whatever is wrong with it is caught
    except WRONG:
        return NOT_UNDERSTOOD
    run = replace(run, fence=max(run.fence, claim.fence), deadline=now + job.policy.timeout)
    return Errand(_enqueued_by(job, str(body.get("instanceId") or "")), run)


def _enqueued_by(job: Job, instance: str) -> Job:
    """Commands learn no instance, and theirs stays the same object: what is known of it is kept by identity."""
    if not instance or not isinstance(job.action, Callback):
        return job
    return replace(job, labels={**job.labels, INSTANCE: instance})


def _foreign(claim: Claim, job: Job, now: Millis) -> Run:
    """A task of the original's: its slot is when it was enqueued, so that it has one key however often it is tried."""
    task = claim.task.body["foreign"]
    task = task if isinstance(task, Mapping) else {}
    slot, fence = whole(task.get("enqueuedAt")), whole(task.get("leaderFenceToken"), HIGHEST_FENCE)
    deadline = now + job.policy.timeout
    return Run(claim.task.id, job.id, slot or now, Cause.CATCH_UP, 1, max(fence, claim.fence), now, deadline)
