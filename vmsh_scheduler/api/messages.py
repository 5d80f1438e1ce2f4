"""Requests and replies as plain values: routes and handlers know nothing of sockets."""

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from time import gmtime, strftime
from typing import Any, NoReturn

from vmsh_scheduler.api.errors import error_body

SERVER_NAME = "vmsh-scheduler"
JSON_TYPE = "application/json; charset=utf-8"
TEXT_LIMIT = 500
"""Characters of a free-text parameter."""


class BadRequest(Exception):
    """The request itself is wrong; the message is shown to who sent it."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request: exact path, first value of each query parameter, the raw body."""

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    accept: str = ""
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, body and headers beyond those that every reply has."""

    status: int
    body: bytes
    content_type: str = JSON_TYPE
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Reply]]
Routes = Mapping[str, Mapping[str, Handler]]
"""path -> method -> handler. Paths are compared as they arrive: nothing is decoded or normalised."""


def json_reply(status: int, body: object, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(body).encode() + b"\n", JSON_TYPE, headers or {})


def error_reply(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Reply:
    return json_reply(status, error_body(code, message), headers)


def plain_headers(reply: Reply) -> dict[str, str]:
    """What every answer carries: no version, no guessing of types, no second request."""
    return {
        "Date": strftime("%a, %d %b %Y %H:%M:%S GMT", gmtime()),
        "Server": SERVER_NAME,
        "Content-Type": reply.content_type,
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **reply.headers,
    }


def head_of(reply: Reply) -> bytes:
    """Everything in front of the body, as it goes out."""
    headers = plain_headers(reply) | {"Content-Length": str(len(reply.body))}
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def json_object(body: bytes) -> dict[str, Any]:
    """Strict: UTF-8 without BOM, one object, no duplicate keys, finite numbers, no lone surrogates."""
    try:
        value = json.loads(
            body.decode() or "{}",
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_finite,
        )
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise BadRequest("the body is not one JSON object") from error
    if not isinstance(value, dict):
        raise BadRequest("the body is not one JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def text_of(values: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """A string parameter; `default` None: it must be there."""
    value = values.get(name, default)
    if not isinstance(value, str) or len(value) > TEXT_LIMIT:
        raise BadRequest(f"{name} must be a string of at most {TEXT_LIMIT} characters")
    return value


def int_of(values: Mapping[str, Any], name: str, default: int | None) -> int | None:
    """A whole number of at most 15 digits, from JSON or from a query string."""
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15:
        return value
    raise BadRequest(f"{name} must be a whole number")


def only(values: Mapping[str, Any], *names: str) -> None:
    """Refuses parameters that nobody reads: a typo must not pass for a default."""
    extra = sorted(values.keys() - set(names))
    if extra:
        raise BadRequest(f"no parameter {extra[0][:60]!r} here; known: {', '.join(names) or 'none'}")
