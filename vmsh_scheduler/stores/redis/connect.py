"""Clients of Redis: options, one way to connect, and every failure of the library as StoreDown in plain words."""

import asyncio
import errno
import re
import socket
import ssl
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
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from vmsh_scheduler.errors import ConfigError, NotLeading, StoreDown

T = TypeVar("T")
Client = redis.asyncio.Redis
SyncClient = redis.Redis

CONNECTIONS = 32
"""Of one client at once; a command waits for a free one no longer than for its answer."""
PORT = 6379
SENTINEL_PORT = 26379
SCHEMES = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel")
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

    The library waits by `asyncio.wait_for`, which up to Python 3.11 forgets a cancellation that comes at the wrong
    moment; here it is remembered."""
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    with guarding():
        found = await work
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError
    return found


@contextmanager
def guarding() -> Iterator[None]:
    """The same for a block. Texts of the library are never passed on whole: they may quote what was sent."""
    try:
        yield
    except (exceptions.RedisError, OSError, UnicodeError) as error:
        if str(error).startswith(NOT_LEADING):
            raise NotLeading("another instance leads, or none: the lock is not this one's") from error
        what, hint = _reason(error)
        raise StoreDown(what, hint=hint) from error


def _host(target: _Target) -> dict[str, Any]:
    return {"host": target.hosts[0][0], "port": target.hosts[0][1]}


def _words(options: RedisOptions, target: _Target) -> dict[str, Any]:
    words: dict[str, Any] = {
        "db": target.db,
        "socket_connect_timeout": options.connect_timeout_ms / 1000,
        "socket_timeout": options.command_timeout_ms / 1000,
        "decode_responses": True,
        "encoding_errors": "surrogatepass",  # names may hold lone surrogates; they come back as they were sent
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
        hosts = ((parts.hostname or "localhost", parts.port or PORT),)
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
        db=int(database or 0),
        tls=parts.scheme.startswith("rediss"),
        username=None if login is None else _user(login),
        password=None if login is None else _password(login),
    )


def _pair(word: str) -> tuple[str, int]:
    at = urlsplit(f"redis://{word}")
    return at.hostname or "localhost", at.port or SENTINEL_PORT


def _database(parts: SplitResult) -> int:
    """From `?db=`, else from the path. Raises ValueError, also for any other word: none may undo our timeouts."""
    query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    if set(query) - {"db"}:
        raise ValueError("only db")
    path = "" if parts.scheme not in ("redis", "rediss") else parts.path.strip("/")
    return int(query["db"][0] if "db" in query else path or 0)


def _user(parts: SplitResult) -> str | None:
    return unquote(parts.username) if parts.username else None


def _password(parts: SplitResult) -> str | None:
    return unquote(parts.password) if parts.password else None


_REPLIES = (
    ("NOAUTH", "Redis wants a password", "set redis.password_file"),
    ("WRONGPASS", "Redis refuses this user and password", "see redis.password_file and the user in redis.url"),
    ("NOPERM", "the Redis user may not do what is needed", "docs/redis.md lists the commands and keys"),
    ("READONLY", "this Redis is a replica and takes no writes", "redis.url has to name the primary, or Sentinels"),
    ("OOM", "Redis is out of memory", "raise maxmemory; maxmemory-policy has to be noeviction"),
    ("LOADING", "Redis is still loading its data", "it answers when it has"),
    ("MISCONF", "Redis takes no writes: it cannot save to its disk", "see its log"),
    ("MASTERDOWN", "this replica has lost its primary", "redis.url has to name the primary, or Sentinels"),
    ("NOREPLICAS", "Redis takes no writes: too few replicas answer", "see min-replicas-to-write"),
    ("WRONGTYPE", "a key holds another type than ours", "another program uses the prefix: see redis.prefix"),
    ("CLUSTERDOWN", "the Redis cluster is down", "see: redis-cli cluster info"),
    ("CROSSSLOT", "the keys are spread over the cluster", "redis.prefix needs a hash tag, such as {vmsh}"),
    ("MOVED", "the keys are on another node of the cluster", "name that node in redis.url"),
    ("BUSY", "Redis is busy with a script", "see: redis-cli slowlog get"),
)
_KINDS: tuple[tuple[type[Exception], str], ...] = (
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.BusyLoadingError, "LOADING"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.ClusterCrossSlotError, "CROSSSLOT"),
    (exceptions.MovedError, "MOVED"),
)
"""Where the library has cut the code off the text."""
_ERRNO = {
    errno.ECONNREFUSED: ("Redis refuses connections: nothing listens there", "is it running? see redis.url"),
    errno.ENOENT: ("the socket of Redis does not exist", "is it running? see redis.url"),
    errno.EACCES: ("the socket of Redis may not be used by this user", "see its mode and group"),
    errno.EHOSTUNREACH: ("there is no route to Redis", "see redis.url and the network"),
    errno.ENETUNREACH: ("there is no route to Redis", "see redis.url and the network"),
    errno.EMFILE: ("no file is left to connect to Redis with", "raise LimitNOFILE"),
}


def _reason(error: Exception) -> tuple[str, str]:
    """What is wrong, and what to do."""
    if isinstance(error, exceptions.AuthenticationError):
        return _login(str(error))
    if found := _reply(error):
        return found
    if "No connection available" in str(error):
        return "too many commands wait for Redis", "see redis.command_timeout_ms and its load"
    if isinstance(error, exceptions.TimeoutError | TimeoutError):
        return "Redis did not answer in time", "see redis.command_timeout_ms, its load and the network"
    if isinstance(error, exceptions.ResponseError):
        return f"Redis refuses a command: {_first_words(str(error))}", "see docs/redis.md for the versions that do"
    return _unreachable(error)


def _reply(error: Exception) -> tuple[str, str] | None:
    """An error reply by its code, which older servers put behind words about the script."""
    code = next((code for kind, code in _KINDS if isinstance(error, kind)), "")
    words = [code] if code else re.findall(r"[A-Z]{3,}", str(error))[:8]
    return next(((what, hint) for code, what, hint in _REPLIES if code in words), None)


def _login(text: str) -> tuple[str, str]:
    if text.startswith("password file"):
        return text, "it has to hold the password of Redis and nothing else"
    code = "NOAUTH" if "required" in text or "without any password" in text else "WRONGPASS"
    return next((what, hint) for known, what, hint in _REPLIES if known == code)


def _unreachable(error: BaseException | None) -> tuple[str, str]:
    """By the operating system's error at the root of it."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            why = getattr(error, "verify_message", "") or error.reason or "the handshake failed"
            return f"no TLS with Redis: {why}", "see redis.tls_ca and the name in redis.url"
        if isinstance(error, socket.gaierror):
            return "the host of Redis is not known", "see redis.url and the resolver"
        if isinstance(error, OSError) and error.errno in _ERRNO:
            return _ERRNO[error.errno]
        if isinstance(error, MasterNotFoundError | AsyncMasterNotFoundError):
            return "no Sentinel names a primary", "see the hosts and the service in redis.url"
        error = error.__cause__ or error.__context__
    return "the connection to Redis was lost", "see its log and the network"


def _first_words(text: str) -> str:
    """Enough to find it in the server's manual; what was sent may follow."""
    return " ".join(re.findall(r"[A-Za-z]+", text)[:6])
