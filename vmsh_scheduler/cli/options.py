"""Options that several commands share, and how texts on the command line become values."""

import re
from datetime import UTC, datetime
from typing import Annotated

import typer

from vmsh_scheduler.domain.trigger import DAY, HOUR, MINUTE, SECOND, Millis
from vmsh_scheduler.errors import Usage

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Job = Annotated[str, typer.Argument(metavar="JOB", help="NAMESPACE/CADENCE or _agents/USER/AGENT.")]

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


def length(text: str, option: str) -> Millis:
    """A length of time as the files write it (docs/config.md). Raises Usage."""
    from vmsh_scheduler.sources.grammar import GrammarError, duration

    try:
        return duration(text)
    except GrammarError as error:
        raise Usage(f"{option}: {error}") from None
