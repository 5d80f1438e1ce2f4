"""One connection of HTTP/1.1 as a client: what it reads is taken apart by llhttp (httptools)."""

import asyncio
from dataclasses import dataclass
from typing import cast

import httptools

HEADERS_LIMIT = 64 * 1024
"""Bytes of an answer that are no body: status line, headers, interim answers (1xx), sizes and extensions of chunks,
trailers. The parser joins a header that comes in pieces, which is dear for a long one."""
_DEAREST = 9
"""Bytes that a byte of body may take: chunks of one byte each take six."""
LINGER_S = 0.1
"""A good answer's body is not waited for; one that comes at once leaves the connection fit for the next call."""


class Garbled(Exception):
    """What came is no HTTP/1.1 answer, or more of it than is read."""


@dataclass(slots=True)
class Answer:
    """What came of one request. `whole`: to the end of the body."""

    status: int = 0
    body: bytes = b""
    whole: bool = False
    framed: bool = False
    """The answer says itself where its body ends; without that the end of the connection does."""


class Connection(asyncio.Protocol):
    """One exchange after the other, never two at once. Whoever is cancelled meanwhile closes it."""

    __slots__ = (
        "_answer",
        "_chunks",
        "_done",
        "_keep",
        "_kept",
        "_limit",
        "_lingers",
        "_loop",
        "_parser",
        "_read",
        "_size",
        "_timer",
        "_transport",
        "idle_since",
        "reusable",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._answer = Answer()
        self._chunks: list[bytes] = []
        self._done: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._limit = self._size = self._read = 0
        self._lingers = False
        self.reusable = True
        self.idle_since = 0.0

    async def exchange(self, request: bytes, deadline: float, *, limit: int, lingers: bool = False) -> Answer:
        """`deadline` by the loop's time; at most `limit` bytes of body are kept. With `lingers` it is the status that
        counts: a body that does not come is not missed.

        Raises TimeoutError, OSError (the connection ended before the answer began), Garbled."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._answer, self._chunks = Answer(), []
        self._limit, self._lingers, self._size, self._read = limit, lingers, 0, 0
        self._done = self._loop.create_future()
        self._timer = self._loop.call_at(deadline, self._late)
        try:
            self._transport.write(request)
            return await self._done
        except BaseException:
            self.close()
            raise
        finally:
            self._timer.cancel()
            self._done = None

    def close(self) -> None:
        """At once; what is still to be written is not."""
        self.reusable = False
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def eof_received(self) -> None:
        self.reusable = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        # each holds the other: what it joined of a header would stay until the next search for garbage
        del self._parser
        if self._done is None or self._done.done():
            return
        if not self._answer.status:
            self._fail(exc or ConnectionResetError("the other side hung up"))
        else:
            self._answer.whole = not self._answer.framed and exc is None
            self._finish()

    def data_received(self, data: bytes) -> None:
        """What comes without having been asked for ends the connection."""
        if self._done is None or self._done.done():
            self.close()
            return
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._bad(str(error))
            return
        if self._read - _DEAREST * self._size > HEADERS_LIMIT and not self._answer.whole:
            self._bad("headers or trailers without end")

    def on_message_begin(self) -> None:
        if self._answer.whole:
            raise Garbled("more than was asked for")  # nothing of it may get into the answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() in (b"content-length", b"transfer-encoding"):
            self._answer.framed = True

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status == 101:
            raise Garbled("another protocol, which nobody asked for")
        if status < 100:
            raise Garbled("no status")
        if status < 200:
            self._answer.framed = False
            return
        self._answer.status = status
        if self._lingers and status < 300 and self._timer is not None:
            until = min(self._timer.when(), self._loop.time() + LINGER_S)
            self._timer.cancel()
            self._timer = self._loop.call_at(until, self._late)

    def on_body(self, body: bytes) -> None:
        left = self._limit - self._size
        if left <= 0:
            return
        self._chunks.append(body[:left])
        self._size += len(body)
        if self._size >= self._limit:
            self._finish()

    def on_message_complete(self) -> None:
        if not self._answer.status:  # of an interim answer: the real one follows
            return
        self._answer.whole = True
        self.reusable = self.reusable and self._parser.should_keep_alive() and self._all_sent()
        self._finish()

    def _all_sent(self) -> bool:
        """False: the answer came before the whole request was taken."""
        return self._transport is not None and not self._transport.get_write_buffer_size()

    def _late(self) -> None:
        if self._lingers and self._answer.status:
            self._finish()
        else:
            self._fail(TimeoutError())

    def _bad(self, why: str) -> None:
        """An answer whose status counts is not undone by what follows it."""
        if self._answer.status and self._done is not None and not self._done.done():
            self._finish()
        else:
            self._fail(Garbled(why))
        self.close()

    def _finish(self) -> None:
        """Enough of the answer is there; one that is not whole leaves the connection unfit for another."""
        self._answer.body = b"".join(self._chunks)
        if not self._answer.whole:
            self.reusable = False
        if self._done is not None and not self._done.done():
            self._done.set_result(self._answer)

    def _fail(self, error: Exception) -> None:
        self.reusable = False
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)
