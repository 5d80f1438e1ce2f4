"""The command line: parse, one call, render, exit code. Every command is a few lines; the library does the work."""

import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from vmsh_scheduler.cli.short import short_form
from vmsh_scheduler.errors import ConfigError, Exit, SchedulerError, StateWriteFailed


def start() -> int:
    """Run the command line; our own errors become one line on stderr and their exit code, never a traceback."""
    try:
        _prepare_streams()
        result = _run(sys.argv[1:])
        sys.stdout.flush()
    except SchedulerError as error:
        _complain(error)
        return int(error.exit)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        _complain(StateWriteFailed(f"{error.filename or 'output'}: {error.strerror or error}", hint="see df and mount"))
        return int(Exit.IO_ERROR)
    return result


def leave(code: int) -> NoReturn:
    """Everything is written and closed; the interpreter would take itself apart for another 30 ms."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(argv: Sequence[str]) -> int:
    """What a supervisor, cron or a monitor says is understood without the library that the rest needs."""
    command = short_form(argv)
    if command is not None:
        return command()
    from vmsh_scheduler.cli.full import main

    return main(argv)


def _prepare_streams() -> None:
    """Closed ones become /dev/null; what a terminal's encoding lacks is escaped, not refused."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  lives as long as we do
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _complain(error: SchedulerError) -> None:
    """Problems of files begin with file:line:col, for people and for tools that jump there; all else with our name."""
    lines = list(error.problems) if isinstance(error, ConfigError) else []
    if error.message not in lines:
        lines.append(f"vmsh-scheduler: {error}")
    sys.stderr.write("".join(f"{line}\n" for line in lines))
