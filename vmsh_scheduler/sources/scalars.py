"""What an unquoted YAML scalar is: text, number, true/false, nothing - or a trap that must be quoted."""

import re
from typing import NamedTuple

Scalar = str | int | float | bool | None


class Trap(NamedTuple):
    """YAML readers disagree about it; `why` says how, and never repeats the value (it may be a secret)."""

    why: str


_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip

_YES_NO = Trap("unquoted yes/no/on/off is true or false to some readers; quote it, or write true or false")
_SIGN = Trap("only YAML 1.1 gives this sign a meaning; quote it")
_TRAP_WORDS: dict[str, Trap] = {
    **{form: _YES_NO for word in ("yes", "no", "on", "off") for form in (word, word.capitalize(), word.upper())},
    "=": _SIGN,
    "<<": _SIGN,
}

_NUMBER_STARTS = frozenset("0123456789+-.")
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+")
_LONGEST_NUMBER = 18
"""Digits that every reader keeps exactly: below 2^63."""

_TRAPS: tuple[tuple[str, Trap], ...] = tuple(
    # possessive quantifiers: five million digits are refused as fast as five
    (pattern, Trap(why))
    for pattern, why in (
        (r"[-+]?[0-9][0-9_]*+(?::[0-9]{1,2}+)++(?:\.[0-9_]*+)?", "YAML 1.1 reads this as base 60; quote it"),
        (r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]++)[0-9].*+)?", "YAML reads this as a date; quote it"),
        (r"[-+]?0[xX][0-9a-fA-F_]++", "YAML reads this as a hexadecimal number; quote it"),
        (r"[-+]?0[bB][01_]++", "YAML 1.1 reads this as a binary number; quote it"),
        (
            r"[-+]?0[oO]?[0-9_]++(?:\.[0-9_]*+)?",
            "some YAML readers take the leading zero for octal; quote it",
        ),
        (
            r"[-+]?(?:[0-9][0-9_]*+(?:\.[0-9_]*+)?|\.[0-9_]++)[eE][-+]?[0-9]++",
            "a number to some readers only; quote it",
        ),
        (r"[-+]?[0-9]++_[0-9_]*+(?:\.[0-9_]*+)?", "YAML 1.1 drops the underscores of a number; quote it"),
        (r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "YAML reads this as infinity or not-a-number; quote it"),
        (
            r"[-+]?(?:[0-9]++\.[0-9_]*+|\.[0-9][0-9_]*+|[0-9]++)",
            "not a plain decimal number; write it out, or quote it",
        ),
    )
)


def read_plain(text: str) -> Scalar | Trap:
    """The value of an unquoted scalar; text unless every YAML version agrees that it is something else."""
    if text in _WORDS:
        return _WORDS[text]
    if text in _TRAP_WORDS:
        return _TRAP_WORDS[text]
    if text[0] not in _NUMBER_STARTS:
        return text
    return _read_number(text)


def _read_number(text: str) -> Scalar | Trap:
    number = int if _INTEGER.fullmatch(text) else float if _DECIMAL.fullmatch(text) else None
    if number is not None:
        short = len(text.lstrip("-")) <= _LONGEST_NUMBER
        return number(text) if short else Trap("too long for a number; quote it")
    return next((trap for pattern, trap in _TRAPS if re.fullmatch(pattern, text)), text)
