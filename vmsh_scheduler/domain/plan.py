"""The whole scheduling policy: pure functions from (job, state, now) to a new state and its decisions.

admit: a job set changed. decide: time passed. begin: a run starts. settle: a run ended. Nothing else changes a job."""

from dataclasses import dataclass, replace
from typing import Any

from vmsh_scheduler.domain import former
from vmsh_scheduler.domain.decision import Decision, Reason, Verdict, inputs_of
from vmsh_scheduler.domain.job import CatchUp, Job, OnUnknown, Overlap
from vmsh_scheduler.domain.retry import ErrorClass, class_named, jitter
from vmsh_scheduler.domain.run import Cause, Found, Outcome, Run, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import JITTER, SANE_CLOCK, SECOND, Interval, Millis, Next, Passed, Since, Trigger

CATCH_UP_LIMIT = 10
CANCELLED = "cancelled"
"""Outcome code of a run that this program ended itself (drain): tried again, not held against the job."""
TURNED_AWAY: Millis = 3 * SECOND
QUEUE_FULL = "scheduler_queue_full"

Fields = dict[str, Any]  # of a JobState


@dataclass(frozen=True, slots=True)
class Step:
    """What a decision gives: the state after it, what to write down, and whether the open slot may start."""

    state: JobState
    decisions: tuple[Decision, ...] = ()
    start: bool = False


def admit(job: Job, state: JobState, now: Millis, *, lost: bool = False) -> JobState:
    """Job seen at start-up or after a reload: an unchanged one keeps its plan and backoff; a changed one is
    planned anew, and tries its open slot at once under the same key.

    `lost`: state existed and could not be read, so wait one whole period instead of firing (decision 18)."""
    state = state._replace(first_seen=now if state.first_seen is None else state.first_seen)
    if state.revision == job.revision:
        return clamp(job, state, now, slack=JITTER)
    if lost and isinstance(job.trigger, Interval):
        return state._replace(revision=job.revision, upcoming=job.trigger.a_period_later(now))
    ready_at = now if state.slot is not None and state.held is None else state.ready_at
    after = _known_of(job, state)._replace(revision=job.revision, level=0, ready_at=ready_at)
    return after._replace(upcoming=job.trigger.anew(state.upcoming, _newest(state, state.slot), now))


def _known_of(job: Job, state: JobState) -> JobState:
    """What was covered at another target is not covered at this one."""
    if job.subject is None or state.covered_for == job.subject.target:
        return state
    return state._replace(found_id="", found_digest="", covers="", covered_for=job.subject.target)


def lost_slot(job: Job, now: Millis) -> Decision | None:
    """Not run, as nobody knows whether they were: the slot in force, and the one within the period to wait."""
    if not isinstance(job.trigger, Interval) or job.trigger.since is Since.FINISH:
        return None
    every, first = job.trigger.every, job.trigger.first(now).slot
    newest = job.trigger.a_period_later(now).slot - every
    count = (newest - first) // every + 1
    return Decision(job.id, newest, Verdict.MISSED, Reason.STATE_LOST, now, count, every if count > 1 else 0)


def clamp(job: Job, state: JobState, now: Millis, *, slack: Millis = 0) -> JobState:
    """After a clock step or a restart nothing waits longer than its own period or its present backoff.

    `slack`: how far the clock may be back where nobody saw it step."""
    upcoming, ready_at = state.upcoming, state.ready_at
    if ready_at is not None:
        ready_at = min(ready_at, now + max(TURNED_AWAY, _backoff(job, state) or 0))
    if upcoming is not None and isinstance(job.trigger, Interval):
        unset = upcoming.slot < SANE_CLOCK <= now
        upcoming = (
            job.trigger.sane(upcoming, state.first_seen, now) if unset else job.trigger.clamped(upcoming, now, slack)
        )
    return state._replace(upcoming=upcoming, ready_at=ready_at)


def next_due(job: Job, state: JobState, *, queued: bool = False) -> Millis | None:
    """When `decide` has to look at this job again; None = not before something else happens to it.

    A fixed delay that is switched off has no slots; a grid has them, and each is journaled as skipped."""
    if not job.enabled and isinstance(job.trigger, Interval) and job.trigger.since is Since.FINISH:
        return None
    at = None
    if state.ready_at is not None and job.enabled and _may_start(job, state, queued=queued):
        at = state.ready_at
    elif state.pause is not None and state.pause.until is not None:
        at = state.pause.until
    if state.upcoming is None or _waits(job, state, queued):
        return at
    return state.upcoming.due if at is None else min(at, state.upcoming.due)


