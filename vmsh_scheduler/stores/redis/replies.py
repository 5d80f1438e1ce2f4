"""What an error of the library means, in words for people: texts of a server are never passed on whole."""

import errno
import re
import socket
import ssl

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError as AsyncMasterNotFoundError
from redis.sentinel import MasterNotFoundError

OURS = "VMSH "
"""What every refusal of a script of ours but NOTLEADING begins with: then a code and words that may be shown."""

_REPLIES = (
    ("NOAUTH", "Redis wants a password", "set redis.password_file"),
    ("WRONGPASS", "Redis refuses this user and password", "see redis.password_file and the user in redis.url"),
    ("NOPERM", "the Redis user may not do what is needed (NOPERM)", "docs/redis.md lists the commands and keys"),
    ("READONLY", "this Redis is a replica and takes no writes", "redis.url has to name the primary, or Sentinels"),
    ("OOM", "Redis is out of memory", "raise maxmemory; maxmemory-policy has to be noeviction"),
    ("LOADING", "Redis is still loading its data", "it answers when it has"),
    ("MISCONF", "Redis takes no writes: it cannot save to its disk", "see its log"),
    ("MASTERDOWN", "this replica has lost its primary", "redis.url has to name the primary, or Sentinels"),
    ("NOREPLICAS", "Redis takes no writes: too few replicas answer", "see min-replicas-to-write"),
    ("WRONGTYPE", "a key holds another type than ours (WRONGTYPE)", "another program uses it: see redis.prefix"),
    ("CLUSTERDOWN", "the Redis cluster is down", "see: redis-cli cluster info"),
    ("CROSSSLOT", "the keys are spread over the cluster", "redis.prefix needs a hash tag, such as {vmsh}"),
    ("MOVED", "the keys are on another node of the cluster", "name that node in redis.url"),
    ("BUSY", "Redis is busy with a script", "see: redis-cli slowlog get"),
    ("STALE", "somebody else wrote to the states (STALE)", "they are read again"),
)
_FENCE = "the next fence is the clock of Redis in ms; receivers that saw a higher one have to forget it"
_OWN_HINTS = {"FENCE": _FENCE, "CHAIN": "history --verify shows it; docs/redis.md says how to mend it"}
"""Of our scripts' own codes."""
_NOT_NOW = frozenset(
    ("NOAUTH", "WRONGPASS", "LOADING", "MASTERDOWN", "CLUSTERDOWN", "CROSSSLOT", "MOVED", "BUSY", "STALE")
)
"""Replies that say that nothing can be done with this server at this moment, not that it refuses one thing."""
_PHRASES = ("ACL failure", "has no permissions", "The user executing the script can't")
"""Where servers give no NOPERM, because a script was refused."""
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


def reason(error: Exception) -> tuple[str, str]:
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
    """An error reply by its code; one of our own scripts says in its own words what is wrong."""
    text, code = str(error), _code(error)
    known = next(((what, hint) for each, what, hint in _REPLIES if each == code), None)
    if text.startswith(OURS):
        return f"{text.removeprefix(OURS).partition(' ')[2]} ({code})", known[1] if known else _OWN_HINTS.get(code, "")
    return known


def _code(error: BaseException) -> str:
    """Older servers put it behind words about the script; "" if there is none that we know."""
    text = str(error)
    if text.startswith(OURS):
        return text.split(" ", 2)[1]
    if any(phrase in text for phrase in _PHRASES):
        return "NOPERM"
    code = next((code for kind, code in _KINDS if isinstance(error, kind)), "")
    words = [code] if code else re.findall(r"[A-Z]{3,}", text)[:8]
    return next((code for code, _, _ in _REPLIES if code in words), "")


def refuses(error: Exception) -> bool:
    """Redis answered, and would not do it."""
    return isinstance(error, exceptions.ResponseError) and _code(error) not in _NOT_NOW


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
        if isinstance(error, UnicodeError):  # of the codec for names in DNS
            return "the host of Redis is no name that there can be", "see redis.url"
        if isinstance(error, OSError) and error.errno in _ERRNO:
            return _ERRNO[error.errno]
        if isinstance(error, MasterNotFoundError | AsyncMasterNotFoundError):
            return "no Sentinel names a primary", "see the hosts and the service in redis.url"
        error = error.__cause__ or error.__context__
    return "the connection to Redis was lost", "see its log and the network"


def _first_words(text: str) -> str:
    """Enough to find it in the server's manual; what was sent may follow. Of a script: what it was refused."""
    said = re.split(r"@user_script:? ?\d*: ", text)[-1]
    return " ".join(re.findall(r"[A-Za-z]+", said)[:8])
