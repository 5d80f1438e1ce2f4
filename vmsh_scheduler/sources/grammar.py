"""The small languages inside the files: durations, `every`, targets, names. Pure text, no pydantic, no YAML.

A refusal is a GrammarError whose text never repeats the value: it may have come from the environment."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from vmsh_scheduler.domain.trigger import DAY, HOUR, MINUTE, SECOND, Millis

LONGEST: Millis = 3_653 * DAY
"""Ten years: the longest length of time any file may name."""

_UNITS: Mapping[str, Millis] = {"ms": 1, "s": SECOND, "m": MINUTE, "h": HOUR, "d": DAY}
_DURATION = re.compile(r"([0-9]{1,15})(ms|s|m|h|d)", re.IGNORECASE)
_MULTIPLE = re.compile(r"([0-9]{1,15})\*([a-z][a-z0-9_-]*)")
_LEVEL = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_ENTRY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")

NETWORKS = ("mainnet", "testnet", "testnet4", "signet", "regtest")
SCHEMES = ("eip155", "btc", "rfc3161", "ots", "local")


class GrammarError(ValueError):
    """What is wrong with a piece of text, as a clause that follows `path: `."""


class Every(NamedTuple):
    """A period: `number` times `unit` ms, or times the period of the sibling level `of`."""

    number: int
    unit: Millis = 0
    of: str = ""


class Target(NamedTuple):
    """`<scheme>:<entry>`, checked; CAIP-2 for the chains."""

    scheme: str
    entry: str


def duration(text: object, *, finest: Millis = 1) -> Millis:
    """`89s`, `5M`, `250ms` ... as ms; `finest` = 1000 leaves `ms` out. More than 0, at most ten years."""
    example = '"89s", "5m", "12h" or "1d"'
    if isinstance(text, (int, float)) and not isinstance(text, bool):
        raise GrammarError(f"a bare number has no unit: write it with one, such as {example}")
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if match is None or _UNITS[match[2].lower()] < finest:
        raise GrammarError(f"not a length of time: a whole number and a unit without spaces, such as {example}")
    return within_limits(int(match[1]) * _UNITS[match[2].lower()])


def within_limits(length: Millis) -> Millis:
    if length <= 0:
        raise GrammarError("must be more than 0")
    if length > LONGEST:
        raise GrammarError("must be at most 10 years (3653d)")
    return length


def every(text: object) -> Every:
    """`<n>s|m|h|d` (any case) or `<n>*<level>`; whether the level exists is for `periods` to say."""
    match = _MULTIPLE.fullmatch(text) if isinstance(text, str) else None
    if match is not None:
        if int(match[1]) == 0:
            raise GrammarError("must be more than 0")
        return Every(int(match[1]), of=match[2])
    try:
        return Every(1, unit=duration(text, finest=SECOND))
    except GrammarError as error:
        if isinstance(text, str) and "not a length" in str(error):
            raise GrammarError(
                'not a period: a whole number and s, m, h or d ("89s", "1d"), or a multiple of another '
                'level ("34*fast"), without spaces'
            ) from None
        raise


def target(text: object) -> Target:
    """`eip155:<chainId>`, `btc:<network>`, `rfc3161:<name>`, `ots:<name>` or `local:<ledger>` (spec section 3)."""
    scheme, colon, entry = text.partition(":") if isinstance(text, str) else ("", "", "")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}:" for name in SCHEMES)
        raise GrammarError(f"must begin with one of {known}{suggestion(scheme, SCHEMES)}")
    refusal = _entry_refusal(scheme, entry)
    if not colon or refusal:
        raise GrammarError(f"`{scheme}:` must be followed by {refusal}")
    return Target(scheme, entry)


def _entry_refusal(scheme: str, entry: str) -> str:
    """What the scheme wants instead of `entry`; empty = nothing."""
    match scheme:
        case "eip155":
            fine = re.fullmatch(r"[1-9][0-9]{0,18}", entry) is not None
            return "" if fine else "a chain id: a decimal number of at least 1, such as eip155:8453"
        case "btc":
            return "" if entry in NETWORKS else f"{' | '.join(NETWORKS)}{suggestion(entry, NETWORKS)}"
        case _:
            fine = _ENTRY.fullmatch(entry) is not None and ".." not in entry
            what = {"local": "ledger", "ots": "group of calendars"}.get(scheme, "TSA entry")
            return "" if fine else f"the name of a {what}: letters, digits, `-`, `_`, `.`; at most 64"


def level(name: object) -> str:
    if not isinstance(name, str) or _LEVEL.fullmatch(name) is None:
        raise GrammarError("a level's name is lower-case letters, digits, `_` and `-`, and begins with a letter")
    return name


def namespace(name: object) -> str:
    """Kept exactly as written, a trailing colon too; `_` in front is reserved (decision 16)."""
    if not isinstance(name, str) or not name:
        raise GrammarError("a namespace needs a name")
    if name.startswith("_"):
        raise GrammarError("names that begin with `_` are reserved: choose another")
    return plain_name(name)


def plain_name(name: str, longest: int = 200) -> str:
    """Fit for ids, labels, file lines: printable, not padded with blanks, bounded."""
    if len(name) > longest:
        raise GrammarError(f"is longer than {longest} characters")
    if not name.isprintable() or name != name.strip():
        raise GrammarError("must be printable text without blanks at either end")
    return name


def suggestion(word: str, known: Iterable[str]) -> str:
    """` (did you mean x?)` if something known is near, else nothing."""
    import difflib  # only mistakes need it

    near = difflib.get_close_matches(word[:64], list(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def periods(cadence: Mapping[str, Every], unreadable: Collection[str] = ()) -> tuple[dict[str, Millis], dict[str, str]]:
    """Every level's period in ms, and what is wrong with each level that spoils its own.

    A level that only leans on a broken or `unreadable` one is in neither."""
    found: dict[str, Millis] = {}
    wrong: dict[str, str] = {}
    for name in cadence:
        chain = _chain(name, cadence, found, wrong)
        last = chain[-1] if chain else ""
        if last and cadence[last].of and cadence[last].of not in {*cadence, *unreadable}:
            wanted = cadence[last].of[:64]
            wrong[last] = f"there is no level `{wanted}` here{suggestion(wanted, [*cadence, *unreadable])}"
        for link in reversed(chain):
            _settle(link, cadence[link], found, wrong)
    return found, wrong


def _chain(name: str, cadence: Mapping[str, Every], found: Mapping[str, Millis], wrong: dict[str, str]) -> list[str]:
    """The levels from `name` along its references that are not settled yet; a loop, for it may be long."""
    chain: dict[str, None] = {}
    while name in cadence and name not in found and name not in wrong:
        if name in chain:
            _blame_cycle(chain, name, wrong)
            break
        chain[name] = None
        name = cadence[name].of
    return list(chain)


def _blame_cycle(chain: Iterable[str], entry: str, wrong: dict[str, str]) -> None:
    links = list(chain)
    cycle = links[links.index(entry) :]
    if len(cycle) == 1:
        wrong[entry] = 'a level cannot be a multiple of itself: give it a period such as "89s"'
        return
    shown = " -> ".join([*cycle[:8], "..." if len(cycle) > 8 else entry])
    for name in cycle:
        wrong[name] = f"the levels lean on each other in a circle: {shown}"


def _settle(name: str, period: Every, found: dict[str, Millis], wrong: dict[str, str]) -> None:
    unit = found.get(period.of) if period.of else period.unit
    if name in wrong or unit is None:
        return
    try:
        found[name] = within_limits(period.number * unit)
    except GrammarError as error:
        wrong[name] = str(error)