def decide(job: Job, state: JobState, now: Millis, *, queued: bool = False) -> Step:
    """Look at one job: every slot that has come due gets its one decision; the open slot starts if it may.

    `queued`: its open slot waits for a permit."""
    state = _pause_over(state, now)
    passed = None if state.upcoming is None else job.trigger.passed(state.upcoming, now)
    if passed is None or _waits(job, state, queued):
        return Step(state, (), _ready(job, state, now, queued))
    refusal = _refusal(job, state, queued=queued)
    if refusal is not None:
        verdict, reason = refusal
        after = state._replace(upcoming=_beyond(job, state, passed, now))
        return Step(after, (_decision(job, state, passed, now, (verdict, reason)),), _ready(job, after, now, queued))
    return _open_slot(job, state, passed, now)


def _refusal(job: Job, state: JobState, *, queued: bool) -> tuple[Verdict, Reason] | None:
    """Why the slots that passed do not fire; None = they may. The order is the order of blame."""
    if not job.enabled:
        return Verdict.SKIPPED, Reason.DISABLED
    if state.pause is not None:
        return Verdict.SKIPPED, Reason.PAUSED
    if state.held is not None:
        return Verdict.DEFERRED, Reason.HELD
    if queued:
        return Verdict.SKIPPED, Reason.CAPACITY
    if state.runs and job.policy.overlap is not Overlap.ALLOW:
        return Verdict.SKIPPED, Reason.OVERLAP
    return None if state.slot is None or state.under_way else (Verdict.DEFERRED, Reason.BACKOFF)


def _open_slot(job: Job, state: JobState, passed: Passed, now: Millis) -> Step:
    """Slots passed and may fire: pick one by the catch-up policy, say what became of the others."""
    decisions: list[Decision] = []
    keep = _within_window(job, state, passed)
    if keep < passed.count:
        gone = replace(passed, newest=passed.newest - keep * passed.step, count=passed.count - keep)
        reason = Reason.LIMIT if job.policy.catch_up is CatchUp.ALL else Reason.WINDOW
        decisions.append(_decision(job, state, gone, now, (Verdict.MISSED, reason)))
    if keep == 0:
        after = state._replace(upcoming=_beyond(job, state, passed, now))
        return Step(after, tuple(decisions))
    left = passed.drop_oldest(passed.count - keep)
    if job.policy.catch_up is CatchUp.ALL:
        return _fire(state, left.oldest, now, tuple(decisions), _one_by_one(job, state, left, now))
    if left.count > 1:
        older = replace(left, newest=left.newest - left.step, count=left.count - 1)
        decisions.append(_decision(job, state, older, now, (Verdict.SUPERSEDED, Reason.COALESCED)))
    return _fire(state, left.newest, now, tuple(decisions), _beyond(job, state, passed, now))


def _within_window(job: Job, state: JobState, passed: Passed) -> int:
    """How many of the newest slots are young enough to run; a first sight always is."""
    if state.newest_slot is None and state.slot is None and passed.count == 1:
        return 1
    grace = job.policy.misfire_grace
    if passed.late > grace:
        return 0
    young = 1 if passed.step == 0 else (grace - passed.late) // passed.step + 1
    most = CATCH_UP_LIMIT if job.policy.catch_up is CatchUp.ALL else passed.count
    return min(passed.count, young, most)


def _fire(state: JobState, slot: Millis, now: Millis, before: tuple[Decision, ...], upcoming: Next | None) -> Step:
    cause = Cause.CATCH_UP if before else Cause.SCHEDULE
    return Step(reopen(state, slot, now, cause)._replace(upcoming=upcoming), before, start=True)


def _ready(job: Job, state: JobState, now: Millis, queued: bool) -> bool:
    ready = job.enabled and state.ready_at is not None and now >= state.ready_at
    return ready and _may_start(job, state, queued=queued)


def _may_start(job: Job, state: JobState, *, queued: bool) -> bool:
    busy = state.under_way if job.policy.overlap is Overlap.ALLOW else bool(state.runs)
    waiting = state.slot is not None and not busy and not queued
    return waiting and state.held is None and state.pause is None


def _waits(job: Job, state: JobState, queued: bool) -> bool:
    """Slots stay undecided until what goes on is over; `catch_up: all` so takes its turns one by one."""
    busy, overlap = bool(state.runs), job.policy.overlap
    if overlap is Overlap.WAIT:
        return queued or busy
    began = state.ready_at if queued else state.last_start if busy and overlap is Overlap.SKIP else None
    missed = began is not None and state.upcoming is not None and state.upcoming.slot <= began
    return missed and job.policy.catch_up is CatchUp.ALL


def _beyond(job: Job, state: JobState, passed: Passed, now: Millis) -> Next | None:
    newest = passed.newest if state.newest_slot is None else max(passed.newest, state.newest_slot)
    return job.trigger.following(newest, now)


