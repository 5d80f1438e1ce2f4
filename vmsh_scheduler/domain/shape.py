"""Whether a value has the types that its class declares: for values that others may have written."""

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

LATEST = 253_402_300_799_999
"""The last millisecond that is a date: an instant beyond it cannot be shown."""
HIGHEST_FENCE = (1 << 53) - 1
"""Beyond it a double counts no longer by one."""
WRONG = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a text that nobody of us wrote may raise."""

Check = Callable[[Any], bool]


def fits(hint: Any) -> Check:
    """Of a class with annotated fields, or anything that may stand at such a field. Made once, asked often."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is int:
        return _within(LATEST)
    if hint is float:
        return lambda value: type(value) in (int, float) and -LATEST <= value <= LATEST  # NaN is neither
    if hint is object or hint is Any:
        return lambda value: True
    if origin in (Union, UnionType):
        return _any_of([fits(arg) for arg in args])
    if origin is tuple:  # of one type, however many
        return _all_of(fits(args[0]))
    if origin is Mapping:
        return lambda value: isinstance(value, Mapping)
    return _of_class(hint)


def whole(value: object, most: int = LATEST) -> int:
    """A number from 1 up; 0 for anything else."""
    return value if type(value) is int and 0 < value <= most else 0


def fitting(hint: type) -> Callable[[Any], Any]:
    """The value itself; raises TypeError."""
    check = fits(hint)

    def checked(value: Any) -> Any:
        if not check(value):
            raise TypeError(hint.__name__)
        return value

    return checked


def _of_class(hint: type) -> Check:
    if not is_dataclass(hint) and not hasattr(hint, "_fields"):
        return lambda value: isinstance(value, hint)
    hints = get_type_hints(hint)
    fields = [(name, _within(HIGHEST_FENCE) if name == "fence" else fits(each)) for name, each in hints.items()]
    return lambda value: isinstance(value, hint) and all(check(getattr(value, name)) for name, check in fields)


def _within(most: int) -> Check:
    return lambda value: type(value) is int and -most <= value <= most


def _any_of(checks: list[Check]) -> Check:
    return lambda value: any(check(value) for check in checks)


def _all_of(check: Check) -> Check:
    return lambda value: isinstance(value, tuple) and all(map(check, value))
