"""Why a job ran or did not, will or will not, and what would have to change. Pure: `why` is the policy read aloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote

from vmsh_scheduler.domain import agents, plan
from vmsh_scheduler.domain.decision import Decision, Reason, Verdict
from vmsh_scheduler.domain.job import Job, Origin
from vmsh_scheduler.domain.run import Execution
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Interval, Millis, Since


@dataclass(frozen=True, slots=True)
class Explanation:
    """`verdict`: will | will_not | running | did | did_not | no_record; `at`: the instant it is about, if any."""

    job_id: str
    verdict: str
    reason: str
    text: str
    remedy: str = ""
    at: Millis | None = None
    slot: Millis | None = None


TEXTS: dict[Reason, tuple[str, str]] = {
    Reason.DUE: ("its slot came due", ""),
    Reason.FIRST_SIGHT: ("it was seen for the first time, so the newest passed slot ran at once", ""),
    Reason.CATCH_UP: ("slots had passed while nothing could start; the newest within misfire_grace ran", ""),
    Reason.MANUAL: ("somebody triggered it", ""),
    Reason.NEW_ROOT: ("a newer root replaced the one that had failed", ""),
    Reason.PAUSED: ("it was paused", "resume it: vmsh-scheduler resume JOB"),
    Reason.DISABLED: ("it is switched off in its file", "set status: RUNNING (agents) or enabled: true"),
    Reason.OVERLAP: (
        "the run before was not over",
        "shorten the run, lengthen `every`, or set overlap: wait | allow",
    ),
    Reason.CAPACITY: ("an earlier slot still waited for a free permit", "raise `concurrency` in scheduler.yaml"),
    Reason.BACKOFF: (
        "an earlier slot had failed and was being retried",
        "mend the error; vmsh-scheduler reset JOB retries at once",
    ),
    Reason.HELD: (
        "a run ended unseen and on_unknown is hold",
        "vmsh-scheduler resolve RUN --as ok|failed|retry",
    ),
    Reason.NO_BATCH: ("there was no batch to anchor", "seal one, or set `seal.files`"),
    Reason.UNCHANGED: ("the root was anchored already", "set reanchor: true to anchor it again"),
    Reason.NOT_CONFIGURED: ("nothing here carries out this kind of action", "configure a command"),
    Reason.KILL_SWITCH: ("ANCHOR_WRITE_ENABLED is 0", "unset it and restart"),
    Reason.WINDOW: ("it was older than misfire_grace when it could have started", "widen misfire_grace"),
    Reason.LIMIT: (f"catch_up: all runs at most {plan.CATCH_UP_LIMIT} missed slots", ""),
    Reason.COALESCED: ("a newer slot had come due as well and ran in its place", "catch_up: all runs each"),
    Reason.STATE_LOST: ("state was lost, so one whole period was waited", "on_state_loss: run starts at once"),
}


def will(job: Job, state: JobState, now: Millis, *, queued: bool = False) -> Explanation:
    """The next thing that happens to the job, as things stand."""
    for explain in (_off, _running, _paused, _held):
        found = explain(job, state, now)
        if found is not None:
            return found
    if queued:
        return Explanation(job.id, "will", "capacity", "it waits for a free permit", TEXTS[Reason.CAPACITY][1], now)
    if state.slot is not None and state.ready_at is not None:
        return _retrying(job, state)
    if state.upcoming is None:
        return Explanation(job.id, "will_not", "manual", "it only runs when triggered", "vmsh-scheduler trigger JOB")
    return Explanation(
        job.id, "will", "due", "its next slot is planned", at=state.upcoming.due, slot=state.upcoming.slot
    )


def did(job: Job, at: Millis, decisions: Sequence[Decision], executions: Sequence[Execution]) -> Explanation:
    """What became of the slot in force at `at`, from the journal's rows of this job, newest first."""
    slot = _slot_at(job, at, decisions)
    decision = next((d for d in decisions if slot is not None and covers(d, slot)), None)
    if decision is None:
        return Explanation(job.id, "no_record", "", "the journal has no decision for that instant", at=at, slot=slot)
    text, remedy = _words(job, decision.reason)
    if decision.verdict is not Verdict.FIRED:
        what = f"{decision.verdict.value}: {text}"
        return Explanation(job.id, "did_not", decision.reason.value, what, remedy, decision.at, slot)
    ends = [e for e in executions if e.run.slot == slot]
    return Explanation(job.id, "did", decision.reason.value, f"{text}; {_ends(ends)}", "", decision.at, slot)