def _one_by_one(job: Job, state: JobState, left: Passed, now: Millis) -> Next | None:
    return _beyond(job, state, left, now) if left.count == 1 else job.trigger.after(left.oldest)


def _pause_over(state: JobState, now: Millis) -> JobState:
    if state.pause is None or state.pause.until is None or now < state.pause.until:
        return state
    return state._replace(pause=None)


def _decision(job: Job, state: JobState, passed: Passed, now: Millis, why: tuple[Verdict, Reason]) -> Decision:
    step = passed.step if passed.count > 1 else 0
    return Decision(job.id, passed.newest, *why, now, passed.count, step, "", inputs_of(state))


def turned_away(step: Step, now: Millis) -> Step:
    """Too many wait already: as after a failed attempt, though none was made (forge-os section 6)."""
    state = step.state._replace(ready_at=now + TURNED_AWAY, level=step.state.level + 1)
    return Step(state._replace(last_finish=now, last_status="failed", last_error=QUEUE_FULL), step.decisions)


def attempt_of(state: JobState) -> int:
    """Number of the attempt that would start now."""
    return state.attempt + 1


def replaces(state: JobState, found: Found | None) -> bool:
    """True if the open slot was tried for something else than what is found now (decision 3: superseded)."""
    return bool(found and state.attempt and state.open_digest and found.digest != state.open_digest)


def unchanged(job: Job, state: JobState, found: Found) -> bool:
    """True if this is what the last success was about already."""
    return bool(job.subject and not job.subject.reanchor and found.digest == state.found_digest)


def begin(state: JobState, run: Run) -> JobState:
    """The intent: `run` is about to start."""
    digest = run.found.digest if run.found else ""
    return state._replace(
        runs=(*state.runs, run),
        slot=run.slot,
        attempt=run.attempt,
        fired=True,
        open_digest=digest,
        started=state.started + 1,
        last_start=run.started_at,
    )


FIRED = {Cause.MANUAL: Reason.MANUAL, Cause.CATCH_UP: Reason.CATCH_UP, Cause.NEW_ROOT: Reason.NEW_ROOT}


def fired(job: Job, state: JobState, run: Run, extra: dict[str, object]) -> Decision | None:
    """The one decision of the slot that `run` serves; None if that was written with an earlier attempt."""
    if state.fired:
        return None
    reason = FIRED.get(run.cause, Reason.DUE)
    if reason is Reason.DUE and state.newest_slot is None and state.started == 0:
        reason = Reason.FIRST_SIGHT
    inputs = {"revision": job.revision, "level": state.level, "fence": run.fence, **extra}
    return Decision(job.id, run.slot, Verdict.FIRED, reason, run.started_at, 1, 0, run.id, inputs)


def close_slot(job: Job, state: JobState, reason: Reason, now: Millis) -> tuple[JobState, Decision | None]:
    """The open slot has nothing to run about: closed, up to date, backoff over."""
    slot = state.slot
    done = _closed(state)._replace(newest_slot=_newest(state, slot), level=0)
    done = _next_after_finish(job, done, now)
    if slot is None or state.fired:
        return done, None
    return done, Decision(job.id, slot, Verdict.SKIPPED, reason, now, 1, 0, "", inputs_of(state))


def reopen(state: JobState, slot: Millis, now: Millis, cause: Cause) -> JobState:
    """Open `slot`, in place of whatever slot was open."""
    return state._replace(slot=slot, ready_at=now, attempt=0, cause=cause.value, fired=False, open_digest="")


def manual_slot(state: JobState, now: Millis, trigger: Trigger | None = None) -> Millis:
    """A label off the grid for what somebody asked for, above every slot used so far (decision 2)."""
    newest = _newest(state, state.slot)
    label = now if newest is None else max(now, newest + 1)
    return label + 1 if trigger is not None and trigger.takes(label, state.upcoming) else label


def settle(job: Job, state: JobState, run: Run, outcome: Outcome, now: Millis) -> JobState:
    """After a run: counters, the open slot, and when to go on."""
    if former.is_former(job, state, run):
        return former.settled(state, run, now)
    left = tuple(known for known in state.runs if known.id != run.id)
    state = state._replace(runs=left, last_finish=now, last_status=outcome.status.value)
    mine = state.slot == run.slot
    match outcome.status:
        case Status.OK | Status.SKIPPED:
            return _succeeded(job, state, run, outcome, now)
        case Status.UNKNOWN:
            return _unseen(job, state, run, outcome, now) if mine else _counted(state, outcome, unknown=1)
        case _:
            return _tried_and_failed(job, state, outcome, now) if mine else _counted(state, outcome, failed=1)


