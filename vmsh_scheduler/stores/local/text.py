"""States and changes as JSON text that nothing inside them can break. Written out by hand where every run passes:
that takes a third of what building dictionaries and encoding them takes. Read back by domain.codec."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from json.encoder import encode_basestring_ascii as quote
from typing import TYPE_CHECKING, Any, NamedTuple

from vmsh_scheduler.domain.codec import note_to_json
from vmsh_scheduler.domain.decision import Decision
from vmsh_scheduler.domain.remembered import Remembered
from vmsh_scheduler.domain.run import Execution, Found, Outcome, Run
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.domain.trigger import Millis, Next

if TYPE_CHECKING:
    from vmsh_scheduler.ports import Change  # brings asyncio, which `status` does not need

_DEPTH = 32
_encoder = partial(json.JSONEncoder, allow_nan=False, check_circular=False, separators=(",", ":"))
"""A circle is a RecursionError, which is caught, instead of a look at each value."""
_encode = _encoder().encode
"""ASCII only: lone surrogates become escapes."""
_encode_sorted = _encoder(sort_keys=True).encode

_HEADS = tuple(f'"{name}":' for name in JobState._fields)
_FRESH = JobState()


class Fact(NamedTuple):
    """What the journal keeps of a change; `body` is canonical."""

    job: str
    kind: str
    """decision | execution | note"""
    at: Millis
    run: str
    """Of an execution."""
    body: str


class Payload(NamedTuple):
    """One line of the log, and what of it goes into the journal."""

    text: str
    facts: tuple[Fact, ...] = ()


def to_text(value: object) -> str:
    """Compact; what JSON cannot say (NaN, objects, depth over 32) is replaced, never raised."""
    try:
        return _encode(value)
    except (ValueError, TypeError, RecursionError):
        return _encode(_plain(value, _DEPTH))


def canonical(value: object) -> str:
    """The one text of a value: sorted keys. Never raises, like `to_text`."""
    try:
        return _encode_sorted(value)
    except (ValueError, TypeError, RecursionError):
        return _encode_sorted(_plain(value, _DEPTH))


def state_text(state: JobState) -> str:
    """Only what differs from a fresh state."""
    known = zip(_HEADS, _WRITERS, state, _FRESH, strict=True)
    return "{" + ",".join([head + write(value) for head, write, value, fresh in known if value != fresh]) + "}"


def run_text(run: Run) -> str:
    """Canonical, like all that goes into the journal: keys in alphabetical order."""
    boot = f'"boot_id":{quote(run.boot_id)},' if run.boot_id else ""
    found = "" if run.found is None else f'"found":{_found_text(run.found)},'
    previous = f'"previous":{quote(run.previous)},' if run.previous else ""
    recorded = '"recorded":true,' if run.recorded else ""
    return (
        f'{{"attempt":{run.attempt},{boot}"cause":"{run.cause.value}","deadline":{run.deadline},"fence":{run.fence},'
        f'{found}"id":{quote(run.id)},"job":{quote(run.job_id)},{previous}{recorded}"slot":{run.slot},'
        f'"started_at":{run.started_at}}}'
    )


@Remembered
def _found_text(found: Found) -> str:
    return (
        f'{{"covers":{quote(found.covers)},"details":{canonical(dict(found.details))},"digest":{quote(found.digest)},'
        f'"id":{quote(found.id)},"target":{quote(found.target)}}}'
    )


def _outcome_text(outcome: Outcome) -> str:
    parts = [f'"code":{quote(outcome.code)}'] if outcome.code else []
    if outcome.error is not None:
        parts.append(f'"error":"{outcome.error.value}"')
    if outcome.exit_code is not None:
        parts.append(f'"exit_code":{outcome.exit_code}')
    if outcome.flags:
        parts.append(f'"flags":{to_text(outcome.flags)}')
    if outcome.message:
        parts.append(f'"message":{quote(outcome.message)}')
    if outcome.output:
        parts.append(f'"output":{quote(outcome.output)}')
    if outcome.output_bytes:
        parts.append(f'"output_bytes":{outcome.output_bytes}')
    if outcome.result:
        parts.append(f'"result":{_mapping_text(outcome.result)}')
    parts.append(f'"status":"{outcome.status.value}"')
    return "{" + ",".join(parts) + "}"


def execution_text(execution: Execution) -> str:
    return (
        f'{{"finished_at":{execution.finished_at},"outcome":{_outcome_text(execution.outcome)},'
        f'"run":{run_text(execution.run)},"start_delay":{execution.start_delay},"worker":{quote(execution.worker)}}}'
    )


def decision_text(decision: Decision) -> str:
    many = decision.count != 1
    count = f'"count":{decision.count},' if many else ""
    inputs = f'"inputs":{canonical(dict(decision.inputs))},' if decision.inputs else ""
    run = f'"run":{quote(decision.run_id)},' if decision.run_id else ""
    step = f'"step":{decision.step},' if many else ""
    return (
        f'{{"at":{decision.at},{count}{inputs}"job":{quote(decision.job_id)},"reason":"{decision.reason.value}",{run}'
        f'"slot":{decision.slot},{step}"verdict":"{decision.verdict.value}"}}'
    )


def change_payload(change: "Change") -> Payload:
    """A line of the log with the whole state after the change."""
    job, execution = change.job_id, change.execution
    state = "null" if change.state is None else state_text(change.state)
    decisions = [Fact(job, "decision", decision.at, "", decision_text(decision)) for decision in change.decisions]
    executions = (
        []
        if execution is None
        else [Fact(job, "execution", execution.finished_at, execution.run.id, execution_text(execution))]
    )
    notes = [Fact(note.job_id, "note", note.at, "", canonical(note_to_json(note))) for note in change.notes]
    parts = [f'{{"job":{quote(job)},"state":{state}', _listed("decisions", decisions)]
    parts += [f',"execution":{fact.body}' for fact in executions]
    parts += [_listed("notes", notes), "}"]
    return Payload("".join(parts), (*decisions, *executions, *notes))


def _whole(number: float) -> str:
    return repr(number) if math.isfinite(number) else "0.0"


def _runs_text(runs: tuple[Run, ...]) -> str:
    return "[" + ",".join(map(run_text, runs)) + "]"


def _next_text(upcoming: Next) -> str:
    return f"[{upcoming.slot},{upcoming.due}]"


def _pause_text(pause: Pause) -> str:
    return to_text({"at": pause.at, "until": pause.until, "note": pause.note, "by": pause.by})


@Remembered
def _mapping_text(value: Mapping[str, object]) -> str:
    """Of a result: it stands in its execution's row, in the state after it, and in the state of the next intent."""
    return canonical(dict(value))


