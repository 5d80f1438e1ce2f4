"""How an anchor verb fails: the exit code tells the scheduler the class (65 validation, 75 later, 77 denied)."""

import errno

from vmsh_scheduler.errors import Busy, Denied, Exit, SchedulerError


class Invalid(SchedulerError):
    """What was given, or what stands on disk, is wrong; trying again does not help."""

    code = "invalid"
    exit = Exit.STATE_UNREADABLE


class Corrupt(Invalid):
    """A ledger, batch or receipt of ours was changed or cut short: nothing is added to it."""

    code = "corrupt"


def of_os(error: OSError) -> SchedulerError:
    """A failed system call: no permission is 77, everything else may pass (75)."""
    text = f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Denied(text, hint="check owner and mode")
    return Busy(text)
