"""Connections that wait to be used again, and how many there may be."""

import asyncio
import socket
import ssl
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from aiohappyeyeballs import AddrInfoType, start_connection

from vmsh_scheduler.net.connection import Connection
from vmsh_scheduler.net.resolver import Resolver, literal

IDLE_S = 4.0
"""Below the 5 s after which Node's servers hang up, so that a call seldom meets a connection that is being closed."""
_WINDOW = 32 * 1024
_NEXT_ADDRESS_S = 0.25
"""After so long the next address is tried beside the one before (RFC 8305)."""


class Place(NamedTuple):
    """Where a connection leads."""

    host: str
    port: int
    tls: bool


class Pool:
    """At most `limit` connections in use, and `per_host` to one place; whoever comes later waits in line.

    Use in one event loop."""

    def __init__(self, resolver: Resolver, tls: Callable[[], ssl.SSLContext], *, limit: int, per_host: int) -> None:
        self._resolver = resolver
        self._tls = tls
        self._limit, self._per_host = limit, per_host
        self._used: Counter[Place] = Counter()
        self._all_used = 0
        self._idle: dict[Place, deque[Connection]] = {}
        """Used last, taken first."""
        self._line: list[tuple[Place, asyncio.Future[None]]] = []
        self._open: set[Connection] = set()
        self._sweep_at: asyncio.TimerHandle | None = None
        self._closed = False

    def spare(self, place: Place) -> Connection | None:
        """One that waits to be used, without waiting for it. Give it `back`; None: `take` one."""
        found = self._waiting(place) if self._has_room(place) else None
        if found is not None:
            self._enter(place)
        return found

    async def take(self, place: Place) -> Connection:
        """Give it `back`. Raises OSError, and what the resolver and TLS refuse with."""
        if self._closed:
            raise ConnectionResetError("the client is closed")
        if self._has_room(place):  # then nobody who waits has
            self._enter(place)
        else:
            await self._wait(place)
        try:
            return self._waiting(place) or await self._connect(place)
        except BaseException:
            self._leave(place)
            raise

    def back(self, place: Place, connection: Connection) -> None:
        """Kept for the next call if it is fit for one."""
        if connection.reusable:
            loop = asyncio.get_running_loop()
            connection.idle_since = loop.time()
            if sum(map(len, self._idle.values())) >= self._limit:
                self._drop_oldest()
            self._idle.setdefault(place, deque()).append(connection)
            if self._sweep_at is None:
                self._sweep_at = loop.call_later(IDLE_S, self._sweep)
        else:
            self._drop(connection)
        self._leave(place)

    def close(self) -> None:
        """Calls in flight fail, and none begins anew."""
        self._closed = True
        if self._sweep_at is not None:
            self._sweep_at.cancel()
            self._sweep_at = None
        self._idle.clear()
        for _, turn in self._line:
            if not turn.done():
                turn.set_exception(ConnectionResetError("the client is closed"))
        self._line.clear()
        for connection in list(self._open):
            self._drop(connection)

    def _has_room(self, place: Place) -> bool:
        return self._all_used < self._limit and self._used[place] < self._per_host

    def _enter(self, place: Place) -> None:
        self._used[place] += 1
        self._all_used += 1

    def _leave(self, place: Place) -> None:
        """The first in line that has room now goes on."""
        self._all_used -= 1
        self._used[place] -= 1
        if not self._used[place]:
            del self._used[place]
        for index, (other, turn) in enumerate(self._line):
            if self._has_room(other) and not turn.done():  # done: cancelled, and about to leave the line
                del self._line[index]
                self._enter(other)
                turn.set_result(None)
                return

    async def _wait(self, place: Place) -> None:
        entry = place, asyncio.get_running_loop().create_future()
        self._line.append(entry)
        try:
            await entry[1]
        except asyncio.CancelledError:
            if entry in self._line:
                self._line.remove(entry)
            else:
                self._leave(place)
            raise

    def _waiting(self, place: Place) -> Connection | None:
        waiting = self._idle.get(place, ())
        now = asyncio.get_running_loop().time() if waiting else 0.0
        while waiting:
            connection = waiting.pop()
            if connection.reusable and now - connection.idle_since < IDLE_S:
                return connection
            self._drop(connection)
        return None

    async def _connect(self, place: Place) -> Connection:
        loop = asyncio.get_running_loop()
        infos = literal(place.host, place.port) or await self._resolver.resolve(place.host, place.port)
        if not infos:
            raise OSError("the name has no address that this machine can use")
        sock = await start_connection(
            infos, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=loop, socket_factory=_socket
        )
        tls = self._tls() if place.tls else None
        name = place.host.rstrip(".") if place.tls else None
        connection = Connection(loop)
        try:
            await loop.create_connection(lambda: connection, sock=sock, ssl=tls, server_hostname=name)
        except BaseException:
            connection.close()  # given up as its handshake ended, it would watch what has this descriptor next
            sock.close()
            raise
        self._open.add(connection)
        return connection

    def _drop_oldest(self) -> None:
        """As many may wait as may be used: a stranger who names many ports takes no more descriptors."""
        place = min((place for place, waiting in self._idle.items() if waiting), key=self._since, default=None)
        if place is not None:
            self._drop(self._idle[place].popleft())
            if not self._idle[place]:
                del self._idle[place]

    def _since(self, place: Place) -> float:
        return self._idle[place][0].idle_since

    def _drop(self, connection: Connection) -> None:
        self._open.discard(connection)
        connection.close()

    def _sweep(self) -> None:
        """Nobody came for them."""
        self._sweep_at = None
        loop = asyncio.get_running_loop()
        for place, waiting in list(self._idle.items()):
            while waiting and not (waiting[0].reusable and loop.time() - waiting[0].idle_since < IDLE_S):
                self._drop(waiting.popleft())
            if not waiting:
                del self._idle[place]
        if self._idle:
            self._sweep_at = loop.call_later(IDLE_S, self._sweep)


def _socket(info: AddrInfoType) -> socket.socket:
    """What floods us piles up at its sender: by default one read of a socket may take 256 KiB (asyncio)."""
    made = socket.socket(*info[:3])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
    return made
