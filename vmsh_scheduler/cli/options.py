"""Options that several commands share, and how texts on the command line become values."""

import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from typing import Annotated, ParamSpec, TypeVar

import typer

from vmsh_scheduler.domain.text import one_line
from vmsh_scheduler.domain.trigger import DAY, HOUR, MINUTE, SECOND, Millis
from vmsh_scheduler.errors import Usage

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="NAMESPACE/CADENCE or _agents/USER/AGENT.")]

P = ParamSpec("P")
T = TypeVar("T")

MAY_BE_FILES = frozenset({"what"})
"""Parameters that are texts and may name a file all the same."""
_SHOWN = 80
_UNITS = {"s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}


def moment(text: str, now: Millis) -> Millis:
    """`2026-11-21T10:00:00Z` (no zone: UTC), epoch seconds or ms, or `15m` = that long from now (`-15m`: ago)."""
    if relative := re.fullmatch(r"([+-]?)(\d{1,9})([smhd])", text.strip()):
        sign, number, unit = relative.groups()
        return now + (-1 if sign == "-" else 1) * int(number) * _UNITS[unit]
    if re.fullmatch(r"\d{9,14}", text):
        return int(text) * (1 if len(text) > 11 else SECOND)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise Usage(f"{text!r} is no time", hint="use 2026-11-21T10:00:00Z, epoch seconds, or 15m / -15m") from None
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def readable(command: Callable[P, T]) -> Callable[P, T]:
    """Its texts reach it only if they are UTF-8, as everything that they go into is. Files may be called anything."""

    @wraps(command)
    def checked(*args: P.args, **values: P.kwargs) -> T:
        for name, value in values.items():
            if isinstance(value, str) and name not in MAY_BE_FILES:
                utf8(value)
        return command(*args, **values)

    return checked


def utf8(text: str) -> None:
    """Raises Usage for bytes that are none, which Python keeps as half surrogates (PEP 383)."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        shown = one_line(os.fsencode(text).decode("utf-8", "backslashreplace")[:_SHOWN])
        raise Usage(f"the argument `{shown}` is not UTF-8", hint="only names of files may be anything else")


def length(text: str, option: str) -> Millis:
    """A length of time as the files write it (docs/config.md). Raises Usage."""
    from vmsh_scheduler.sources.grammar import GrammarError, duration

    try:
        return duration(text)
    except GrammarError as error:
        raise Usage(f"{option}: {error}") from None
