"""Clients of Redis: options, one way to connect, and every failure of the library as StoreDown in plain words."""

import asyncio
import codecs
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.connection import SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry
from redis.sentinel import Sentinel

from vmsh_scheduler.errors import ConfigError, NotLeading, StoreDown, StoreRefuses
from vmsh_scheduler.stores.redis.replies import reason, refuses

T = TypeVar("T")
Client = redis.asyncio.Redis
SyncClient = redis.Redis

CONNECTIONS = 32
"""Of one client at once; a command waits for a free one no longer than for its answer."""
PORT = 6379
SENTINEL_PORT = 26379
LAST_DATABASE = 2**31 - 2
"""That any server could have; usually it has 16."""
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
ANY_BYTES = "vmsh-any-bytes"
"""Error handler: names may hold lone surrogates, and come back as they were sent; bytes that are not even those are
lone surrogates too, so that one bad value is no lost connection (stores.redis.values tells it)."""
NOT_LEADING = "NOTLEADING"
"""What a script's refusal begins with when the lock is not the caller's."""


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """Where Redis is. `url` may carry user and password: neither is ever shown."""

    url: str = field(repr=False)
    """redis://, rediss://, unix:///path?db=0, redis+sentinel://host:port,host:port/service/db"""
    prefix: str = "forgeos:scheduler"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None
    """Read for every new connection, so a changed password needs no restart."""
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    connect_timeout_ms: int = 2000
    command_timeout_ms: int = 1000

    @property
    def address(self) -> str:
        """For people: host and port, or the socket's path."""
        return _target(self.url).address


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL taken apart."""

    hosts: tuple[tuple[str, int], ...]
    path: str = ""
    service: str = ""
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return self.path or ",".join(f"{host}:{port}" for host, port in self.hosts)


class _Credentials(CredentialProvider):
    """What AUTH says; a password file is read anew each time."""

    def __init__(self, username: str | None, password: str | None, file: Path | None) -> None:
        self._username = username
        self._password = password
        self._file = file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        password = self._password or ""
        if self._file is not None:
            try:
                password = self._file.read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                why = error.strerror if isinstance(error, OSError) else "not text"
                raise exceptions.AuthenticationError(f"password file {self._file}: {why}") from error
        return (self._username, password) if self._username else (password,)

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        return self.get_credentials()


class _BehindSentinels(redis.asyncio.Redis):
    """Closes its connections to the sentinels too, which the library leaves open."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        await super().aclose(close_connection_pool)
        for sentinel in cast("Any", self.connection_pool).sentinel_manager.sentinels:
            await sentinel.aclose()


class _SyncBehindSentinels(redis.Redis):
    """The same."""

    def close(self) -> None:
        super().close()
        for sentinel in cast("Any", self.connection_pool).sentinel_manager.sentinels:
            sentinel.close()


def connect(options: RedisOptions) -> Client:
    """A client that connects when it is first used and never sends a command twice. Raises ConfigError."""
    target = _target(options.url)
    words = _words(options, target) | {"retry": AsyncRetry(NoBackoff(), 0)}
    if target.service:
        sentinel = AsyncSentinel(  # type: ignore[no-untyped-call]  # the library has no types here
            target.hosts, sentinel_kwargs=_sentinel_words(words), **words
        )
        client: Client = sentinel.master_for(
            target.service, _BehindSentinels, ssl=target.tls, max_connections=CONNECTIONS
        )
        return client
    if target.path:
        words |= {"connection_class": UnixDomainSocketConnection, "path": target.path}
    else:
        words |= _host(target) | ({"connection_class": SSLConnection} if target.tls else {})
    wait_s = options.command_timeout_ms / 1000
    pool = redis.asyncio.BlockingConnectionPool(max_connections=CONNECTIONS, timeout=wait_s, **words)
    return redis.asyncio.Redis.from_pool(pool)


def connect_sync(options: RedisOptions) -> SyncClient:
    """The same for a thread or a command of the CLI. Raises ConfigError."""
    target = _target(options.url)
    words = _words(options, target) | {"retry": Retry(NoBackoff(), 0)}
    if target.service:
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # the library has no types here
            target.hosts, sentinel_kwargs=_sentinel_words(words), **words
        )
        client: SyncClient = sentinel.master_for(target.service, _SyncBehindSentinels, ssl=target.tls)  # type: ignore[no-untyped-call]  # nor here
        return client
    where: dict[str, Any] = {"unix_socket_path": target.path} if target.path else _host(target) | {"ssl": target.tls}
    return redis.Redis(**where, **words)


async def answers(options: RedisOptions) -> StoreDown | None:
    """None if it does, else why not. Raises ConfigError."""
    try:
        async with connect(options) as client:
            await guarded(client.ping())
    except StoreDown as down:
        return down
    return None


