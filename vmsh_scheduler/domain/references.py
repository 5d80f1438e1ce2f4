"""`${NAME}`, `${NAME:-default}` and `$$` in one text (spec vaultmesh section 7); any other `$` stands for itself."""

import re
from collections.abc import Mapping
from typing import NamedTuple

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DEFAULT = r"\"[^\"]*\"|'[^']*'|[^}\"'$]*"
_REFERENCE = re.compile(rf"\$\$|\$\{{({_NAME})(?::-({_DEFAULT}))?\}}|\$\{{")
_SHOWN = 80


class Filled(NamedTuple):
    """A text with its references replaced; with problems, it is of no use."""

    text: str
    problems: tuple[str, ...] = ()
    whole: bool = False
    """It was one reference and nothing beside it: what is there now may stand for a number or true/false."""


def fill(text: str, environ: Mapping[str, str]) -> Filled:
    """What replaces a reference is never looked at again; problems name the variable, never a value."""
    if "$" not in text:
        return Filled(text)
    problems: list[str] = []
    match = _REFERENCE.fullmatch(text)
    result = _REFERENCE.sub(lambda found: _value(found, environ, problems), text)
    return Filled(result, tuple(problems), bool(match and match[1]))


def named(text: str) -> tuple[str, ...]:
    """The variables that it refers to, each once."""
    return tuple(dict.fromkeys(match[1] for match in _REFERENCE.finditer(text) if match[1]))


def written_out(text: str) -> str:
    """What stands in it as it is: everything beside the references, and their defaults."""
    return _REFERENCE.sub(lambda found: "$" if found[0] == "$$" else _unquoted(found[2] or ""), text)


def _value(found: re.Match[str], environ: Mapping[str, str], problems: list[str]) -> str:
    name, default = found[1], found[2]
    if found[0] == "$$":
        return "$"
    if name is None:
        problems.append("malformed reference; write ${NAME}, ${NAME:-default}, or $$ for a dollar sign")
        return ""
    value = environ.get(name)
    shown = name if len(name) <= _SHOWN else name[: _SHOWN - 3] + "..."
    if value is None and default is None:
        problems.append(f"environment variable {shown} is not set; set it, or write ${{{shown}:-default}}")
    elif value and not value.isascii() and re.search("[\ud800-\udfff]", value):
        problems.append(f"environment variable {shown} is not UTF-8")
    return value or _unquoted(default or "")


def _unquoted(default: str) -> str:
    """`:-""` means nothing at all, not two quotation marks (vaultmesh section 7)."""
    quoted = len(default) >= 2 and default[0] == default[-1] and default[0] in "\"'"
    return default[1:-1] if quoted else default
