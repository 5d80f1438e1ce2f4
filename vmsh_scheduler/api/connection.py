"""One connection, one request: the head is timed, bounded and read strictly before aiohttp sees a byte of it."""

import asyncio
import logging
import os
import socket
import struct
from dataclasses import dataclass, field
from http import HTTPStatus

from aiohttp import web

from vmsh_scheduler.api.head import END, HEAD_LIMIT, HeadRules, inspect
from vmsh_scheduler.api.messages import Reply, error_reply

SERVER_NAME = "vmsh-scheduler"
LINGER_S = 1.0
"""How long a refused client may still talk, so that it can read why."""
LINGER_BYTES = 64 * 1024
SEND_BUFFER = 128 * 1024
"""What the kernel keeps for a reader (it doubles this); left alone it grows to 4 MB each."""

_SILENT = logging.Logger("no access log", logging.CRITICAL + 1)  # noqa: LOG001 - a sink of our own, in no tree
_LOG = logging.getLogger("vmsh_scheduler.http")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener; times in seconds."""

    rules: HeadRules = field(default_factory=HeadRules)
    connections: int = 256
    head_s: float = 3.0
    body_s: float = 10.0
    exchange_s: float | None = 10.0
    """From a whole head to the last byte of the answer; None: as long as it takes."""
    owner_only: bool = False
    """Unix socket: only our own user and root may talk."""


class Gate:
    """Counts a listener's connections; when full, the oldest that has not said anything whole makes room."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._open: set[Connection] = set()
        self._half_open: dict[Connection, None] = {}

    def enter(self, connection: "Connection") -> bool:
        if len(self._open) >= self.limits.connections and not self._evict():
            return False
        self._open.add(connection)
        self._half_open[connection] = None
        return True

    def spoke(self, connection: "Connection") -> None:
        self._half_open.pop(connection, None)

    def leave(self, connection: "Connection") -> None:
        self._open.discard(connection)
        self._half_open.pop(connection, None)

    def _evict(self) -> bool:
        oldest = next(iter(self._half_open), None)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.drop()
        return True


class Connection(web.RequestHandler):
    """Feeds aiohttp exactly one checked request; everything else ends here."""

    def __init__(self, manager: web.Server, gate: Gate, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(manager, loop=loop, logger=_LOG, access_log=_SILENT, lingering_time=0, auto_decompress=False)
        self._gate = gate
        self._head = b""
        self._rest = 0
        self._phase = self._take_head
        self._discarded = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        _set(transport, socket.SO_SNDBUF, SEND_BUFFER)
        limits = self._gate.limits
        if not self._gate.enter(self) or (limits.owner_only and not _is_owner(transport)):
            self.drop()
            return
        self._timer = self._loop.call_later(limits.head_s, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._gate.leave(self)
        self._set_timer(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._phase(data)

    def drop(self) -> None:
        """End it at once; what the kernel still holds for a slow reader goes with it."""
        if isinstance(self.transport, asyncio.Transport):
            _set(self.transport, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.transport.abort()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What aiohttp refuses after all: our shape, no version, no text of the exception."""
        _LOG.debug("request refused", exc_info=exc)
        reply = error_reply(status, "bad_request", HTTPStatus(status).phrase)
        return web.Response(status=status, body=reply.body, headers=plain_headers(reply))

    def _take_head(self, data: bytes) -> None:
        self._head += data
        end = self._head.find(END, 0, HEAD_LIMIT)
        if end >= 0:
            self._judge(end + len(END))
        elif len(self._head) >= HEAD_LIMIT:
            self._refuse(error_reply(431, "headers_too_large", f"headers are limited to {HEAD_LIMIT} bytes"))

    def _judge(self, end: int) -> None:
        found = inspect(self._head[:end], self._gate.limits.rules)
        if isinstance(found, Reply):
            self._refuse(found)
            return
        self._gate.spoke(self)
        self._set_timer(self._gate.limits.exchange_s)
        head, body, self._head = self._head[:end], self._head[end:], b""
        self._rest, self._phase = found, self._take_body
        super().data_received(head)
        self._take_body(body)

    def _take_body(self, data: bytes) -> None:
        """Only what Content-Length announced; one connection carries one request."""
        part, self._rest = data[: self._rest], max(0, self._rest - len(data))
        if part:
            super().data_received(part)

    def _discard(self, data: bytes) -> None:
        self._discarded += len(data)
        if self._discarded > LINGER_BYTES:
            self.drop()

    def _too_slow(self) -> None:
        self._refuse(error_reply(408, "timeout", f"send the whole head within {self._gate.limits.head_s:g} s"))

    def _refuse(self, reply: Reply) -> None:
        """Answered here; the write side is closed first, so that the client reads the answer and no reset."""
        self._phase, self._head = self._discard, b""
        self._gate.spoke(self)
        transport = self.transport
        if not isinstance(transport, asyncio.Transport) or transport.is_closing():
            return
        transport.write(raw(reply))
        if transport.can_write_eof():
            transport.write_eof()
        self._set_timer(LINGER_S)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self.drop)


def plain_headers(reply: Reply) -> dict[str, str]:
    """What every answer carries: no version, no guessing of types, no second request."""
    return {
        "Server": SERVER_NAME,
        "Content-Type": reply.content_type,
        "X-Content-Type-Options": "nosniff",
        "Connection": "close",
        **reply.headers,
    }


def raw(reply: Reply) -> bytes:
    """The answer as bytes, for what never reaches aiohttp."""
    headers = plain_headers(reply) | {"Content-Length": str(len(reply.body))}
    lines = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join(lines).encode() + END + reply.body


def _set(transport: asyncio.BaseTransport, option: int, value: int | bytes) -> None:
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, option, value)


def _is_owner(transport: asyncio.BaseTransport) -> bool:
    """SO_PEERCRED of unix(7): who connected, as the kernel knows it."""
    peer = transport.get_extra_info("socket")
    packed = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return uid in {0, os.geteuid()}
