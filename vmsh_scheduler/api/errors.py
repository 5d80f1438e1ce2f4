"""One table from error codes to HTTP statuses, and the one shape in which errors travel."""

from collections.abc import Mapping
from typing import Any

from vmsh_scheduler.domain.text import one_line
from vmsh_scheduler.errors import (
    Busy,
    CannotCreate,
    ConfigError,
    Denied,
    NotFound,
    NotLeading,
    SchedulerError,
    StateUnreadable,
    StateWriteFailed,
    StoreDown,
    Unavailable,
    Usage,
)

KINDS: tuple[type[SchedulerError], ...] = (
    Busy,
    CannotCreate,
    ConfigError,
    Denied,
    NotFound,
    NotLeading,
    StateUnreadable,
    StateWriteFailed,
    StoreDown,
    Unavailable,
    Usage,
)

STATUS: Mapping[str, int] = {
    SchedulerError.code: 500,
    Busy.code: 409,
    CannotCreate.code: 500,
    ConfigError.code: 422,
    Denied.code: 403,
    NotFound.code: 404,
    NotLeading.code: 503,
    StateUnreadable.code: 503,
    StateWriteFailed.code: 503,
    StoreDown.code: 503,
    Unavailable.code: 503,
    Usage.code: 409,
}


def error_body(code: str, message: str, **more: object) -> dict[str, Any]:
    return {"error": {"code": code, "message": one_line(message), **more}}


def to_wire(error: SchedulerError) -> tuple[int, dict[str, Any]]:
    """HTTP status and body of one of our own errors."""
    more: dict[str, object] = {"hint": error.hint} if error.hint else {}
    if isinstance(error, ConfigError):
        more["problems"] = list(error.problems)
    return STATUS.get(error.code, 500), error_body(error.code, error.message, **more)


def from_wire(status: int, body: object) -> SchedulerError:
    """The same kind of error again, on the client's side."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return SchedulerError(f"the daemon answered {status}")
    code, message = str(error.get("code", "")), str(error.get("message", ""))
    hint = str(error.get("hint", ""))
    if code == ConfigError.code:
        problems = error.get("problems")
        known = tuple(map(str, problems)) if isinstance(problems, list) else ()
        return ConfigError(message, problems=known, hint=hint)
    kind = next((kind for kind in KINDS if kind.code == code), SchedulerError)
    return kind(message, hint=hint)
