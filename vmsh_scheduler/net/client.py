"""The one HTTP client: pooled, bounded, and for URLs of strangers only to addresses that the guard lets pass."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import NamedTuple

from yarl import URL

from vmsh_scheduler import __version__
from vmsh_scheduler.net.calls import CallFailed, Reply
from vmsh_scheduler.net.connection import Answer, Garbled
from vmsh_scheduler.net.guard import AllowList, literal_refused, refused, url_problem
from vmsh_scheduler.net.pool import Place, Pool
from vmsh_scheduler.net.resolver import BoundedResolver, Infos, LookupsStuck, Resolver

HEAD = 4096
"""What is kept of the body of a POST's reply."""
MOST_TARGETS = 10_000
"""URLs whose check is remembered: nothing that it depends on changes while the program runs."""
_OURS = f"User-Agent: vmsh-scheduler/{__version__}\r\nAccept-Encoding: identity\r\n"


class _Target(NamedTuple):
    """A URL, taken apart."""

    place: Place
    path: str
    """And query: as the request line has them."""
    fixed: str
    """Header lines that depend on the URL alone."""

    @property
    def where(self) -> str:
        return f"{self.place.host}:{self.place.port}"


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
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allow = allow or AllowList()
        self._loopback_ok = loopback_ok
        self._limits = limit, limit_per_host
        self._resolver = resolver
        self._own: list[BoundedResolver] = []
        self._tls = tls
        self._pools: dict[bool, Pool] = {}
        self._checked = lru_cache(MOST_TARGETS)(self._check)

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, trusted: bool
    ) -> Reply:
        """`timeout_s` is for everything up to the reply's headers; what is read of the body never makes a call
        fail that has a status. Raises CallFailed."""
        target = self._checked(url, trusted=trusted)
        more = {"Accept": "*/*", **headers, "Content-Length": str(len(body))}
        request = _head("POST", target, more) + body
        answer = await self._exchange(target, request, timeout_s, trusted=trusted, limit=HEAD, lingers=True)
        return Reply(answer.status, answer.body)

    async def get(self, url: str, headers: Mapping[str, str], *, timeout_s: float, limit: int) -> Reply:
        """The whole body, or `too_large`. For URLs of the operator: not guarded. Raises CallFailed."""
        target = _target(url, encoded=True)
        answer = await self._exchange(target, _head("GET", target, headers), timeout_s, trusted=True, limit=limit + 1)
        if len(answer.body) > limit:
            raise CallFailed("too_large", f"the answer of {target.place.host} is longer than {limit} bytes")
        if not answer.whole:
            raise CallFailed("protocol", f"{target.where} does not answer as HTTP says: half a body")
        return Reply(answer.status, answer.body)

    async def close(self) -> None:
        """Calls in flight fail; a call made later would open anew."""
        while self._pools:
            self._pools.popitem()[1].close()
        while self._own:
            await self._own.pop().close()
        await asyncio.sleep(0)  # closed sockets are let go of in the next turn of the loop

    async def _exchange(
        self, target: _Target, request: bytes, timeout_s: float, *, trusted: bool, limit: int, lingers: bool = False
    ) -> Answer:
        pool = self._pools.get(trusted) or self._pool(trusted=trusted)
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            return await _asked(pool, target.place, request, deadline, limit=limit, lingers=lingers)
        except Exception as error:  # whatever a stranger's server makes a library raise is a failed call
            raise _failed(error, target) from error

    def _check(self, url: str, *, trusted: bool) -> _Target:
        """Parsed once, so that what was checked is what is called."""
        if not trusted and (problem := url_problem(url)):
            raise CallFailed("refused_address", f"the URL is refused: {problem}")
        target = _target(url)
        host, port, _ = target.place
        why = "" if trusted else literal_refused(host, port, self._allow, loopback_ok=self._loopback_ok)
        if why:
            raise CallFailed("refused_address", f"{host} is refused: {why}")
        return target

    def _pool(self, *, trusted: bool) -> Pool:
        resolver = self._resolver
        if resolver is None:
            resolver = BoundedResolver()  # one each: strangers' names that hang hold up no others
            self._own.append(resolver)
        if not trusted:
            resolver = _GuardedResolver(resolver, self._allow, loopback_ok=self._loopback_ok)
        limit, per_host = self._limits
        pool = self._pools[trusted] = Pool(resolver, self._context, limit=limit, per_host=per_host)
        return pool

    def _context(self) -> ssl.SSLContext:
        return self._tls or _default_context()


