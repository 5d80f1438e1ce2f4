"""JSON-RPC over HTTP by the standard library: bounded in time and size, no redirects, no credentials in any text."""

import base64
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from vmsh_scheduler.anchors.chain import Unreachable
from vmsh_scheduler.domain.shape import LATEST
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.errors import ConfigError, Denied

TIMEOUT_S = 20.0
ANSWER_LIMIT = 16 << 20
"""Bytes; a full block's transaction list stays far below."""
LATEST_S = LATEST // SECOND
"""The last second of the year 9999."""
_TEXT = 300
_SECRET = 8
"""Characters from which on a part of the URL's path or query may be somebody's API key."""


class NotRpc(Unreachable):
    """Something answered, and it is no JSON-RPC node: a redirect, a web page, garbage, nothing."""

    code = "not_rpc"


class RpcError(Unreachable):
    """The node's own error. A rail that does not know what it means takes it for no answer, and asks again later."""

    code = "rpc_error"

    def __init__(self, number: int, said: str, where: str) -> None:
        super().__init__(f"{where}: {said} ({number})")
        self.number = number
        self.said = said
        """The node's words, cut, without control characters and without what the URL keeps secret."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a node listens; `where` is all that texts may show of it."""

    host: str
    port: int
    tls: bool
    path: str = field(repr=False)
    authorization: str = field(repr=False, default="")
    """Value of the header; "" = none."""
    secrets: tuple[str, ...] = field(repr=False, default=())
    field_name: str = "rpcUrl"
    """What to set when it is wrong."""

    @property
    def where(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def endpoint(url: str, *, user: str = "", password: str = "", field_name: str = "rpcUrl") -> Endpoint:
    """ConfigError unless `url` is http(s)://[user:password@]host[:port][/path][?query]; its userinfo is Basic auth."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        parts, host, port = urlsplit(""), "", None
    if parts.scheme not in ("http", "https") or not host or not url.isascii() or re.search(r"[\x00-\x20\x7f]", url):
        raise ConfigError(f"{field_name} is no http:// or https:// address", hint="such as http://127.0.0.1:8545")
    name, word = user or unquote(parts.username or ""), password or unquote(parts.password or "")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    authorization = _basic(name, word)
    return Endpoint(
        host,
        port or (443 if parts.scheme == "https" else 80),
        parts.scheme == "https",
        path,
        authorization,
        _secrets(parts.path, parts.query, name, word, quote(word), *_encoded(authorization)),
        field_name,
    )


def _basic(name: str, word: str) -> str:
    pair = f"{name}:{word}".encode()
    return "Basic " + base64.b64encode(pair).decode() if name or word else ""


def _encoded(authorization: str) -> tuple[str, ...]:
    """As a node may echo it; without its padding, which needs no hiding, it is a part of what has it."""
    plain = authorization.removeprefix("Basic ").rstrip("=")
    return plain, plain.replace("+", "-").replace("/", "_")


def _secrets(path: str, query: str, *login: str) -> tuple[str, ...]:
    parts = [part for part in re.split(r"[/&=]", f"{path}&{query}") if len(part) >= _SECRET]
    return tuple(sorted({text for text in (*parts, *login) if len(text) > 2}, key=len, reverse=True))


@contextmanager
def connected(
    endpoint: Endpoint, timeout_s: float, *, broken: type[Unreachable] = Unreachable
) -> Iterator[http.client.HTTPConnection]:
    """For one request and its answer. Raises Unreachable, or `broken` for what is no HTTP."""
    try:
        with _bounded(endpoint, timeout_s) as connection:
            yield connection
    except http.client.HTTPException as error:
        raise broken(f"{endpoint.where} broke off, or does not speak HTTP: {type(error).__name__}") from None
    except TimeoutError:
        raise Unreachable(f"{endpoint.where} gave no answer within {timeout_s:g} s") from None
    except (OSError, UnicodeError) as error:  # the latter: a host name that DNS cannot have
        why = getattr(error, "strerror", None) or type(error).__name__
        raise Unreachable(f"{endpoint.where} cannot be reached: {why}") from None


@contextmanager
def _bounded(endpoint: Endpoint, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
    """All of it together ends by the time limit: who drips bytes is cut off."""
    kind = http.client.HTTPSConnection if endpoint.tls else http.client.HTTPConnection
    connection = kind(endpoint.host, endpoint.port, timeout=timeout_s)
    late, held = threading.Event(), list[socket.socket]()
    watch = threading.Timer(timeout_s, _cut, (connection, late, held))
    watch.daemon = True
    watch.start()
    try:
        connection.connect()
        held.append(connection.sock)  # the connection lets go of it when the answer is to end with it
        yield connection
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        watch.cancel()
        connection.close()
    if late.is_set():
        raise TimeoutError


def _cut(connection: http.client.HTTPConnection, late: threading.Event, held: list[socket.socket]) -> None:
    late.set()
    for sock in held or filter(None, [connection.sock]):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def body_of(answer: http.client.HTTPResponse, limit: int) -> bytes:
    """Of the body no more than `limit` + 1 bytes, whatever the answer says of its length: a chunk that claims to have
    a size below 0 would be read to the end of the connection. Raises http.client.HTTPException."""
    if not answer.chunked:
        return answer.read(limit + 1)
    body = bytearray()
    try:
        while len(body) <= limit and (piece := answer.read1(limit + 1 - len(body))):
            body += piece
    except OverflowError:  # a size that no machine has
        raise http.client.IncompleteRead(bytes(body)) from None
    del body[limit + 1 :]
    return bytes(body)


class Rpc:
    """One node. A connection per call: a stale one would look like a node that took the bytes and died."""

    def __init__(self, endpoint: Endpoint, *, timeout_s: float = TIMEOUT_S) -> None:
        self.endpoint = endpoint
        self._timeout_s = timeout_s

    @property
    def where(self) -> str:
        return self.endpoint.where

    def call(self, method: str, *params: Any) -> Any:
        """The result. Raises RpcError, NotRpc, Unreachable, Denied."""
        status, body = self._posted(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        return self._result(method, status, body)

    def _posted(self, body: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "User-Agent": "vmsh-scheduler"}
        if self.endpoint.authorization:
            headers["Authorization"] = self.endpoint.authorization
        with connected(self.endpoint, self._timeout_s, broken=NotRpc) as connection:
            connection.request("POST", self.endpoint.path, body, headers)
            answer = connection.getresponse()
            return answer.status, body_of(answer, ANSWER_LIMIT)

    def _result(self, method: str, status: int, body: bytes) -> Any:
        if status in (401, 403):
            raise Denied(f"{self.where} refused our credentials (HTTP {status})", hint="check user, password or cookie")
        if 300 <= status < 400:
            name = self.endpoint.field_name
            raise NotRpc(f"{self.where} redirects elsewhere (HTTP {status})", hint=f"set {name} to the node itself")
        answer = _object(body)
        if answer is None:
            raise NotRpc(f"{self.where} is no JSON-RPC node, or not now: HTTP {status}, {_shape(body)}")
        error = answer.get("error")
        if error is not None:
            raise self._error(method, error)
        if "result" not in answer or answer.get("id") not in (1, None) or status >= 400:
            raise NotRpc(f"{self.where} answered {method} with something else (HTTP {status})")
        return answer["result"]

    def _error(self, method: str, error: Any) -> RpcError:
        where = f"{self.where}: {method}"
        if not isinstance(error, dict):
            return RpcError(0, self._clean(error), where)
        number, said = error.get("code"), self._clean(error.get("message", ""))
        return RpcError(number if type(number) is int else 0, said, where)

    def _clean(self, text: Any) -> str:
        words = " ".join(re.sub(r"[^ -~]+", " ", str(text)).split())
        for secret in self.endpoint.secrets:
            words = words.replace(secret, "***")
        return words[:_TEXT]


def block_time(where: str, seconds: int) -> int:
    """NotRpc unless a calendar has it: what is `final` stands in receipts for ever."""
    if not 0 <= seconds <= LATEST_S:
        raise NotRpc(f"{where}: a block's time is in no year from 1970 to 9999")
    return seconds


def _object(body: bytes) -> dict[str, Any] | None:
    if len(body) > ANSWER_LIMIT:
        return None
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def _shape(body: bytes) -> str:
    """What came instead, in words: its bytes may hold anything."""
    if not body:
        return "empty answer"
    if len(body) > ANSWER_LIMIT:
        return f"more than {ANSWER_LIMIT} bytes"
    return "a web page" if body.lstrip()[:1] == b"<" else f"{len(body)} bytes that are no JSON object"
