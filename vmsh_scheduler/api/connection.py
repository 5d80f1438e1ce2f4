"""One connection, one request: its body, its answer, and how long both may take."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

from vmsh_scheduler.api.acceptor import Caller
from vmsh_scheduler.api.gate import Gate
from vmsh_scheduler.api.messages import Reply, head_of

SEND_BUFFER = 128 * 1024
"""What the kernel keeps for a reader (it doubles this); left alone it grows to 4 MB each."""
SLICE = 16 * 1024
"""Bytes given to a connection at a time: a slow reader holds this much, not the whole answer."""

Answer = Callable[[bytes, Awaitable[bytes]], Awaitable[Reply]]
"""From a head that was checked, and the body when it has come; never raises."""


class Exchange(asyncio.Protocol):
    """Ends with the last byte of the answer, with its time, or with the client."""

    def __init__(self, gate: Gate, answer: Answer, head: bytes, body: bytes, body_length: int) -> None:
        loop = asyncio.get_running_loop()
        self._gate = gate
        self._answer = answer
        self._head = head
        self._body = bytearray(body[:body_length])
        self._body_length = body_length
        self._whole: asyncio.Future[bytes] = loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._dropped = False

    async def serve(self, sock: socket.socket) -> None:
        """From the connection to its end. An OSError means that the client is gone."""
        await asyncio.get_running_loop().connect_accepted_socket(lambda: self, sock)
        self._take(b"")
        reply = await self._answer(self._head, self._whole)
        await self._send(head_of(reply), b"" if self._head.startswith(b"HEAD ") else reply.body)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  of a stream socket
        self._transport = transport
        if self._dropped:
            self.drop()
            return
        transport.set_write_buffer_limits(high=0)
        _set(transport, socket.SO_SNDBUF, SEND_BUFFER)
        seconds = self._gate.limits.exchange_s
        self._timer = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self.drop)

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def eof_received(self) -> bool:
        """Who has said everything may still want to read."""
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._transport = None
        self._gate.leave(self)
        self._writable.set()
        self._whole.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def drop(self) -> None:
        """End it at once; what the kernel still holds for a slow reader goes with it."""
        self._dropped = True
        if self._transport is not None:
            _set(self._transport, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()

    def _take(self, data: bytes) -> None:
        """Only what Content-Length announced."""
        self._body += data[: self._body_length - len(self._body)]
        if len(self._body) == self._body_length and not self._whole.done():
            self._whole.set_result(bytes(self._body))

    async def _send(self, *parts: bytes) -> None:
        """Without a copy of the whole: many may be reading the same answer."""
        for part in parts:
            view = memoryview(part)
            for start in range(0, len(view), SLICE):
                await self._write(view[start : start + SLICE])
        await self._writable.wait()
        if self._transport is not None:
            self._transport.close()

    async def _write(self, piece: memoryview) -> None:
        await self._writable.wait()
        if self._transport is not None:
            self._transport.write(piece)


class Exchanges:
    """Begins one for every caller with a good head."""

    def __init__(self, gate: Gate, answer: Answer) -> None:
        self._gate = gate
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._going_on: dict[asyncio.Task[None], Exchange] = {}

    def begin(self, caller: Caller, sock: socket.socket, head: bytes, body: bytes, body_length: int) -> None:
        exchange = Exchange(self._gate, self._answer, head, body, body_length)
        self._gate.owe(caller, exchange, self._loop.time())
        task = self._loop.create_task(self._serve(exchange, sock))
        self._going_on[task] = exchange
        task.add_done_callback(self._going_on.pop)

    async def close(self, grace_s: float) -> None:
        """Answers under way get `grace_s` seconds."""
        if self._going_on:
            await asyncio.wait(self._going_on, timeout=grace_s)
        for task, exchange in tuple(self._going_on.items()):
            exchange.drop()
            task.cancel()

    async def _serve(self, exchange: Exchange, sock: socket.socket) -> None:
        try:
            await exchange.serve(sock)
        except OSError:  # gone meanwhile
            self._gate.leave(exchange)
            sock.close()


def _set(transport: asyncio.Transport, option: int, value: int | bytes) -> None:
    peer = transport.get_extra_info("socket")
    if peer is not None and peer.fileno() >= 0:
        peer.setsockopt(socket.SOL_SOCKET, option, value)