async def _asked(pool: Pool, place: Place, request: bytes, deadline: float, *, limit: int, lingers: bool) -> Answer:
    """A GET that met a connection which its server was just closing goes over the next one; a POST may have been heard,
    and does not (RFC 9110 section 9.2.2)."""
    connection = pool.spare(place)
    if connection is None:
        async with asyncio.timeout_at(deadline):
            connection = await pool.take(place)
    try:
        return await connection.exchange(request, deadline, limit=limit, lingers=lingers)
    except ConnectionError:
        if not connection.idle_since or lingers:  # 0: it was made for this call
            raise
    finally:
        pool.back(place, connection)
    return await _asked(pool, place, request, deadline, limit=limit, lingers=lingers)


@cache
def _default_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _target(url: str, *, encoded: bool = False) -> _Target:
    """Raises CallFailed."""
    try:
        parsed = URL(url, encoded=encoded)
        host, port = parsed.raw_host, parsed.port
    except ValueError as error:
        raise CallFailed("protocol", "the URL cannot be read") from error
    if not host or not port or parsed.scheme not in ("http", "https"):
        raise CallFailed("protocol", "the URL has no host, or another scheme than http and https")
    login = f"{parsed.user or ''}:{parsed.password or ''}" if parsed.raw_user or parsed.raw_password else ""
    basic = f"Authorization: Basic {b64encode(login.encode()).decode()}\r\n" if login else ""
    fixed = f"Host: {parsed.host_port_subcomponent}\r\n{_OURS}{basic}"
    return _Target(Place(host, port, parsed.scheme == "https"), parsed.raw_path_qs, fixed)


def _head(method: str, target: _Target, headers: Mapping[str, str]) -> bytes:
    """Raises CallFailed for what would be another request than was meant."""
    values = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    text = f"{method} {target.path} HTTP/1.1\r\n{target.fixed}{values}\r\n"
    lines = 2 + target.fixed.count("\n") + len(headers)
    if not text.isascii() or text.count("\n") != lines or text.count("\r") != lines or target.path.count(" "):
        raise CallFailed("protocol", f"what is to be sent to {target.where} does not fit into a request")
    return text.encode()


class _Refused(OSError):
    """Every address of a name is refused."""


class _GuardedResolver:
    """Gives the pool vetted addresses only; it connects to what it was given and never asks again, so a name
    that changes its address in between (DNS rebinding) gains nothing."""

    def __init__(self, inner: Resolver, allow: AllowList, *, loopback_ok: bool) -> None:
        self._inner = inner
        self._allow = allow
        self._loopback_ok = loopback_ok

    async def resolve(self, host: str, port: int) -> Infos:
        found = await self._inner.resolve(host, port)
        why = [refused(info[4][0], port, host, self._allow, loopback_ok=self._loopback_ok) for info in found]
        good = [info for info, problem in zip(found, why, strict=True) if not problem]
        if found and not good:
            raise _Refused(why[0])
        return good


def _failed(error: Exception, target: _Target) -> CallFailed:
    if isinstance(error, _Refused):
        return CallFailed("refused_address", f"{target.where} is refused: {error}")
    if isinstance(error, LookupsStuck):
        return CallFailed("lookup", f"{target.where} is not called: {error}")
    if isinstance(error, TimeoutError):
        return CallFailed("timeout", f"no answer from {target.where} in time")
    if isinstance(error, ssl.SSLCertVerificationError):
        return CallFailed("connect", f"cannot talk to {target.where}: Certificate refused, {error.verify_message}")
    if isinstance(error, OSError):
        return CallFailed("connect", f"cannot talk to {target.where}: {type(error).__name__}")
    why = error if isinstance(error, Garbled) else type(error).__name__
    return CallFailed("protocol", f"{target.where} does not answer as HTTP says: {why}")
