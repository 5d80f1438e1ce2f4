"""One request over HTTP by the standard library, bounded in time and size; redirects are an answer like any other."""

import http.client
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from vmsh_scheduler.anchors.chain import Unreachable
from vmsh_scheduler.anchors.rpc import Endpoint


@dataclass(frozen=True, slots=True)
class Ask:
    """`body` = None is a GET; `path` comes after that of the endpoint."""

    path: str = ""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def fetch(endpoint: Endpoint, ask: Ask, *, timeout_s: float, limit: int) -> tuple[int, bytes]:
    """Status and body, which is one byte longer than `limit` when there was more. Raises Unreachable."""
    method, path = "GET" if ask.body is None else "POST", endpoint.path.rstrip("/") + ask.path
    login = {"Authorization": endpoint.authorization} if endpoint.authorization else {}
    try:
        with _connected(endpoint, timeout_s) as connection:
            connection.request(method, path, ask.body, {"User-Agent": "vmsh-scheduler", **login, **ask.headers})
            answer = connection.getresponse()
            return answer.status, answer.read(limit + 1)
    except http.client.HTTPException as error:
        raise Unreachable(f"{endpoint.where} broke off, or does not speak HTTP: {type(error).__name__}") from None
    except TimeoutError:
        raise Unreachable(f"{endpoint.where} gave no answer within {timeout_s:g} s") from None
    except (OSError, UnicodeError) as error:  # names that cannot be looked up are the latter
        said = getattr(error, "strerror", None) or type(error).__name__
        raise Unreachable(f"{endpoint.where} cannot be reached: {said}") from None


@contextmanager
def _connected(endpoint: Endpoint, timeout_s: float) -> Iterator[http.client.HTTPConnection]:
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
