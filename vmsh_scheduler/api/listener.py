"""The API's listener: aiohttp's server with the bounds it leaves open."""

import asyncio
import logging
import socket
from dataclasses import dataclass

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from vmsh_scheduler.api.surface import Surface, malformed

BACKLOG = 1024
"""Connections that the kernel keeps for us; it may allow fewer (net.core.somaxconn)."""
ACCEPTED_AT_ONCE = 16
"""Between two looks at who has sent something: a burst puts out nobody whose request has arrived."""
LOOKS = 10
"""Per `head_s`."""
GRACE_S = 2.0

_LOG = logging.getLogger("vmsh_scheduler.api")


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """`head_s`: from the connection, or from when its last answer was ready, to the next whole head."""

    connections: int = 512
    head_s: float = 10.0
    keepalive_s: float = 5.0
    linger_s: float = 1.0
    """How long what nobody wants is read on after an answer, so that the answer is not lost by a reset."""


class ApiListener:
    """Accepts until `close`. The socket is bound already, so that a taken port stops the daemon early."""

    def __init__(self, surface: Surface, sock: socket.socket, limits: ListenerLimits | None = None) -> None:
        self._sock = sock
        self._surface = surface
        self._limits = limits or ListenerLimits()
        self._server = web.Server(self._handle, access_log=None)
        self._accepting: asyncio.Server | None = None
        self._sweeping: asyncio.Task[None] | None = None
        self._open: set[_Connection] = set()
        self._waiting: dict[_Connection, float] = {}
        """Those that owe a head, and since when; the longest first."""
        self.port = int(sock.getsockname()[1])

    async def start(self) -> "ApiListener":
        loop = asyncio.get_running_loop()
        self._accepting = await loop.create_server(self._connection, sock=self._sock, backlog=ACCEPTED_AT_ONCE)
        self._sock.listen(BACKLOG)  # asyncio takes one number for the queue and for a turn's accepts
        self._sweeping = loop.create_task(self._sweep())
        return self

    async def close(self, grace_s: float = GRACE_S) -> None:
        """Requests under way get `grace_s` seconds."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._accepting is not None:
            self._accepting.close()
        await self._server.shutdown(grace_s)

    @property
    def connections(self) -> int:
        return len(self._open)

    @property
    def idle(self) -> int:
        """Of them, those that nothing is being done for."""
        return len(self._waiting)

    def entered(self, connection: "_Connection", now: float) -> None:
        """Puts out who has waited longest when it is one too many: the newcomer itself if all others are answered."""
        self._open.add(connection)
        self._waiting[connection] = now
        if len(self._open) > self._limits.connections:
            next(iter(self._waiting)).put_out()

    def left(self, connection: "_Connection") -> None:
        self._open.discard(connection)
        self._waiting.pop(connection, None)

    def _connection(self) -> "_Connection":
        return _Connection(
            self._server,
            loop=asyncio.get_running_loop(),
            listener=self,
            keepalive_timeout=self._limits.keepalive_s,
            lingering_time=self._limits.linger_s,
        )

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """A body that is under way counts as answered: Surface bounds how long."""
        connection = request.protocol
        assert isinstance(connection, _Connection)  # noqa: S101 - aiohttp's type for what _connection made
        self._waiting.pop(connection, None)
        try:
            return await self._surface(request)
        finally:
            if connection in self._open:
                self._waiting[connection] = asyncio.get_running_loop().time()

    async def _sweep(self) -> None:
        """aiohttp waits for a whole head, and for a reader, as long as they take."""
        while True:
            await asyncio.sleep(self._limits.head_s / LOOKS)
            oldest = asyncio.get_running_loop().time() - self._limits.head_s
            for connection in [each for each, since in self._waiting.items() if since < oldest]:
                connection.put_out()

    def refused(self, status: int) -> web.Response:
        return malformed(self._surface.tally, status)


class _Connection(RequestHandler):
    """Tells the listener when it comes and goes; answers what is no HTTP in our shape, and logs none of it."""

    __slots__ = ("_listener",)

    def __init__(
        self,
        server: web.Server,
        *,
        loop: asyncio.AbstractEventLoop,
        listener: ApiListener,
        keepalive_timeout: float,
        lingering_time: float,
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # None switches it off, which the annotation leaves out
            logger=_LOG,
            auto_decompress=False,  # no bombs: bodies are plain JSON here
            keepalive_timeout=keepalive_timeout,
            lingering_time=lingering_time,
        )
        self._listener = listener

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.entered(self, asyncio.get_running_loop().time())

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.left(self)
        super().connection_lost(exc)

    def put_out(self) -> None:
        """At once: a plain close would wait for those who read nothing."""
        self._listener.left(self)
        transport = self.transport
        self.force_close()
        if transport is not None:
            transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio's own contract: True keeps our side open
        """A client may end its side as soon as it has asked: it is answered, and then closed."""
        waiter = self._waiter
        asked = self._request_count > 0 and (waiter is None or waiter.done())
        request = self._current_request
        cut_off = request is not None and not request.content.is_eof()
        self.close()
        return asked and not cut_off

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status >= 500:
            _LOG.error("api failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("half an answer is out already")
        return self._listener.refused(status)
