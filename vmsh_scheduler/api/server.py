"""Listeners: a TCP one for metrics and health, a Unix one for control; both over one bounded request path.

Importing this loads aiohttp (0.15 s): the daemon does so after its first slot is planned."""

import asyncio
import logging
import socket
from collections.abc import Callable
from urllib.parse import parse_qsl

from aiohttp import web

from vmsh_scheduler.api.connection import Connection, Gate, Limits, plain_headers
from vmsh_scheduler.api.control import control_routes
from vmsh_scheduler.api.errors import to_wire
from vmsh_scheduler.api.head import HeadRules
from vmsh_scheduler.api.messages import BadRequest, Reply, Request, Routes, error_reply, json_reply
from vmsh_scheduler.api.operations import Operations, Probes
from vmsh_scheduler.api.probes import probe_routes
from vmsh_scheduler.api.tcp_socket import BACKLOG, Address, bind_tcp
from vmsh_scheduler.api.unix_socket import BoundSocket, bind_private
from vmsh_scheduler.errors import SchedulerError

CONTROL_NAME = "control.sock"
CONTROL_BODY_LIMIT = 64 * 1024
SLICE = 64 * 1024
"""Bytes given to a connection at a time: a slow reader holds this much, not the whole answer."""
QUERY_FIELDS = 20
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_LOG = logging.getLogger("vmsh_scheduler.http")


class Listener:
    """A server that accepts; `close` ends it and every connection."""

    def __init__(self, server: asyncio.Server, manager: web.Server, release: Callable[[], None]) -> None:
        self._server = server
        self._manager = manager
        self._release = release

    @property
    def port(self) -> int:
        """The TCP port in use (also when 0 was asked for); 0 for a Unix socket."""
        name = self._server.sockets[0].getsockname()
        return int(name[1]) if isinstance(name, tuple) else 0

    async def close(self, grace_s: float = 2.0) -> None:
        """Answers under way get `grace_s` seconds."""
        self._server.close()
        await self._manager.shutdown(grace_s)
        await self._server.wait_closed()
        self._release()


async def listen_metrics(
    address: Address, probes: Probes, limits: Limits | None = None, *, sock: socket.socket | None = None
) -> Listener:
    """Health and metrics over TCP; raises Unavailable if the place is taken. `sock`: already bound there."""
    rules = HeadRules(loopback_hosts=address.host in LOOPBACK)
    gate = Gate(limits or Limits(rules=rules))
    manager = web.Server(_Answers(probe_routes(probes), gate.limits.body_s))
    loop = asyncio.get_running_loop()
    bound = bind_tcp(address) if sock is None else sock
    server = await loop.create_server(lambda: Connection(manager, gate, loop), sock=bound, backlog=BACKLOG)
    return Listener(server, manager, lambda: None)


async def listen_control(directory: str, operations: Operations, *, body_s: float = 10.0) -> Listener:
    """The owner's socket in the state directory, whose lock the caller holds."""
    rules = HeadRules(methods=("GET", "HEAD", "POST"), body_limit=CONTROL_BODY_LIMIT)
    gate = Gate(Limits(rules=rules, body_s=body_s, exchange_s=None, owner_only=True))
    manager = web.Server(_Answers(control_routes(operations), gate.limits.body_s))
    loop = asyncio.get_running_loop()
    bound: BoundSocket = bind_private(directory, CONTROL_NAME)
    server = await loop.create_unix_server(lambda: Connection(manager, gate, loop), sock=bound.sock, backlog=BACKLOG)
    return Listener(server, manager, bound.release)


class _Answers:
    """From an aiohttp request to a route's reply and back."""

    def __init__(self, routes: Routes, body_s: float) -> None:
        self._routes = routes
        self._body_s = body_s

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        reply = await self._reply(request)
        headers = plain_headers(reply)
        if len(reply.body) <= SLICE or request.method == "HEAD":
            response: web.StreamResponse = web.Response(status=reply.status, headers=headers, body=reply.body)
            response.force_close()
            return response
        return await _stream(request, reply, headers)

    async def _reply(self, request: web.BaseRequest) -> Reply:
        try:
            return await self._dispatch(request)
        except BadRequest as error:
            return error_reply(400, "bad_request", str(error))
        except TimeoutError:
            return error_reply(408, "timeout", f"send the whole body within {self._body_s:g} s")
        except SchedulerError as error:
            status, body = to_wire(error)
            return json_reply(status, body)
        except ConnectionError:
            raise
        except Exception:
            _LOG.exception("request failed")
            return error_reply(500, "internal", "internal error; the log has the trace")

    async def _dispatch(self, request: web.BaseRequest) -> Reply:
        """The path is compared as it arrived; HEAD is GET without the body."""
        path, _, query = request.raw_path.partition("?")
        methods = self._routes.get(path)
        if methods is None:
            return error_reply(404, "not_found", "no such path")
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allow = ", ".join(sorted({*methods, *(["HEAD"] if "GET" in methods else [])}))
            return error_reply(405, "method_not_allowed", f"use {allow}", {"Allow": allow})
        async with asyncio.timeout(self._body_s):
            body = await request.read()
        accept = request.headers.get("Accept", "")
        return await handler(Request(request.method, path, _query(query), accept, body))


async def _stream(request: web.BaseRequest, reply: Reply, headers: dict[str, str]) -> web.StreamResponse:
    response = web.StreamResponse(status=reply.status, headers=headers)
    response.content_length = len(reply.body)
    response.force_close()
    await response.prepare(request)
    view = memoryview(reply.body)
    for start in range(0, len(view), SLICE):
        await response.write(view[start : start + SLICE])
    await response.write_eof()
    return response


def _query(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=QUERY_FIELDS, errors="strict")
    except ValueError as error:
        raise BadRequest("the query string makes no sense") from error
    if len(dict(pairs)) != len(pairs):
        raise BadRequest("a query parameter is given twice")
    return dict(pairs)
