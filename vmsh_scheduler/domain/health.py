"""What /health says, from jobs and states alone: no error texts, no paths, nothing a stranger may not read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from vmsh_scheduler.domain.job import AGENT_PREFIX, Job
from vmsh_scheduler.domain.retry import PhiBackoff
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import MINUTE, Interval, Millis

BACKOFF_CAP = 7
"""Highest backoff level shown when the job's own retry has no cap."""
BACKING_OFF_ABOVE = 3

NEW = JobState()
UNSEEN: Mapping[str, int] = {"open": 0, "oldestOpenS": 0, "final": 0, "faulty": 0, "overdue": 0}
"""A target whose book nobody could read yet."""


class Condition(Enum):
    """The whole program's health: degraded still works, unhealthy does not."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Standing(Enum):
    """How a namespace is doing."""

    OK = "ok"
    BACKING_OFF = "backing_off"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the process knows about itself; everything else is in the jobs' states."""

    now: Millis
    uptime_s: float
    tick: Millis
    """Longest nap between two ticks."""
    last_tick: Millis | None = None
    config_loaded: bool = True
    config_valid: bool = True
    """False: the file on disk is refused, the last good one is in force."""
    state_writable: bool = True
    state_saved: bool = True
    """False: changes are safe in the log, but no snapshot can be written."""
    state_origin: str = "found"
    """found | fresh | recovered | lost: what the state was like at start."""
    clock_sane: bool = True
    attestations: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """By target, what the last pass over its open anchors found."""
    cluster: Mapping[str, object] | None = None
    """Of an instance of several: `ok`, and what is wrong if it is not. None: there is only this one."""


@dataclass(frozen=True, slots=True)
class Health:
    """A condition and the body that explains it."""

    condition: Condition
    body: Mapping[str, object]

    def http_status(self, *, strict: bool = False) -> int:
        """200 while it works; `strict`: only when nothing at all is wrong (the seed's rule)."""
        bad = self.condition is not Condition.HEALTHY if strict else self.condition is Condition.UNHEALTHY
        return 503 if bad else 200


def is_agent(job: Job) -> bool:
    return job.id.startswith(AGENT_PREFIX)


def cadences(jobs: Iterable[Job]) -> Iterable[Job]:
    """Jobs that anchor a namespace; agents and tasks are none."""
    return (job for job in jobs if "namespace" in job.labels and not is_agent(job))


def backoff_level(job: Job, state: JobState) -> int:
    """Failures in a row, capped as the job's retry is (0..7 by default)."""
    cap = job.policy.retry.cap if isinstance(job.policy.retry, PhiBackoff) else BACKOFF_CAP
    return min(state.level, cap)


def namespace_backoff(jobs: Iterable[Job], states: Mapping[str, JobState]) -> dict[str, int]:
    """The highest backoff level of any cadence of each configured namespace."""
    levels: dict[str, int] = {}
    for job in cadences(jobs):
        name = job.labels["namespace"]
        levels[name] = max(levels.get(name, 0), backoff_level(job, states.get(job.id, NEW)))
    return levels


def standing(job: Job, state: JobState, now: Millis) -> Standing:
    """One cadence. Nothing to anchor and nothing changed both count as up to date."""
    if state.level > BACKING_OFF_ABOVE:
        return Standing.BACKING_OFF
    return Standing.STALE if _stale(job, state, now) else Standing.OK


def _stale(job: Job, state: JobState, now: Millis) -> bool:
    if not isinstance(job.trigger, Interval) or not job.enabled or state.pause is not None:
        return False
    age = now - _up_to_date_at(state, now, now + job.trigger.every)
    # The longest backoff is worth a power: computed only for those that are late at all.
    return age > 2 * job.trigger.every and age > 2 * job.trigger.every + job.policy.retry.longest()


def _up_to_date_at(state: JobState, now: Millis, latest: Millis) -> Millis:
    """Closing a slot without a run means that there was nothing to do: the slot says when.

    Instants beyond `latest` come from a clock that was wrong and prove nothing."""
    known = [t for t in (state.first_seen, state.last_success, state.newest_slot) if t is not None and t <= latest]
    return max(known, default=now)


