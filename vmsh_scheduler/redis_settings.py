"""What the settings of Redis mode mean together."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsh_scheduler.domain.trigger import SECOND, Millis

if TYPE_CHECKING:  # the library is an extra, and the rest of the program needs none of it
    from vmsh_scheduler.stores.redis.connect import RedisOptions
    from vmsh_scheduler.stores.redis.store import Shape

LEASE: Millis = 30 * SECOND
"""The least that a claimed run is given, whatever calls may take (forge-os section 1)."""
_BALANCED = re.compile(r"[^{}]*(?:\{[^{}]+\}[^{}]*)*")
FILES = ("redis.password_file", "redis.tls_ca", "redis.tls_cert", "redis.tls_key")
CALLBACK_MARGIN: Millis = 5 * SECOND
INSTALL = "the redis library is missing: install it with `pip install 'vmsh-scheduler[redis]'`"


def is_shared(sections: Mapping[str, Any]) -> bool:
    """Whether state is in Redis."""
    return bool(sections["redis.url"])


def options(sections: Mapping[str, Any]) -> "RedisOptions":
    from vmsh_scheduler.stores.redis.connect import RedisOptions

    return RedisOptions(
        sections["redis.url"],
        sections["redis.prefix"],
        password_file=_path(sections["redis.password_file"]),
        tls_ca=_path(sections["redis.tls_ca"]),
        tls_cert=_path(sections["redis.tls_cert"]),
        tls_key=_path(sections["redis.tls_key"]),
        connect_timeout_ms=sections["redis.connect_timeout_ms"],
        command_timeout_ms=sections["redis.command_timeout_ms"],
    )


def shape(sections: Mapping[str, Any], instance: str, rows: int) -> "Shape":
    from vmsh_scheduler.stores.redis.dispatch import DOUBTED
    from vmsh_scheduler.stores.redis.store import Shape

    timeout, done = sections["callbacks.timeout_ms"], sections["redis.dedupe_ttl_ms"]
    return Shape(
        instance,
        sections["redis.lock_ttl_ms"],
        sections["redis.job_lease_ms"],
        max(DOUBTED, exec_lease(sections) + SECOND),
        max(timeout + CALLBACK_MARGIN, min(done, 3 * timeout)),
        done,
        rows,
    )


def exec_lease(sections: Mapping[str, Any]) -> Millis:
    """As set, else long enough for a whole cycle."""
    calls: Millis = sections["callbacks.timeout_ms"] + 3 * sections["market.timeout_ms"]
    given: Millis = sections["redis.exec_lease_ms"]
    return max(2 * SECOND, given) if given else max(LEASE, calls)


def renew_every(sections: Mapping[str, Any]) -> Millis:
    """A third of the lock's life at most, whatever is set: one answer that comes late loses nothing (forge-os D15)."""
    third: Millis = sections["redis.lock_ttl_ms"] // 3
    return min(third, sections["redis.lock_renew_ms"] or third)


def problems(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Setting, and why nothing may start with it."""
    if not is_shared(sections):
        return
    if not sections["redis.authoritative"]:
        yield "redis.authoritative", "false would let every instance wake every agent: leave it away"
    if sections["redis.reset_on_boot"]:
        yield "redis.reset_on_boot", "stop all instances and run `vmsh-scheduler redis reset --yes` instead"
    if not _BALANCED.fullmatch(sections["redis.prefix"]):
        yield "redis.prefix", "has a brace that is not part of a hash tag: a word in braces, such as {vmsh}"
    yield from _unreadable(sections)
    if sections["redis.backoff_max_ms"] < sections["redis.backoff_min_ms"]:
        yield "redis.backoff_max_ms", "is less than redis.backoff_min_ms"
    try:
        from vmsh_scheduler.errors import ConfigError
        from vmsh_scheduler.stores.redis.connect import connect
    except ImportError:
        yield "redis.url", INSTALL
        return
    try:
        connect(options(sections))
    except ConfigError as error:
        yield "redis.url", str(error)


def warnings(sections: Mapping[str, Any]) -> list[str]:
    """What is taken otherwise than it was said."""
    asked, taken = sections["redis.lock_renew_ms"], renew_every(sections)
    if is_shared(sections) and asked > taken:
        return [f"redis.lock_renew_ms: {asked} is more than a third of the lock's life; it is renewed every {taken} ms"]
    return []


def _unreadable(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Files that the connection would miss later, where nobody looks. A pipe is not waited for."""
    for name in FILES:
        try:
            if path := _path(sections[name]):
                os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                if path.is_dir():
                    yield name, f"{path} is a directory"
        except (OSError, ValueError) as error:
            yield name, f"{path} cannot be read: {getattr(error, 'strerror', None) or 'no path has such characters'}"


def _path(text: str) -> Path | None:
    return Path(text) if text else None
