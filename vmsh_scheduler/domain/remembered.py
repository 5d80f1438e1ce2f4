"""What was made of an object is kept for the next one who asks, for values that many runs share."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
MOST = 1024


class Remembered(Generic[T]):
    """A pure function of a value that never changes, by the value's identity: comparing would cost more than making."""

    __slots__ = ("_known", "_make")

    def __init__(self, make: Callable[[T], str]) -> None:
        self._make = make
        self._known: dict[int, tuple[T, str]] = {}
        """Holding on to the object keeps its number its own."""

    def __call__(self, value: T) -> str:
        known = self._known.get(id(value))
        if known is None:
            if len(self._known) >= MOST:
                self._known.clear()
            known = self._known[id(value)] = value, self._make(value)
        return known[1]