def _succeeded(job: Job, state: JobState, run: Run, outcome: Outcome, now: Millis) -> JobState:
    took = min(max(0, now - run.started_at), job.policy.timeout)  # a clock step is no duration
    mean = state.mean_ms + (took - state.mean_ms) / (state.succeeded + 1)
    closed = _CLOSED | {"level": 0, "held": None} if state.slot == run.slot else {}
    # one `_replace` of many fields: each run pays for every one of them
    state = state._replace(
        newest_slot=_newest(state, run.slot),
        last_success=now,
        succeeded=state.succeeded + 1,
        mean_ms=round(mean, 3),
        last_error="",
        error_class="",
        result=outcome.result or state.result,
        **_covered(job, run.found),
        **closed,
    )
    return _next_after_finish(job, state, now)


def _covered(job: Job, found: Found | None) -> Fields:
    """A run that began before the target was changed covers nothing for the new one."""
    if found is None or (job.subject is not None and found.target != job.subject.target):
        return {}
    return {"found_id": found.id, "found_digest": found.digest, "covers": found.covers, "covered_for": found.target}


def _tried_and_failed(job: Job, state: JobState, outcome: Outcome, now: Millis) -> JobState:
    if outcome.code == CANCELLED:
        return _counted(state, outcome, failed=1)._replace(ready_at=now)
    level = state.level + 1
    bad = _counted(state, outcome, failed=1)._replace(level=level)
    wait = _backoff(job, bad)
    if wait is not None:
        return bad._replace(ready_at=now + wait)
    return _next_after_finish(job, _closed(bad)._replace(newest_slot=_newest(bad, bad.slot)), now)


def _backoff(job: Job, state: JobState) -> Millis | None:
    """How long the open slot waits after its last failure; None = it is given up."""
    wait = job.policy.retry.delay(state.attempt, state.level, class_named(state.error_class))
    return None if wait is None else wait + jitter(job.policy.retry, f"{job.id}/{state.slot}", state.attempt, wait)


def _unseen(job: Job, state: JobState, run: Run, outcome: Outcome, now: Millis) -> JobState:
    after = _counted(state, outcome, unknown=1)
    if job.policy.on_unknown is OnUnknown.HOLD:
        return after._replace(held=run, ready_at=None)
    return after._replace(ready_at=now)


def _counted(state: JobState, outcome: Outcome, *, failed: int = 0, unknown: int = 0) -> JobState:
    error = outcome.error.value if outcome.error else ""
    return state._replace(
        failed=state.failed + failed,
        unknown=state.unknown + unknown,
        last_error=outcome.message[:500],
        error_class=error,
    )


def never_began(state: JobState, run: Run, now: Millis) -> JobState:
    """The intent was written, the process never started: the attempt does not count."""
    state = state.without(run)._replace(started=max(0, state.started - 1))
    if state.slot != run.slot:
        return state
    return state._replace(attempt=max(0, state.attempt - 1), ready_at=now)


def resolve(job: Job, state: JobState, verdict: str, now: Millis) -> JobState:
    """A person says what became of the held run: ok | failed | retry."""
    held, free = state.held, state._replace(held=None)
    if held is None:
        return state
    match verdict:
        case "ok":
            return settle(job, free, held, Outcome(Status.OK, code="resolved"), now)
        case "failed":
            failed = Outcome(Status.FAILED, ErrorClass.UNKNOWN, "resolved", "resolved as failed")
            return _tried_and_failed(job, free, failed, now)
        case _:
            return free._replace(ready_at=now)


def reset(state: JobState, now: Millis) -> JobState:
    """Clear the backoff: the open slot may be tried at once."""
    ready = now if state.slot is not None and state.held is None else state.ready_at
    return state._replace(level=0, ready_at=ready, last_error="", error_class="")


_CLOSED: Fields = {"slot": None, "ready_at": None, "attempt": 0, "cause": "", "fired": False, "open_digest": ""}


def _closed(state: JobState) -> JobState:
    return state._replace(**_CLOSED)


def _newest(state: JobState, slot: Millis | None) -> Millis | None:
    newest = state.newest_slot
    return slot if newest is None else newest if slot is None else max(newest, slot)


def _next_after_finish(job: Job, state: JobState, now: Millis) -> JobState:
    """Fixed-delay jobs learn their next slot only when a slot is closed; grids have it already."""
    trigger, upcoming = job.trigger, state.upcoming
    if not isinstance(trigger, Interval) or trigger.since is Since.SLOT or state.slot is not None:
        return state
    decided = None if upcoming is None else upcoming.slot - trigger.every
    return state._replace(upcoming=trigger.following(_newest(state, decided), now))