async def guarded(work: Awaitable[T]) -> T:
    """The result. Raises StoreDown or NotLeading for whatever the library raises.

    The library waits by `asyncio.wait_for`, which up to Python 3.11 forgets a cancellation that comes together with
    an answer or an error; here it is remembered, or whoever ends a term would wait for ever."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    try:
        with guarding():
            return await work
    finally:
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError


@contextmanager
def guarding() -> Iterator[None]:
    """The same for a block. Texts of the library are never passed on whole: they may quote what was sent."""
    try:
        yield
    except (exceptions.RedisError, OSError, UnicodeError) as error:
        if str(error).startswith(NOT_LEADING):
            raise NotLeading("another instance leads, or none: the lock is not this one's") from error
        what, hint = reason(error)
        raise (StoreRefuses if refuses(error) else StoreDown)(what, hint=hint) from error


def _any_bytes(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogatepass")(error)
    except UnicodeDecodeError:
        return codecs.lookup_error("surrogateescape")(error)


codecs.register_error(ANY_BYTES, _any_bytes)


def _host(target: _Target) -> dict[str, Any]:
    return {"host": target.hosts[0][0], "port": target.hosts[0][1]}


def _words(options: RedisOptions, target: _Target) -> dict[str, Any]:
    words: dict[str, Any] = {
        "db": target.db,
        "socket_connect_timeout": options.connect_timeout_ms / 1000,
        "socket_timeout": options.command_timeout_ms / 1000,
        "decode_responses": True,
        "encoding_errors": ANY_BYTES,
        "protocol": 2,  # what every server speaks that calls itself one
    }
    username = options.username or target.username
    password = target.password if options.password is None else options.password
    if username or password or options.password_file:
        words["credential_provider"] = _Credentials(username, password, options.password_file)
    return words | (_tls_words(options) if target.tls else {})


def _tls_words(options: RedisOptions) -> dict[str, Any]:
    files = {"ssl_ca_certs": options.tls_ca, "ssl_certfile": options.tls_cert, "ssl_keyfile": options.tls_key}
    return {name: str(path) for name, path in files.items() if path is not None}


def _sentinel_words(words: dict[str, Any]) -> dict[str, Any]:
    """Sentinels have no databases, and users of their own."""
    return {name: words[name] for name in ("socket_connect_timeout", "socket_timeout", "retry", "protocol")}


def _target(url: str) -> _Target:
    """Raises ConfigError, which never quotes the URL: it may hold a password."""
    try:
        parts = urlsplit(url)
        database = _database(parts)
        if parts.scheme == "unix" and parts.path:
            return _Target((), unquote(parts.path), db=database, username=_user(parts), password=_password(parts))
        if parts.scheme.endswith("+sentinel"):
            return _sentinel(parts)
        hosts = ((_host_of(parts, url), parts.port or PORT),)
    except ValueError:
        raise ConfigError("the Redis URL cannot be understood", hint="such as redis://host:6379/0") from None
    if parts.scheme not in ("redis", "rediss"):
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigError(f"the Redis URL begins with none of {known}", hint="such as redis://host:6379/0")
    tls = parts.scheme == "rediss"
    return _Target(hosts, db=database, tls=tls, username=_user(parts), password=_password(parts))


def _sentinel(parts: SplitResult) -> _Target:
    """redis+sentinel://[user:password@]host[:port],host[:port]/service[/db]; user and password are the server's."""
    hosts = tuple(_pair(word) for word in parts.netloc.rpartition("@")[2].split(",") if word)
    service, _, database = parts.path.strip("/").partition("/")
    if not hosts or not service:
        raise ConfigError("the Redis URL names no sentinel or no service", hint="redis+sentinel://host:26379/service/0")
    login = urlsplit(f"redis://{parts.netloc.rpartition('@')[0]}@h") if "@" in parts.netloc else None
    return _Target(
        hosts,
        service=unquote(service),
        db=_number_of(database),
        tls=parts.scheme.startswith("rediss"),
        username=None if login is None else _user(login),
        password=None if login is None else _password(login),
    )


def _pair(word: str) -> tuple[str, int]:
    at = urlsplit(f"redis://{word}")
    return _host_of(at, word), at.port or SENTINEL_PORT


def _host_of(parts: SplitResult, url: str) -> str:
    """`urlsplit` drops line breaks and tabs without a word, so they are looked for in the URL. Raises ConfigError."""
    host = parts.hostname or "localhost"
    meant = unquote(host)
    if " " in meant or not meant.isprintable() or any(char in url for char in "\t\r\n"):
        raise ConfigError("the host in the Redis URL holds white space or a control character")
    return host


def _database(parts: SplitResult) -> int:
    """From `?db=`, else from the path. Raises ValueError, also for any other word: none may undo our timeouts."""
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    if set(query) - {"db"}:
        raise ValueError("only db")
    path = "" if parts.scheme not in ("redis", "rediss") else parts.path.strip("/")
    return _number_of(query["db"][0] if "db" in query else path)


def _number_of(database: str) -> int:
    """How many there are is the server's to say. Raises ConfigError."""
    number = int(database) if database.isascii() and database.isdigit() and len(database) < 11 else -1
    if database and not 0 <= number <= LAST_DATABASE:
        raise ConfigError("the database in the Redis URL is no number from 0 up", hint="such as redis://host:6379/0")
    return max(number, 0)


def _user(parts: SplitResult) -> str | None:
    return unquote(parts.username) if parts.username else None


def _password(parts: SplitResult) -> str | None:
    return unquote(parts.password) if parts.password else None
