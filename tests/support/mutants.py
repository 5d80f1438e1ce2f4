"""Schedulers that are wrong in one place: the model has to tell each of them from the real one.

Some are faults of the programs this one replaces, some are faults that this one has had."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.decision import Reason, Verdict
from vmsh_scheduler.domain.job import CatchUp, Job
from vmsh_scheduler.domain.retry import PhiBackoff
from vmsh_scheduler.domain.run import Outcome, Run
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, Interval, Millis, Next, Passed, Since
from vmsh_scheduler.engine.board import Board
from vmsh_scheduler.ports import Change

Original = Callable[..., Any]
Mutant = tuple[object, str, Callable[[Original], Callable[..., Any]]]
"""Where the function is, its name, and what makes the wrong one of the right one."""


def from_the_end(right: Original) -> Original:
    def following(self: Interval, newest: Millis | None, now: Millis) -> Next:
        return Next(now + self.every, now + self.every)

    return following


def behind_the_newest(right: Original) -> Original:
    return lambda self, newest, now: right(self, None, now)


def pushed_by_the_clock(right: Original) -> Original:
    """As `passed` once was: periods between two wrong clocks counted as slots."""

    def passed(self: Interval, upcoming: Next, now: Millis) -> Passed | None:
        if now < upcoming.due or self.since is Since.FINISH:
            return right(self, upcoming, now)  # type: ignore[no-any-return]  # the real one
        extra, late = divmod(now - upcoming.due, self.every)
        return Passed(upcoming.slot, upcoming.slot + extra * self.every, extra + 1, self.every, late)

    return passed


def planned_from_nothing(right: Original) -> Original:
    """As `anew` once was: a new configuration forgot which slots had been decided."""

    def anew(self: Interval, upcoming: Next | None, newest: Millis | None, now: Millis) -> Next:
        first = self.first(now)
        return first if newest is None or first.slot > newest else self.following(newest, now)

    return anew


def no_wait(right: Original) -> Original:
    def failed(job: Job, state: JobState, outcome: Outcome, now: Millis) -> JobState:
        return right(job, state, outcome, now)._replace(ready_at=now)  # type: ignore[no-any-return]  # the real one

    return failed


def flat_wait(right: Original) -> Original:
    return lambda self, attempt, level, error: right(self, attempt, 1, error)


def given_up(right: Original) -> Original:
    def failed(job: Job, state: JobState, outcome: Outcome, now: Millis) -> JobState:
        return right(job, state, outcome, now)._replace(slot=None, ready_at=None)  # type: ignore[no-any-return]  # the real one

    return failed


def forgetful(right: Original) -> Original:
    """Success forgotten on a crash: the newest slot is run again."""

    def admit(job: Job, state: JobState, now: Millis, *, lost: bool = False) -> JobState:
        state = right(job, state, now, lost=lost)
        return state._replace(newest_slot=None, upcoming=job.trigger.first(now))

    return admit


def impatient(right: Original) -> Original:
    """Backoff forgotten on a restart."""

    def admit(job: Job, state: JobState, now: Millis, *, lost: bool = False) -> JobState:
        state = right(job, state, now, lost=lost)
        return state._replace(ready_at=now if state.slot is not None and state.held is None else state.ready_at)

    return admit


def unlimited(right: Original) -> Original:
    """Catch-up runs everything that was missed."""

    def open_slot(job: Job, *rest: Any) -> plan.Step:
        policy = replace(job.policy, catch_up=CatchUp.ALL, misfire_grace=366 * DAY)
        return right(replace(job, policy=policy), *rest)  # type: ignore[no-any-return]  # the real one

    return open_slot


def oldest_first(right: Original) -> Original:
    def fire(state: JobState, slot: Millis, now: Millis, before: Any, upcoming: Next | None) -> plan.Step:
        oldest = before[-1].slot if before else slot
        return right(state, oldest, now, before, upcoming)  # type: ignore[no-any-return]  # the real one

    return fire


def never_paused(right: Original) -> Original:
    def decide(job: Job, state: JobState, now: Millis, *, queued: bool = False) -> plan.Step:
        return right(job, state._replace(pause=None), now, queued=queued)  # type: ignore[no-any-return]  # the real one

    return decide


def never_off(right: Original) -> Original:
    """As `decide` once was: the open slot of a job that was switched off was tried again."""

    def ready(job: Job, state: JobState, now: Millis, queued: bool) -> bool:
        due = state.ready_at is not None and now >= state.ready_at
        return due and plan._may_start(job, state, queued=queued)

    return ready


def silent(right: Original) -> Original:
    return lambda self, changes, **how: right(self, [replace(one, decisions=()) for one in changes], **how)


def overlooked(right: Original) -> Original:
    """As it once was: what waited for its lane kept the plan of the clock before."""

    async def commit_over(self: Board, changes: Sequence[Change], **how: bool) -> bool:
        stepped = any(note.kind == "clock_step" for change in changes for note in change.notes)
        if stepped and any(change.job_id in self.waiting for change in changes):
            return True
        return await right(self, changes, **how)  # type: ignore[no-any-return]  # the real one

    return commit_over


def talkative(right: Original) -> Original:
    def fired(job: Job, state: JobState, run: Run, extra: dict[str, object]) -> Any:
        return right(job, state._replace(fired=False), run, extra)

    return fired


def overlapping(right: Original) -> Original:
    """Blind for what runs already."""

    def decide(job: Job, state: JobState, now: Millis, *, queued: bool = False) -> plan.Step:
        step: plan.Step = right(job, state._replace(runs=()), now, queued=queued)
        return plan.Step(step.state._replace(runs=state.runs), step.decisions, step.start)

    return decide


def written_over(right: Original) -> Original:
    """As it once was: beside a run the next slot took the place of one that had not begun."""

    def refusal(job: Job, state: JobState, *, queued: bool) -> Any:
        why = right(job, state, queued=queued)
        return None if why == (Verdict.DEFERRED, Reason.BACKOFF) and state.runs else why

    return refusal


def behind_the_others(right: Original) -> Original:
    """As it once was: out of the queue, a slot waited for all runs, though it may start beside them."""
    return lambda job, state, queued: not state.runs and right(job, state, queued=queued)


def wishful(right: Original) -> Original:
    """A run whose end nobody saw passes for a success."""

    def unseen(job: Job, state: JobState, run: Run, outcome: Outcome, now: Millis) -> JobState:
        return plan._succeeded(job, state, run, outcome, now)

    return unseen


MUTANTS: Mapping[str, Mutant] = {
    "the next slot counts from completion": (Interval, "following", from_the_end),
    "a clock that steps back runs slots again": (Interval, "following", behind_the_newest),
    "labels follow a wrong clock": (Interval, "passed", pushed_by_the_clock),
    "a reload decides slots twice or never": (Interval, "anew", planned_from_nothing),
    "a clock that steps back freezes": (plan, "clamp", lambda right: lambda job, state, now, slack=0: state),
    "what waits for its lane is overlooked when the clock steps": (Board, "commit_over", overlooked),
    "backoff is computed and not applied": (plan, "_tried_and_failed", no_wait),
    "backoff does not grow": (PhiBackoff, "delay", flat_wait),
    "a failure closes its slot": (plan, "_tried_and_failed", given_up),
    "success is forgotten by a crash": (plan, "admit", forgetful),
    "backoff is forgotten by a crash": (plan, "admit", impatient),
    "runs of one job overlap": (plan, "decide", overlapping),
    "a slot is written over beside a run": (plan, "_refusal", written_over),
    "what may overlap waits": (plan, "_may_start", behind_the_others),
    "catch-up runs everything": (plan, "_open_slot", unlimited),
    "catch-up runs the oldest": (plan, "_fire", oldest_first),
    "catch_up: all takes no turns": (plan, "_waits", lambda right: lambda job, state, queued: False),
    "a pause is ignored": (plan, "decide", never_paused),
    "a job that is switched off is retried": (plan, "_ready", never_off),
    "decisions are not written": (Board, "commit_over", silent),
    "every attempt is a decision": (plan, "fired", talkative),
    "attempts do not count": (plan, "attempt_of", lambda right: lambda state: 1),
    "unknown is a success": (plan, "_unseen", wishful),
    "another root keeps the key": (plan, "replaces", lambda right: lambda state, found: False),
    "what is unchanged is paid for again": (plan, "unchanged", lambda right: lambda job, state, found: False),
    "a label of a person's takes a slot": (plan, "manual_slot", lambda right: lambda state, now, trigger=None: now),
}


def breed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    where, what, wrong = MUTANTS[name]
    monkeypatch.setattr(where, what, wrong(getattr(where, what)))