def _words(job: Job, reason: Reason) -> tuple[str, str]:
    """An agent of the API is in no file."""
    if reason is Reason.DISABLED and job.origin is Origin.API:
        return "its agent is paused, until `agents resume`", resume_agent(job.id)
    return TEXTS[reason]


def resume_agent(job_id: str) -> str:
    """The command line for a registered agent's job."""
    user, id = agents.named(job_id) or ("", job_id)
    return f"vmsh-scheduler agents resume --user={quote(user)} {'-- ' if id.startswith('-') else ''}{quote(id)}"


def covers(decision: Decision, slot: Millis) -> bool:
    """True if `slot` is one of the slots that `decision` is about."""
    behind = decision.slot - slot
    if decision.count == 1 or decision.step == 0:
        return behind == 0
    return 0 <= behind <= (decision.count - 1) * decision.step and behind % decision.step == 0


def _slot_at(job: Job, at: Millis, decisions: Sequence[Decision]) -> Millis | None:
    """The newest slot at or before `at`: off-grid ones (manual) are known from the journal only."""
    known = [d.slot for d in decisions if d.slot <= at]
    if isinstance(job.trigger, Interval) and job.trigger.since is Since.SLOT:
        known.append(job.trigger.first(at).slot)
    return max(known, default=None)


def _ends(executions: Sequence[Execution]) -> str:
    if not executions:
        return "its end is not recorded (yet)"
    newest = executions[0]
    tries = f"attempt {newest.run.attempt}"
    error = f": {newest.outcome.message}" if newest.outcome.message else ""
    return f"{tries} ended {newest.outcome.status.value}{error}"


def _off(job: Job, state: JobState, now: Millis) -> Explanation | None:
    if job.enabled:
        return None
    text, remedy = _words(job, Reason.DISABLED)
    return Explanation(job.id, "will_not", Reason.DISABLED.value, text, remedy)


def _running(job: Job, state: JobState, now: Millis) -> Explanation | None:
    if not state.runs:
        return None
    run = state.runs[-1]
    text = f"run {run.id} (attempt {run.attempt}) has been going for {max(0, now - run.started_at) / 1000:.1f} s"
    return Explanation(job.id, "running", "running", text, "", run.deadline, run.slot)


def _paused(job: Job, state: JobState, now: Millis) -> Explanation | None:
    pause = state.pause
    if pause is None or (pause.until is not None and now >= pause.until):
        return None
    by = f" by {pause.by}" if pause.by else ""
    note = f": {pause.note}" if pause.note else ""
    remedy = f"vmsh-scheduler resume {quote(job.id)}"
    return Explanation(job.id, "will_not", Reason.PAUSED.value, f"paused{by}{note}", remedy, pause.until)


def _held(job: Job, state: JobState, now: Millis) -> Explanation | None:
    if state.held is None:
        return None
    text = f"nobody saw how run {state.held.id} ended, and on_unknown is hold"
    remedy = f"vmsh-scheduler resolve {state.held.id} --as ok|failed|retry"
    return Explanation(job.id, "will_not", Reason.HELD.value, text, remedy, None, state.slot)


def _retrying(job: Job, state: JobState) -> Explanation:
    if state.attempt == 0:
        return Explanation(job.id, "will", "due", "its slot is open and about to start", "", state.ready_at, state.slot)
    error = f"; last error: {state.last_error}" if state.last_error else ""
    text = f"attempt {plan.attempt_of(state)} after {state.level} failures in a row{error}"
    remedy = f"vmsh-scheduler reset {quote(job.id)} retries at once"
    return Explanation(job.id, "will", Reason.BACKOFF.value, text, remedy, state.ready_at, state.slot)
