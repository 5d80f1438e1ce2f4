"""A parsed file against a model: every problem at once, at its line, and never with the value."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vmsh_scheduler.sources.marks import Mark, Path, config_error, problem_at
from vmsh_scheduler.sources.scalars import read_plain
from vmsh_scheduler.sources.words import closest, say
from vmsh_scheduler.sources.yaml_file import Document

Model = TypeVar("Model", bound=BaseModel)

_LENGTHS = frozenset({"too_short", "too_long"})
_NUMERIC = frozenset({"int_type", "float_type", "bool_type"})


def validate(document: Document, model: type[Model]) -> Model:
    """`model` should be strict and forbid extra keys. Raises ConfigError with every problem, by line.

    It is read as JSON is: a list may fill a tuple, text an Enum, but text never a number - except where
    the text came from the environment as a whole (`document.expanded`)."""
    found = _try(model, document.data)
    if isinstance(found, list) and document.expanded:
        found = _try(model, _with_numbers(document, found))
    if isinstance(found, list):
        raise config_error(_problems(document, model, found))
    return found


def _try(model: type[Model], data: Any) -> Model | list[ErrorDetails]:
    try:
        return model.model_validate_json(json.dumps(data))
    except ValidationError as error:
        return error.errors(include_url=False)


def _with_numbers(document: Document, errors: Iterable[ErrorDetails]) -> Any:
    """The data again; where a number was wanted and the environment gave digits, the number."""
    data: Any = document.data
    for error in errors:
        path = _existing(error["loc"], document.data)
        if path in document.expanded and error["type"] in _NUMERIC:
            number = read_plain(_at(document.data, path))
            if isinstance(number, (bool, int, float)):
                data = _replaced(data, path, number)
    return data


def _replaced(data: Any, path: Path, value: object) -> Any:
    """A copy with another value at `path`; shares everything beside it."""
    if not path:
        return value
    copy: Any = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = _replaced(data[path[0]], path[1:], value)
    return copy


def _at(data: Any, path: Path) -> Any:
    for part in path:
        data = data[part]
    return data


def _existing(loc: Sequence[str | int], data: Any) -> Path:
    """pydantic's location without the names of union members and validators it puts in between."""
    path: Path = ()
    for part in loc:
        in_mapping = isinstance(data, dict) and part in data
        in_list = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if in_mapping or in_list:
            data, path = data[part], (*path, part)
    return path


def _problems(document: Document, model: type[BaseModel], errors: Sequence[ErrorDetails]) -> list[str]:
    """By line; what the members of a union say about the same value is joined by `or`."""
    said: dict[tuple[Mark, Path], dict[str, None]] = {}
    above = {error["loc"][:end] for error in errors for end in range(len(error["loc"]))}
    for error in errors:
        if error["type"] in _LENGTHS and error["loc"] in above:
            continue  # refused items are not counted, so the list seems too short
        mark, path, message = _placed(document, model, error)
        said.setdefault((mark, path), {})[message] = None
    return [
        problem_at(document.name, mark, path, " or ".join(messages))
        for (mark, path), messages in sorted(said.items(), key=lambda item: item[0][0])
    ]


def _placed(document: Document, model: type[BaseModel], error: ErrorDetails) -> tuple[Mark, Path, str]:
    path, kind = _existing(error["loc"], document.data), error["type"]
    if kind == "missing":
        return document.marks.key(path), (*path, error["loc"][-1]), say(error)
    if kind == "extra_forbidden":
        known = _names(model, path[:-1])
        return document.marks.key(path), path, "unknown key" + closest(str(path[-1]), known)
    if error["loc"][-1:] == ("[key]",):
        return document.marks.key(path), path, f"the key {say(error)}"
    return document.marks.value(path), path, say(error)


def _names(model: type[BaseModel], path: Path) -> set[str]:
    """Every key that the models at `path` know, as it is written in the file."""
    return {info.alias or name for found in _models(model, path) for name, info in found.model_fields.items()}


def _models(annotation: Any, path: Path) -> Iterator[type[BaseModel]]:
    """The models that may stand at `path` below a value of type `annotation`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _models(arguments[0], path)
    elif origin in (Union, UnionType):
        for member in arguments:
            yield from _models(member, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _models_below(annotation, path)
    elif path and arguments and isinstance(origin, type):
        yield from _models(arguments[1] if issubclass(origin, Mapping) else arguments[0], path[1:])


def _models_below(model: type[BaseModel], path: Path) -> Iterator[type[BaseModel]]:
    if not path:
        yield model
        return
    for name, info in model.model_fields.items():
        if path[0] == (info.alias or name):
            yield from _models(info.annotation, path[1:])
