"""What was made of an object is kept for the next one who asks, for values that many runs share."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
MOST = 1024
LONGEST = 4096
"""A longer text is made anew each time: what is held stays below MOST * LONGEST."""


class Remembered(Generic[T]):
    """A pure function of a value that never changes, by the value's identity: comparing would cost more than making."""

    __slots__ = ("_known", "_make")

    def __init__(self, make: Callable[[T], str]) -> None:
        self._make = make
        self._known: dict[int, tuple[T, str]] = {}
        """Holding on to the object keeps its number its own."""

    def __call__(self, value: T) -> str:
        known = self._known.get(id(value))
        if known is not None:
            return known[1]
        text = self._make(value)
        if len(text) <= LONGEST:
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[id(value)] = value, text
        return text
