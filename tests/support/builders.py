"""Jobs and states for tests, with the defaults of a namespace cadence."""

from dataclasses import replace
from typing import Any

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job, Policy
from vmsh_scheduler.domain.retry import PhiBackoff
from vmsh_scheduler.domain.run import Cause, Found, Run
from vmsh_scheduler.domain.trigger import SECOND, Interval, Since

NOON = 1_795_262_400_000
"""2026-11-21T12:00:00Z: a multiple of every period used in tests."""


def cadence(every_s: float = 10, *, id: str = "ns/fast", **policy: Any) -> Job:
    """A grid job with a command; keyword arguments change its Policy."""
    every = int(every_s * SECOND)
    rules = Policy(retry=PhiBackoff(), timeout=60 * SECOND, misfire_grace=every)
    return Job(
        id=id,
        name=id,
        lane=id,
        trigger=Interval(every),
        action=Command(("true",)),
        policy=replace(rules, **policy),
        revision="r1",
        labels={"namespace": id.split("/")[0], "cadence": id.split("/")[-1], "target": "local:t"},
    )


def agent(every_s: float = 15, *, id: str = "_agents/u/a", **policy: Any) -> Job:
    """A fixed-delay job."""
    job = cadence(every_s, id=id, **policy)
    return replace(job, trigger=Interval(int(every_s * SECOND), Since.FINISH), labels={"user": "u", "agent": "a"})


def run_of(job: Job, slot: int, *, attempt: int = 1, at: int | None = None, found: Found | None = None) -> Run:
    """A run of `job` as the engine would mint it."""
    start = slot if at is None else at
    cause = Cause.SCHEDULE if attempt == 1 else Cause.RETRY
    return Run(
        f"run-{slot}-{attempt}",
        job.id,
        slot,
        cause,
        attempt,
        fence=1,
        started_at=start,
        deadline=start + job.policy.timeout,
        recorded=job.policy.crash_exact,
        found=found,
    )
