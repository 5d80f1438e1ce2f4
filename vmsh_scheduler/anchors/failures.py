"""How an anchor verb fails: the exit code tells the scheduler the class (65 validation, 75 later, 77 denied).

For people at the command line the same failure of a disk has the code of docs/exit-codes.md (`of_os`)."""

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress

from vmsh_scheduler.errors import Busy, CannotCreate, Denied, Exit, SchedulerError


class Invalid(SchedulerError):
    """What was given, or what stands on disk, is wrong; trying again does not help."""

    code = "invalid"
    exit = Exit.STATE_UNREADABLE


class Corrupt(Invalid):
    """A ledger, batch or receipt of ours was changed or cut short: nothing is added to it."""

    code = "corrupt"


class DiskFailed(SchedulerError):
    """No room, no writing, or an error of the device."""

    code = "disk_failed"
    exit = Exit.IO_ERROR


_DENIED = (errno.EACCES, errno.EPERM)
_NO_PLACE = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
"""Of what is to be written: whatever is to be read and is not there is told where it is looked for."""
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ENODEV, errno.ESTALE)


def of_os(error: OSError) -> SchedulerError:
    """A failed system call: 77 no permission, 73 no place for a file, 74 a disk that fails, else 75: it may pass."""
    said = error.strerror or str(error)
    text = f"{said}: {error.filename}" if error.filename else said
    if error.errno in _DENIED:
        return Denied(text, hint="check owner and mode")
    if error.errno in _NO_PLACE:
        return CannotCreate(text)
    if error.errno in _DISK:
        return DiskFailed(text, hint="see df and mount")
    return Busy(text)


@contextmanager
def telling(*details: Callable[[], Mapping[str, object]]) -> Iterator[None]:
    """A failure within it tells what was found and done all the same, as much of it as can be read."""
    try:
        yield
    except SchedulerError as error:
        error.details = _known(details)
        raise
    except OSError as error:
        found = for_verb(error)
        found.details = _known(details)
        raise found from error


def _known(details: Iterable[Callable[[], Mapping[str, object]]]) -> dict[str, object]:
    known: dict[str, object] = {}
    for each in details:
        with suppress(SchedulerError, OSError):  # what failed the verb may fail this too, and is what has to be told
            known.update(each())
    return known


def for_verb(error: OSError) -> SchedulerError:
    """The same as a verb's failure: of 73 and 74 the scheduler would go by words, and one of a path might be among
    them; it waits as for a network (75)."""
    found = of_os(error)
    if found.exit in (Exit.CANNOT_CREATE, Exit.IO_ERROR):
        found.exit = Exit.BUSY
    return found
