"""Names to addresses in threads of its own: few, as a lookup that hangs (getaddrinfo(3) has no deadline) keeps its."""

import asyncio
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Protocol

THREADS = 4
WAITING = 64
"""Names that may wait for a thread."""
LONGEST_S = 30.0
"""Nobody waits longer, whatever the thread does."""

Info = tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[Any, ...]]
"""As getaddrinfo gives it: the last part is the address, its first part the IP address as text."""
Infos = list[Info]
LookUp = Callable[[str, int, int], Infos]
_Key = tuple[str, int, int]


class LookupsStuck(OSError):
    """Too many names are being looked up already, or this one for too long."""


class Resolver(Protocol):
    """Where names lead. Raises OSError."""

    async def resolve(self, host: str, port: int) -> Infos: ...


def look_up(host: str, port: int, family: int) -> Infos:
    """Blocks; raises OSError."""
    return list(socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))


def literal(host: str, port: int) -> Infos:
    """Of a host that is an address itself; empty for a name."""
    try:
        ip_address(host)
    except ValueError:
        return []
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return list(socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM, flags=flags))


class BoundedResolver:
    """One lookup per name at a time, whoever asks. Use in one event loop. The threads are daemons: a process that
    ends does not wait for a name server."""

    def __init__(
        self,
        look_up: LookUp = look_up,
        *,
        threads: int = THREADS,
        waiting: int = WAITING,
        longest_s: float = LONGEST_S,
    ) -> None:
        self._look_up = look_up
        self._most = threads
        self._waiting = waiting
        self._longest_s = longest_s
        self._asked: dict[_Key, asyncio.Future[Infos]] = {}
        self._line: deque[_Key | None] = deque()
        self._some = threading.Condition()
        self._threads = 0
        self._busy = 0
        """Threads that look up a name."""

    async def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> Infos:
        key = (host, port, family)
        future = self._asked.get(key) or self._ask(key)
        try:
            async with asyncio.timeout(self._longest_s):
                infos = await asyncio.shield(future)
        except TimeoutError:
            raise LookupsStuck(f"looking up {host} takes over {self._longest_s:g} s") from None
        return [info for info in infos if _usable(info)]

    async def close(self) -> None:
        """Threads that wait for work end; those that hang go with the process."""
        with self._some:
            self._line.extend([None] * self._threads)
            self._some.notify_all()

    def _ask(self, key: _Key) -> "asyncio.Future[Infos]":
        loop = asyncio.get_running_loop()
        with self._some:
            if self._busy + len(self._line) >= self._most + self._waiting:
                raise LookupsStuck(f"{self._most} lookups of names hang and {self._waiting} wait")
            if self._threads - self._busy <= len(self._line) and self._threads < self._most:
                self._start_thread(loop)
            self._line.append(key)
            self._some.notify()
        future = self._asked[key] = loop.create_future()
        future.add_done_callback(_seen)
        return future

    def _start_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            threading.Thread(target=self._work, args=(loop,), name="lookup", daemon=True).start()
        except RuntimeError as error:
            if not self._threads:
                raise LookupsStuck(f"no thread can be made to look up names: {error}") from error
            return
        self._threads += 1

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (key := self._next()) is not None:
            answer: Infos | Exception
            try:
                answer = self._look_up(*key)
            except Exception as error:  # OSError, and what a name that cannot be encoded makes of it
                answer = error
            with self._some:
                self._busy -= 1
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(self._answered, key, answer)

    def _next(self) -> _Key | None:
        with self._some:
            while not self._line:
                self._some.wait()
            key = self._line.popleft()
            self._busy += key is not None
            self._threads -= key is None
            return key

    def _answered(self, key: _Key, answer: Infos | Exception) -> None:
        future = self._asked.pop(key)
        if future.done():
            return
        if not isinstance(answer, Exception):
            future.set_result(answer)
        elif isinstance(answer, OSError):
            future.set_exception(answer)
        else:
            future.set_exception(OSError(f"the name cannot be looked up: {type(answer).__name__}"))


def _seen(future: "asyncio.Future[Infos]") -> None:
    """An answer that nobody waits for any more is no defect."""
    if not future.cancelled():
        future.exception()


def _usable(info: Info) -> bool:
    """False: an IPv6 address that this machine cannot use."""
    return info[0] != socket.AF_INET6 or (socket.has_ipv6 and len(info[4]) == 4)
