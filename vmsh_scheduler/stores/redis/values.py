"""The one place where text from Redis becomes a value: whoever may write there by hand may have written anything."""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from vmsh_scheduler.domain.shape import LATEST, WRONG
from vmsh_scheduler.errors import StoreRefuses

T = TypeVar("T")

MOST_TOLD = 100
"""Kinds and names that are told of; the rest is counted."""
LONGEST_NAME = 120
MOST = (1 << 53) - 1
"""That the scripts can count."""
ANEW = "give it a number that it never had, and all is read anew"
"""Way out of a counter that is none. Not 0: whoever has seen that one would not look again."""


class Unreadable(Exception):
    """Nobody of us wrote this. The text never quotes it: it may hold a secret."""


def read(text: str, made: Callable[[Any], T]) -> T:
    """`made` of the JSON. Raises Unreadable and nothing else."""
    try:
        if not text.isascii():
            text.encode()  # what was not UTF-8 has half surrogates now
        return made(json.loads(text))
    except WRONG as error:
        raise Unreadable(_why(error)) from error


def document(value: Any) -> dict[str, Any]:
    """A JSON object as it is; raises TypeError."""
    if not isinstance(value, dict):
        raise TypeError("not an object")
    return value


def count(value: Any, most: int = LATEST) -> int:
    """Of things: never below 0. Raises TypeError."""
    if type(value) is not int:
        raise TypeError("not a count")
    return min(max(value, 0), most)


def number(text: str | None, where: str, way_out: str) -> int:
    """A counter as the scripts write it; 0 if there is none. Raises StoreRefuses with the way out."""
    if text is None:
        return 0
    if text.isascii() and text.isdigit() and len(text) < 17 and str(int(text)) == text and int(text) <= MOST:
        return int(text)
    raise StoreRefuses(f"{where} holds {shown(text)}, which is no count", hint=way_out)


def shown(text: str) -> str:
    """A name or a short value in words for people."""
    return ascii(text[:LONGEST_NAME])


class Junk:
    """What nobody of us wrote and nobody waits for: it is left out, counted, and each told once."""

    def __init__(self) -> None:
        self.count = 0
        self.tell: Callable[[str], None] = lambda why: None
        self._told: set[str] = set()

    def found(self, where: str, why: Unreadable) -> None:
        self.count += 1
        if where not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(where)
            self.tell(f"{where} cannot be read and is left out: {why}")


def _why(error: BaseException) -> str:
    if isinstance(error, UnicodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return "it is not JSON"
    return "it has not the shape that this program writes"
