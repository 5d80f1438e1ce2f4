"""What a model found wrong, in words for people. Only the kind of the value is looked at: it may be a secret."""

from collections.abc import Iterable
from typing import Any, get_args

from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

_KNOWN = frozenset(get_args(ErrorType))
_WANTED = {
    "string_type": "text",
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing", "int_parsing_size"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "none_required": "empty",
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "model_attributes_type"), "a mapping"),
}
_LIMITS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "string_pattern_mismatch": "has not the required form (pattern {pattern})",
    "string_too_short": "must have at least {min_length} character(s)",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} item(s)",
    "too_long": "must have at most {max_length} items",
}
_CHOICES = {"literal_error": "expected", "enum": "expected", "union_tag_invalid": "expected_tags"}


def say(error: ErrorDetails) -> str:
    """A sentence without subject: the path stands before it."""
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if kind in _WANTED:
        return _wrong_type(_WANTED[kind], value)
    if kind in _LIMITS:
        return _LIMITS[kind].format_map(context)
    if kind in _CHOICES:
        return f"must be {context[_CHOICES[kind]]}{_near(context[_CHOICES[kind]], value)}"
    if kind in ("missing", "union_tag_not_found"):
        return "required key is missing"
    if kind == "value_error":
        return str(context["error"])
    return f"is not valid ({kind})" if kind in _KNOWN else error["msg"]


def closest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or the few there are to choose from, or nothing."""
    names = sorted(set(known))
    near = _nearest(word, names) or _nearest(word.lower(), [name.lower() for name in names])
    if near:
        return f"; did you mean `{next(name for name in names if name.lower() == near[0].lower())}`?"
    return f"; known here: {', '.join(names)}" if 0 < len(names) <= 12 else ""


def _wrong_type(wanted: str, value: Any) -> str:
    """The commonest slips get the remedy: quote it, or take the quotes away."""
    if wanted == "text" and isinstance(value, (bool, int, float)):
        return f"must be text, not {_kind(value)}; quote it"
    if isinstance(value, str) and wanted in ("a whole number", "a number", "true or false"):
        return f"must be {wanted}, not text (unquoted, and nothing but that)"
    return f"must be {wanted}, not {_kind(value)}"


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number" if isinstance(value, int) else "a fraction"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "a mapping"


def _near(expected: str, value: Any) -> str:
    """Suggests one of the choices; the value itself is not shown."""
    choices = [choice.strip("' ") for choice in expected.replace(" or ", ", ").split(",")]
    near = _nearest(value.lower(), choices) if isinstance(value, str) else []
    return f"; did you mean '{near[0]}'?" if near else ""


def _nearest(word: str, known: list[str]) -> list[str]:
    from difflib import get_close_matches  # only mistakes need it

    return get_close_matches(word, known, n=1)
