"""The program's own failures. A job's failure is an Outcome, never one of these."""

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes, fixed for ever (docs/exit-codes.md)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    STATE_UNREADABLE = 65
    UNAVAILABLE = 69
    CANNOT_CREATE = 73
    IO_ERROR = 74
    BUSY = 75
    DENIED = 77
    CONFIG = 78


class SchedulerError(Exception):
    """Base of all: `code` is stable and machine-readable, `exit` is what the process ends with."""

    code = "error"
    exit = Exit.FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details: Mapping[str, object] = {}
        """What holds all the same, for a machine: whoever could not do one thing may still know another."""

    def __str__(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


class ConfigError(SchedulerError):
    """The configuration cannot be used; `problems` holds every one found, as file:line:col: path: message."""

    code = "config_invalid"
    exit = Exit.CONFIG

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.problems = problems or (message,)


class StateUnreadable(SchedulerError):
    """State exists but cannot be trusted, or a newer version wrote it."""

    code = "state_unreadable"
    exit = Exit.STATE_UNREADABLE


class StateWriteFailed(SchedulerError):
    """A change could not be made durable, so it must not be acknowledged."""

    code = "state_write_failed"
    exit = Exit.IO_ERROR


class CannotCreate(SchedulerError):
    """A file or lock of ours cannot be made where it has to be."""

    code = "cannot_create"
    exit = Exit.CANNOT_CREATE


class Busy(SchedulerError):
    """Another process holds the state directory."""

    code = "busy"
    exit = Exit.BUSY


class Denied(SchedulerError):
    """A file or directory has the wrong owner or mode."""

    code = "denied"
    exit = Exit.DENIED


class Unavailable(SchedulerError):
    """Something outside that is needed does not answer (a port, a server, a daemon)."""

    code = "unavailable"
    exit = Exit.UNAVAILABLE


class NoAnswer(Unavailable):
    """There is no daemon, or it gave no whole answer: whoever asked may look at the disk instead."""


class StoreDown(Unavailable):
    """The shared store does not answer, or not as it should; what was asked of it may have happened."""

    code = "store_down"


class StoreRefuses(StoreDown):
    """It answers, and will not do this: to this user, with these keys, or at this moment."""


class NotLeading(StateWriteFailed):
    """Another instance leads, or none: only the leader writes."""

    code = "not_leading"


class NotFound(SchedulerError):
    """No such job, run, batch or file."""

    code = "not_found"


class Usage(SchedulerError):
    """The request contradicts itself or the present state."""

    code = "usage"
    exit = Exit.USAGE