def assess(jobs: Iterable[Job], states: Mapping[str, JobState], vitals: Vitals) -> Health:
    """The full body in the seed's shape, with our own keys beside it."""
    jobs = tuple(jobs)
    namespaces = _namespaces(jobs, states, vitals.now)
    runs = _runs(jobs, states)
    attestations = _attestations(jobs, states, vitals.attestations)
    condition = _condition(namespaces.values(), attestations.values(), runs, vitals)
    body: dict[str, object] = {
        "status": condition.value,
        "uptime": round(vitals.uptime_s, 3),
        "lastTick": _last_tick(vitals),
        "namespaces": namespaces,
        "config": {"loaded": vitals.config_loaded, "valid": vitals.config_valid},
        "state": {"writable": vitals.state_writable and vitals.state_saved, "origin": vitals.state_origin},
        "clock": {"sane": vitals.clock_sane},
        "runs": runs,
        "agents": _agents(jobs, states),
    }
    if attestations:
        body["attestations"] = attestations
    if vitals.cluster is not None:
        body["cluster"] = vitals.cluster
    return Health(condition, body)


def _last_tick(vitals: Vitals) -> Millis:
    """Before the first tick the start counts."""
    return vitals.now - int(vitals.uptime_s * 1000) if vitals.last_tick is None else vitals.last_tick


def _namespaces(jobs: Iterable[Job], states: Mapping[str, JobState], now: Millis) -> dict[str, dict[str, object]]:
    grouped: dict[str, list[tuple[Job, JobState]]] = {}
    for job in cadences(jobs):
        grouped.setdefault(job.labels["namespace"], []).append((job, states.get(job.id, NEW)))
    return {name: _namespace(members, now) for name, members in grouped.items()}


def _namespace(members: list[tuple[Job, JobState]], now: Millis) -> dict[str, object]:
    found = {standing(job, state, now) for job, state in members}
    worst = next(s for s in (Standing.BACKING_OFF, Standing.STALE, Standing.OK) if s in found)
    last = {
        job.labels.get("cadence", job.name): state.last_success // 1000
        for job, state in members
        if state.last_success is not None
    }
    return {
        "lastAnchor": last,
        "backoff": max(backoff_level(job, state) for job, state in members),
        "status": worst.value,
    }


def _runs(jobs: Iterable[Job], states: Mapping[str, JobState]) -> dict[str, int]:
    """`unknown`: jobs whose last run nobody saw end; `held`: those that wait for `resolve`."""
    known = [states[job.id] for job in jobs if job.id in states]
    return {
        "running": sum(len(state.runs) for state in known),
        "unknown": sum(state.last_status == Status.UNKNOWN.value for state in known),
        "held": sum(bool(state.held) for state in known),
        "paused": sum(state.pause is not None for state in known),
    }


def _agents(jobs: Iterable[Job], states: Mapping[str, JobState]) -> dict[str, int]:
    agents = [(job, states.get(job.id, NEW)) for job in jobs if is_agent(job)]
    paused = sum(not job.enabled or state.pause is not None for job, state in agents)
    return {
        "count": len(agents),
        "running": len(agents) - paused,
        "paused": paused,
        "failing": sum(state.level > BACKING_OFF_ABOVE for _, state in agents),
    }


def _attestations(
    jobs: Iterable[Job], states: Mapping[str, JobState], found: Mapping[str, Mapping[str, int]]
) -> dict[str, dict[str, int]]:
    """Of the targets that are configured now; `backoff` is that of the job that looks after them."""
    rows: dict[str, dict[str, int]] = {}
    for job in jobs:
        target = job.labels.get("confirms")
        if target is None:
            continue
        backoff = backoff_level(job, states.get(job.id, NEW))
        if target in found or backoff:
            rows[target] = {**found.get(target, UNSEEN), "backoff": backoff}
    return rows


def _is_late(attestation: Mapping[str, int]) -> bool:
    return bool(attestation["overdue"] or attestation["faulty"]) or attestation["backoff"] > BACKING_OFF_ABOVE


def _condition(
    namespaces: Iterable[Mapping[str, object]],
    attestations: Iterable[Mapping[str, int]],
    runs: Mapping[str, int],
    vitals: Vitals,
) -> Condition:
    silent = vitals.now - _last_tick(vitals) > max(MINUTE, 3 * vitals.tick)
    if silent or not vitals.config_loaded or not vitals.state_writable:
        return Condition.UNHEALTHY
    troubles = (
        not vitals.config_valid,
        not vitals.clock_sane,
        not vitals.state_saved,
        vitals.state_origin in {"recovered", "lost"},
        vitals.cluster is not None and not vitals.cluster["ok"],
        any(map(_is_late, attestations)),
        runs["unknown"] > 0,
        runs["held"] > 0,
        any(body["status"] != Standing.OK.value for body in namespaces),
    )
    return Condition.DEGRADED if any(troubles) else Condition.HEALTHY
