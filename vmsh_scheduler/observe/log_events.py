"""Engine events as log lines: the spec's event names, and ours in their manner."""

import logging
from collections.abc import Callable

from vmsh_scheduler.domain.decision import Decision, Verdict
from vmsh_scheduler.domain.events import (
    ClockStepped,
    ConfigRejected,
    Decided,
    Event,
    Finished,
    LeaderChanged,
    Recovered,
    Started,
    StateFailed,
    StateRestored,
    Synced,
    Ticked,
    Trouble,
)
from vmsh_scheduler.domain.health import backoff_level, is_agent
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Run, Status
from vmsh_scheduler.domain.trigger import MINUTE, Millis
from vmsh_scheduler.observe.logs import say

NAMES_SHOWN = 20
OUTPUT_SHOWN = 2000
"""Characters of a failed command's output in its line: the tail."""


class LogObserver:
    """An Observer; what repeats itself while something stays broken is said once, or once a minute."""

    def __init__(self, logger: logging.Logger, flush: Callable[[], None]) -> None:
        self._logger = logger
        self._flush = flush
        self._rejected: tuple[str, ...] = ()
        self._state_said: Millis | None = None
        self._state_unsaid = 0
        self._state_bad = False

    def __call__(self, event: Event) -> None:
        match event:
            case Finished():
                self._finished(event)
            case Decided():
                if event.decision.verdict is Verdict.MISSED or self._logger.isEnabledFor(logging.DEBUG):
                    self._decided(event.job, event.decision)
            case Started():
                if self._logger.isEnabledFor(logging.DEBUG):
                    facts = _subject(event.job, event.run)
                    self._say(logging.DEBUG, "run started", **facts, delay_ms=event.start_delay)
            case Ticked():
                self._flush()
            case _:
                self._rare(event)

    def _rare(self, event: Event) -> None:
        match event:
            case Synced():
                self._synced(event)
            case ConfigRejected():
                self._config_rejected(event)
            case ClockStepped():
                self._say(logging.WARNING, "clock stepped", by_s=event.by / 1000)
            case StateFailed():
                self._state_failed(event)
            case StateRestored():
                self._state_restored()
            case Recovered():
                self._recovered(event)
            case LeaderChanged():
                self._say(logging.INFO, "leading", instance=event.instance, fence=event.fence)
            case Trouble():
                self._say(logging.WARNING, "trouble", what=event.what, **_free(event.details))

    def _say(self, level: int, msg: str, **fields: object) -> None:
        say(self._logger, level, msg, **fields)

    def _finished(self, event: Finished) -> None:
        run, outcome = event.execution.run, event.execution.outcome
        noun = "cycle" if is_agent(event.job) else "confirmation" if "confirms" in event.job.labels else "anchor"
        facts = _subject(event.job, run) | {"took_ms": event.execution.finished_at - run.started_at}
        if outcome.flags:
            facts["flags"] = outcome.flags
        match outcome.status:
            case Status.OK:
                self._say(logging.INFO, f"{noun} success", **facts)
            case Status.FAILED:
                self._say(logging.ERROR, f"{noun} failed", **_failure(event), **facts)
            case Status.UNKNOWN:
                self._say(
                    logging.ERROR, f"{noun} outcome unknown", **_failure(event), held=bool(event.state.held), **facts
                )
            case Status.SUPERSEDED | Status.SKIPPED:
                self._say(logging.INFO, f"{noun} {outcome.status.value}", reason=outcome.code, **facts)

    def _decided(self, job: Job, decision: Decision) -> None:
        level = logging.INFO if decision.verdict is Verdict.MISSED else logging.DEBUG
        facts: dict[str, object] = {"verdict": decision.verdict.value, "reason": decision.reason.value}
        if decision.run_id:
            facts["run"] = decision.run_id
        if decision.count > 1:
            facts["count"] = decision.count
        self._say(level, "slot decided", **_who(job), slot=decision.slot, **facts)

    def _synced(self, event: Synced) -> None:
        self._rejected = ()
        changes = {"added": event.added, "changed": event.changed, "removed": event.removed}
        shown = {name: _named(ids) for name, ids in changes.items() if ids}
        self._say(logging.INFO, "namespaces config loaded", cfgHash=event.config_hash, **shown)

    def _config_rejected(self, event: ConfigRejected) -> None:
        if event.problems == self._rejected:
            return
        self._rejected = event.problems
        problems = list(event.problems[:NAMES_SHOWN])
        self._say(logging.ERROR, "config rejected", count=len(event.problems), problems=problems)

    def _state_failed(self, event: StateFailed) -> None:
        if self._state_said is not None and 0 <= event.at - self._state_said < MINUTE:
            self._state_unsaid += 1
            return
        self._say(logging.ERROR, "state write failed", err=event.error, repeated=self._state_unsaid)
        self._state_said, self._state_unsaid, self._state_bad = event.at, 0, True

    def _state_restored(self) -> None:
        """On a disk that is nearly full short lines fit and long ones do not: what was not said needs no end."""
        if self._state_bad:
            self._say(logging.WARNING, "state writable again")
        self._state_bad = False

    def _recovered(self, event: Recovered) -> None:
        counts = {
            "recovered": event.finished,
            "never_began": event.never_began,
            "adopted": event.adopted,
            "unknown": event.unknown,
            "pending": event.pending,
        }
        level = logging.WARNING if event.unknown or event.pending else logging.INFO
        self._say(level, "runs recovered", **counts)


def _who(job: Job) -> dict[str, object]:
    if is_agent(job):
        return {"agent": job.labels.get("agent", job.id), "user": job.labels.get("user", "")}
    names = {"ns": "namespace", "label": "cadence", "target": "target"}
    shown: dict[str, object] = {short: job.labels[label] for short, label in names.items() if label in job.labels}
    return shown or {"job": job.id}


def _subject(job: Job, run: Run) -> dict[str, object]:
    facts = _who(job)
    if run.found is not None:
        facts["batch"] = run.found.id
    return facts | {"run": run.id, "slot": run.slot, "attempt": run.attempt, "cause": run.cause.value}


def _failure(event: Finished) -> dict[str, object]:
    """`retry_in`: seconds from the end of this attempt to the next."""
    outcome = event.execution.outcome
    facts: dict[str, object] = {
        "err": outcome.message or outcome.code,
        "backoff": backoff_level(event.job, event.state),
    }
    if event.retry_at is not None:
        facts["retry_in"] = max(0, event.retry_at - event.execution.finished_at) / 1000
    if outcome.error is not None:
        facts["class"] = outcome.error.value
    if outcome.code:
        facts["code"] = outcome.code
    if outcome.exit_code is not None:
        facts["exit_code"] = outcome.exit_code
    if outcome.output:
        facts["stderr_tail"] = outcome.output[-OUTPUT_SHOWN:]
    return facts


def _named(ids: tuple[str, ...]) -> object:
    return list(ids) if len(ids) <= NAMES_SHOWN else [*ids[:NAMES_SHOWN], f"... {len(ids) - NAMES_SHOWN} more"]


def _free(details: dict[str, object]) -> dict[str, object]:
    """Details come from anywhere: names that mean something to a line are kept out of their way."""
    taken = {"what", "logger", "level", "msg"}
    return {f"{name}_" if name in taken else name: value for name, value in details.items()}
