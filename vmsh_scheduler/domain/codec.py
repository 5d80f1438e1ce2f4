"""States, decisions and runs out of plain JSON values, and all but states as such; defaults are left out, unknown
keys are kept out. What a store writes it writes as text at once, with the same keys: stores/local/text.py."""

from collections.abc import Mapping
from typing import Any

from vmsh_scheduler.domain.decision import Decision, Note, Reason, Verdict
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Cause, Execution, Found, Outcome, Run, Status
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.domain.trigger import Next

Json = dict[str, Any]

_NESTED = {"upcoming", "runs", "held", "pause", "result"}
_PLAIN = tuple(name for name in JobState._fields if name not in _NESTED)


def state_from_json(data: Mapping[str, Any]) -> JobState:
    """Raises KeyError, TypeError or ValueError on anything that no store wrote."""
    plain = {name: data[name] for name in _PLAIN if name in data}
    upcoming, pause, held = data.get("upcoming"), data.get("pause"), data.get("held")
    return JobState(
        **plain,
        upcoming=None if upcoming is None else Next(int(upcoming[0]), int(upcoming[1])),
        runs=tuple(run_from_json(run) for run in data.get("runs", ())),
        held=None if held is None else run_from_json(held),
        pause=None if pause is None else Pause(**pause),
        result=dict(data.get("result", {})),
    )


def run_to_json(run: Run) -> Json:
    out: Json = {
        "id": run.id,
        "job": run.job_id,
        "slot": run.slot,
        "cause": run.cause.value,
        "attempt": run.attempt,
        "fence": run.fence,
        "started_at": run.started_at,
        "deadline": run.deadline,
    }
    if run.boot_id:
        out["boot_id"] = run.boot_id
    if run.recorded:
        out["recorded"] = True
    if run.previous:
        out["previous"] = run.previous
    if run.found is not None:
        out["found"] = {
            "id": run.found.id,
            "digest": run.found.digest,
            "covers": run.found.covers,
            "details": dict(run.found.details),
            "target": run.found.target,
        }
    return out


def run_from_json(data: Mapping[str, Any]) -> Run:
    found = data.get("found")
    return Run(
        id=data["id"],
        job_id=data["job"],
        slot=data["slot"],
        cause=Cause(data["cause"]),
        attempt=data["attempt"],
        fence=data["fence"],
        started_at=data["started_at"],
        deadline=data["deadline"],
        boot_id=data.get("boot_id", ""),
        recorded=data.get("recorded", False),
        previous=data.get("previous", ""),
        found=None if found is None else Found(**found),
    )


def outcome_to_json(outcome: Outcome) -> Json:
    out: Json = {"status": outcome.status.value}
    if outcome.error is not None:
        out["error"] = outcome.error.value
    for name in ("code", "message", "output", "output_bytes"):
        if value := getattr(outcome, name):
            out[name] = value
    if outcome.exit_code is not None:
        out["exit_code"] = outcome.exit_code
    if outcome.result:
        out["result"] = dict(outcome.result)
    if outcome.flags:
        out["flags"] = list(outcome.flags)
    return out


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    error = data.get("error")
    return Outcome(
        status=Status(data["status"]),
        error=None if error is None else ErrorClass(error),
        code=data.get("code", ""),
        message=data.get("message", ""),
        exit_code=data.get("exit_code"),
        output=data.get("output", ""),
        output_bytes=data.get("output_bytes", 0),
        result=dict(data.get("result", {})),
        flags=tuple(data.get("flags", ())),
    )


def execution_to_json(execution: Execution) -> Json:
    return {
        "run": run_to_json(execution.run),
        "outcome": outcome_to_json(execution.outcome),
        "finished_at": execution.finished_at,
        "worker": execution.worker,
        "start_delay": execution.start_delay,
    }


def execution_from_json(data: Mapping[str, Any]) -> Execution:
    return Execution(
        run=run_from_json(data["run"]),
        outcome=outcome_from_json(data["outcome"]),
        finished_at=data["finished_at"],
        worker=data.get("worker", ""),
        start_delay=data.get("start_delay", 0),
    )


def decision_to_json(decision: Decision) -> Json:
    out: Json = {
        "job": decision.job_id,
        "slot": decision.slot,
        "verdict": decision.verdict.value,
        "reason": decision.reason.value,
        "at": decision.at,
    }
    if decision.count != 1:
        out["count"], out["step"] = decision.count, decision.step
    if decision.run_id:
        out["run"] = decision.run_id
    if decision.inputs:
        out["inputs"] = dict(decision.inputs)
    return out


def decision_from_json(data: Mapping[str, Any]) -> Decision:
    return Decision(
        job_id=data["job"],
        slot=data["slot"],
        verdict=Verdict(data["verdict"]),
        reason=Reason(data["reason"]),
        at=data["at"],
        count=data.get("count", 1),
        step=data.get("step", 0),
        run_id=data.get("run", ""),
        inputs=dict(data.get("inputs", {})),
    )


def note_to_json(note: Note) -> Json:
    return {"kind": note.kind, "at": note.at, "job": note.job_id, "details": dict(note.details)}


def note_from_json(data: Mapping[str, Any]) -> Note:
    return Note(data["kind"], data["at"], data.get("job", ""), dict(data.get("details", {})))
