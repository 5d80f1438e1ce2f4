"""Listeners: a TCP one for metrics and health, a Unix one for control; both over one bounded request path."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

from vmsh_scheduler.api.acceptor import Acceptor
from vmsh_scheduler.api.client import CONTROL_NAME
from vmsh_scheduler.api.connection import Exchanges
from vmsh_scheduler.api.control import control_routes
from vmsh_scheduler.api.errors import to_wire
from vmsh_scheduler.api.gate import Gate, Limits
from vmsh_scheduler.api.head import HeadRules, request_of
from vmsh_scheduler.api.messages import BadRequest, Reply, Request, Routes, error_reply, json_reply
from vmsh_scheduler.api.operations import Operations, Probes
from vmsh_scheduler.api.probes import probe_routes
from vmsh_scheduler.api.tcp_socket import Address, bind_tcp
from vmsh_scheduler.api.unix_socket import BoundSocket, bind_private
from vmsh_scheduler.errors import SchedulerError

CONTROL_BODY_LIMIT = 64 * 1024
QUERY_FIELDS = 20
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_LOG = logging.getLogger("vmsh_scheduler.http")


class Listener:
    """A server that accepts; `close` ends it and every connection."""

    def __init__(self, sock: socket.socket, limits: Limits, routes: Routes, release: Callable[[], None]) -> None:
        gate = Gate(limits)
        self._exchanges = Exchanges(gate, _Answers(routes, limits.body_s))
        self._acceptor = Acceptor(sock, gate, self._exchanges.begin)
        self._release = release
        name = sock.getsockname()
        self.port = int(name[1]) if isinstance(name, tuple) else 0
        """The TCP port in use (also when 0 was asked for); 0 for a Unix socket."""

    async def close(self, grace_s: float = 2.0) -> None:
        """Answers under way get `grace_s` seconds."""
        self._acceptor.close()
        await self._exchanges.close(grace_s)
        self._release()


async def listen_metrics(
    address: Address, probes: Probes, limits: Limits | None = None, *, sock: socket.socket | None = None
) -> Listener:
    """Health and metrics over TCP; raises Unavailable if the place is taken. `sock`: already bound there."""
    rules = HeadRules(loopback_hosts=address.host in LOOPBACK)
    bound = bind_tcp(address) if sock is None else sock
    return Listener(bound, limits or Limits(rules=rules), probe_routes(probes), lambda: None)


async def listen_control(directory: str, operations: Operations, *, body_s: float = 10.0) -> Listener:
    """The owner's socket in the state directory, whose lock the caller holds."""
    rules = HeadRules(methods=("GET", "HEAD", "POST"), body_limit=CONTROL_BODY_LIMIT)
    limits = Limits(rules=rules, body_s=body_s, exchange_s=None, owner_only=True)
    bound: BoundSocket = bind_private(directory, CONTROL_NAME)
    return Listener(bound.sock, limits, control_routes(operations), bound.release)


class _Answers:
    """From a request's head to a route's reply."""

    def __init__(self, routes: Routes, body_s: float) -> None:
        self._routes = routes
        self._body_s = body_s

    async def __call__(self, head: bytes, body: Awaitable[bytes]) -> Reply:
        try:
            return await self._dispatch(*request_of(head), body)
        except BadRequest as error:
            return error_reply(400, "bad_request", str(error))
        except TimeoutError:
            return error_reply(408, "timeout", f"send the whole body within {self._body_s:g} s")
        except SchedulerError as error:
            status, answer = to_wire(error)
            return json_reply(status, answer)
        except Exception:
            _LOG.exception("request failed")
            return error_reply(500, "internal", "internal error; the log has the trace")

    async def _dispatch(self, method: str, target: str, accept: str, body: Awaitable[bytes]) -> Reply:
        """The path is compared as it arrived; HEAD is GET without the body."""
        path, _, query = target.partition("?")
        methods = self._routes.get(path)
        if methods is None:
            return error_reply(404, "not_found", "no such path")
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allow = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
            return error_reply(405, "method_not_allowed", f"use {allow}", {"Allow": allow})
        async with asyncio.timeout(self._body_s):
            received = await body
        return await handler(Request(method, path, _query(query), accept, received))


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS, errors="strict")
    except ValueError as error:
        raise BadRequest("the query string makes no sense") from error
    if len(dict(pairs)) != len(pairs):
        raise BadRequest("a query parameter is given twice")
    return dict(pairs)
