"""The one HTTP client: pooled, bounded, and for URLs of strangers only to addresses that the guard lets pass."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from vmsh_scheduler import __version__
from vmsh_scheduler.net.calls import CallFailed, Reply
from vmsh_scheduler.net.guard import AllowList, literal_refused, refused, url_problem
from vmsh_scheduler.net.resolver import BoundedResolver, LookupsStuck

USER_AGENT = f"vmsh-scheduler/{__version__}"
HEAD = 4096
"""What is kept of the body of a POST's reply."""
MOST_TARGETS = 10_000
"""URLs whose check is remembered: nothing that it depends on changes while the program runs."""
_IDLE_S = 4.0
"""Below the 5 s after which Node's servers hang up, so that a call seldom meets a connection that is being closed."""
_WINDOW = 32 * 1024
_LINGER_S = 0.1
"""A good reply's body is not waited for; one that comes at once leaves the connection fit for the next call."""


class HttpClient:
    """No redirects, cookies, proxies or credentials from the environment, no decompression. Use in one event loop.

    Connections made for URLs of configuration files and for those of strangers are pooled apart: an address that
    only the former may reach is never met again through the pool."""

    def __init__(
        self,
        *,
        allow: AllowList | None = None,
        loopback_ok: bool = False,
        limit: int = 100,
        limit_per_host: int = 16,
        resolver: AbstractResolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allow = allow or AllowList()
        self._loopback_ok = loopback_ok
        self._limits = limit, limit_per_host
        self._resolver = resolver
        self._own: list[BoundedResolver] = []
        self._tls = tls
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._checked = lru_cache(MOST_TARGETS)(self._target)

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, trusted: bool
    ) -> Reply:
        """`timeout_s` is for everything up to the reply's headers; what is read of the body never makes a call
        fail that has a status. Raises CallFailed."""
        target = self._checked(url, trusted=trusted)
        status, head = 0, bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._send("POST", target, headers, body, trusted=trusted)
                status = response.status
                try:
                    await _look(response, head)
                finally:
                    response.release()
        except Exception as error:  # whatever a stranger's server makes the library raise is a failed call
            if not status:
                raise _failed(error, target) from error
        return Reply(status, bytes(head))

    async def get(self, url: str, headers: Mapping[str, str], *, timeout_s: float, limit: int) -> Reply:
        """The whole body, or `too_large`. For URLs of the operator: not guarded. Raises CallFailed."""
        target, body = URL(url, encoded=True), bytearray()
        try:
            async with asyncio.timeout(timeout_s):
                response = await self._send("GET", target, headers, None, trusted=True)
                try:
                    await _read(response, body, limit + 1)
                finally:
                    response.release()
        except Exception as error:  # as in `post`
            raise _failed(error, target) from error
        if len(body) > limit:
            raise CallFailed("too_large", f"the answer of {target.host} is longer than {limit} bytes")
        return Reply(response.status, bytes(body))

    async def close(self) -> None:
        """Calls in flight fail; a call made later would open anew."""
        sessions = list(self._sessions.values())
        self._sessions.clear()
        for session in sessions:
            await session.close()
        while self._own:
            await self._own.pop().close()

    def _target(self, url: str, *, trusted: bool) -> URL:
        """Parsed by the library that connects, so that what was checked is what is called."""
        if not trusted and (problem := url_problem(url)):
            raise CallFailed("refused_address", f"the URL is refused: {problem}")
        try:
            target = URL(url)
            host, port = target.raw_host, target.port
        except ValueError as error:
            raise CallFailed("protocol", "the URL cannot be read") from error
        if not host or not port or target.scheme not in ("http", "https"):
            raise CallFailed("protocol", "the URL has no host, or another scheme than http and https")
        why = "" if trusted else literal_refused(host, port, self._allow, loopback_ok=self._loopback_ok)
        if why:
            raise CallFailed("refused_address", f"{host} is refused: {why}")
        return target

    async def _send(
        self, method: str, target: URL, headers: Mapping[str, str], body: bytes | None, *, trusted: bool
    ) -> aiohttp.ClientResponse:
        return await self._session(trusted=trusted).request(
            method, target, data=body, headers=headers, allow_redirects=False
        )

    def _session(self, *, trusted: bool) -> aiohttp.ClientSession:
        if trusted not in self._sessions:
            self._sessions[trusted] = aiohttp.ClientSession(
                connector=self._connector(trusted=trusted),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),  # ours are to the millisecond
                auto_decompress=False,
                trust_env=False,
                read_bufsize=16 * 1024,
            )
        return self._sessions[trusted]

    def _connector(self, *, trusted: bool) -> aiohttp.TCPConnector:
        limit, per_host = self._limits
        resolver = self._resolver
        if resolver is None:
            resolver = BoundedResolver()  # one each: strangers' names that hang hold up no others
            self._own.append(resolver)
        return aiohttp.TCPConnector(
            resolver=resolver if trusted else _GuardedResolver(resolver, self._allow, loopback_ok=self._loopback_ok),
            limit=limit,
            limit_per_host=per_host,
            keepalive_timeout=_IDLE_S,
            ssl=self._tls or True,
            socket_factory=_socket,
        )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """What floods us piles up at its sender: by default one read of a socket may take 256 KiB (asyncio)."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _WINDOW)
    return made


class _Refused(OSError):
    """Every address of a name is refused. An OSError, because that is what the connector takes from a resolver."""


class _GuardedResolver(AbstractResolver):
    """Gives the connector vetted addresses only; it connects to what it was given and never asks again, so a name
    that changes its address in between (DNS rebinding) gains nothing."""

    def __init__(self, inner: AbstractResolver, allow: AllowList, *, loopback_ok: bool) -> None:
        self._inner = inner
        self._allow = allow
        self._loopback_ok = loopback_ok

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        why = [refused(one["host"], port, host, self._allow, loopback_ok=self._loopback_ok) for one in found]
        good = [one for one, problem in zip(found, why, strict=True) if not problem]
        if found and not good:
            raise _Refused(why[0])
        return good

    async def close(self) -> None:
        await self._inner.close()


async def _look(response: aiohttp.ClientResponse, head: bytearray) -> None:
    if not 200 <= response.status < 300:
        await _read(response, head, HEAD)
        return
    if response.content.is_eof():  # all of it came with the headers, as short replies do
        head += response.content.read_nowait(HEAD)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            await _read(response, head, HEAD)


async def _read(response: aiohttp.ClientResponse, into: bytearray, limit: int) -> None:
    """At most `limit` bytes; a body that goes on has its connection closed by the release that follows."""
    while len(into) < limit and (chunk := await response.content.read(limit - len(into))):
        into += chunk


def _failed(error: Exception, target: URL) -> CallFailed:
    where = f"{target.raw_host}:{target.port}"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, _Refused):
        return CallFailed("refused_address", f"{where} is refused: {cause}")
    if isinstance(cause, LookupsStuck):
        return CallFailed("lookup", f"{where} is not called: {cause}")
    if isinstance(error, TimeoutError):
        return CallFailed("timeout", f"no answer from {where} in time")
    if isinstance(error, (aiohttp.ClientConnectionError, OSError)):
        return CallFailed("connect", f"cannot talk to {where}: {type(error).__name__}")
    return CallFailed("protocol", f"{where} does not answer as HTTP says: {type(error).__name__}")