_OWN: Mapping[str, Callable[[Any], str]] = {
    "upcoming": _next_text,
    "fired": to_text,
    "runs": _runs_text,
    "held": run_text,
    "pause": _pause_text,
    "mean_ms": _whole,
    "result": _mapping_text,
}
"""Fields of a state that are neither text nor a whole number."""
_WRITERS: tuple[Callable[[Any], str], ...] = tuple(
    _OWN.get(name) or (quote if isinstance(fresh, str) else repr)
    for name, fresh in zip(JobState._fields, _FRESH, strict=True)
)


def facts_of(record: Mapping[str, Any]) -> Iterator[Fact]:
    """The same out of a line that was read back."""
    job = str(record.get("job", ""))
    for body in record.get("decisions", ()):
        yield Fact(job, "decision", int(body["at"]), "", canonical(body))
    if "execution" in record:
        body = record["execution"]
        yield Fact(job, "execution", int(body["finished_at"]), str(body["run"]["id"]), canonical(body))
    for body in record.get("notes", ()):
        yield Fact(str(body.get("job", "")), "note", int(body["at"]), "", canonical(body))


def _listed(name: str, facts: list[Fact]) -> str:
    return f',"{name}":[{",".join([fact.body for fact in facts])}]' if facts else ""


def _plain(value: object, depth: int) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth == 0:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item, depth - 1) for item in value]
    return str(value)
