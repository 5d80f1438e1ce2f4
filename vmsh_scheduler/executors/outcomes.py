"""From the end of a process to an Outcome."""

import os
import signal
from collections.abc import Callable
from typing import NamedTuple

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.classify import TAIL, classify
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status
from vmsh_scheduler.domain.secrets import secret_values
from vmsh_scheduler.domain.text import printable
from vmsh_scheduler.executors.capture import NOTHING, Kept, combined, last_object
from vmsh_scheduler.executors.group import Stop
from vmsh_scheduler.executors.spawn import NotStarted

Mask = Callable[[str], str]
_LINE = 200
MASK = "***"


class Ended(NamedTuple):
    """How a process ended and what it left; exactly one of `exit_code` and `signal` is given."""

    exit_code: int | None = None
    signal: int | None = None
    stopped: Stop | None = None
    shimmed: bool = False
    """A shell stood between: exit 128+n may as well be death by signal n."""
    out: Kept = NOTHING
    err: Kept = NOTHING
    flags: tuple[str, ...] = ()


def exit_of(status: int) -> tuple[int | None, int | None]:
    """A wait status as exit code or signal."""
    code = os.waitstatus_to_exitcode(status)
    return (code, None) if code >= 0 else (None, -code)


def refused(error: NotStarted) -> Outcome:
    """Nothing began: never the command's own failure, so the class stays unknown (decision 15)."""
    return Outcome(Status.FAILED, ErrorClass.UNKNOWN, error.code, error.message)


def lost(message: str, output: tuple[Kept, Kept] = (NOTHING, NOTHING), mask: Mask = str) -> Outcome:
    """Nobody saw the end."""
    text = _masked(combined(*output), mask)
    return Outcome(Status.UNKNOWN, code="lost", message=message, output=text)


def with_secrets(mask: Mask, command: Command) -> Mask:
    """`mask`, and the values of the command's own environment whose names say that they are secrets."""
    hidden = sorted(secret_values(command.env), key=len, reverse=True)
    if not hidden:
        return mask

    def masked(text: str) -> str:
        for value in hidden:
            text = text.replace(value, MASK)
        return mask(text)

    return masked


def outcome_of(end: Ended, command: Command, timeout_ms: int, mask: Mask) -> Outcome:
    """The one place where an end becomes a status, a class and words."""
    if end.exit_code == 0 and end.stopped is not Stop.TIMEOUT and not end.out.total and not end.err.total:
        return Outcome(Status.OK, None, "exit", "", 0, flags=end.flags)
    mask = with_secrets(mask, command)
    flags = end.flags + (("truncated",) if end.out.truncated or end.err.truncated else ())
    output = _masked(combined(end.out, end.err), mask)
    result = last_object(_masked(end.out.text(), mask)) if end.out.total else {}
    total = end.out.total + end.err.total
    timed_out = end.stopped is Stop.TIMEOUT
    if end.exit_code == 0 and not timed_out:
        return Outcome(Status.OK, None, "exit", "", 0, output, total, result, flags)
    error, _ = classify(end.exit_code, end.signal, timed_out, _tail(end), command.rules)
    return Outcome(
        Status.FAILED,
        error,
        _code(end),
        printable(_masked(_message(end, timeout_ms), mask)),
        end.exit_code,
        output,
        total,
        result,
        flags,
    )


def _code(end: Ended) -> str:
    match end.stopped:
        case Stop.TIMEOUT:
            return "timeout"
        case Stop.HURRY:
            return "cancelled"
        case None:
            return "exit" if end.signal is None else "signal"


def _message(end: Ended, timeout_ms: int) -> str:
    how = _how(end)
    match end.stopped:
        case Stop.TIMEOUT:
            how = f"not done within {timeout_ms / 1000:g} s, stopped: {how}"
        case Stop.HURRY:
            how = f"stopped by the scheduler: {how}"
        case None:
            pass
    said = _last_line(end.err) or _last_line(end.out)
    return f"{how}: {said}" if said else how


def _how(end: Ended) -> str:
    if end.signal is not None:
        name = _name(end.signal)
        return f"signal {end.signal} ({name})" if name else f"signal {end.signal}"
    code = end.exit_code or 0
    if end.shimmed and code > 128 and _name(code - 128):
        hint = "/OOM" if code == 128 + signal.SIGKILL else ""
        return f"{code} (exit or {_name(code - 128)}{hint})"
    return f"exit {code}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return ""


def _last_line(kept: Kept) -> str:
    raw = (kept.tail or kept.head)[-TAIL:]
    lines = raw.decode("utf-8", "backslashreplace").splitlines()
    line = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return line if len(line) <= _LINE else line[: _LINE - 3] + "..."


def _tail(end: Ended) -> str:
    """What is classified: stderr stands last, because it counts most."""
    raw = b"\n".join((kept.head + kept.tail)[-TAIL:] for kept in (end.out, end.err))
    return raw.decode("utf-8", "backslashreplace")


def _masked(text: str, mask: Mask) -> str:
    return mask(text) if text else ""
