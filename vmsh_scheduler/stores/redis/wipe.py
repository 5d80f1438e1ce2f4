"""Everything of one deployment is removed, and nothing of another whose prefix begins with the same words."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from vmsh_scheduler.stores.redis.connect import SyncClient
from vmsh_scheduler.stores.redis.keys import Keys

PART = 500
_MARKS = {"leader_fence": "string", "leader_lock": "string", "instances": "hash", "meta": "hash"}
"""What a deployment that was ever started has, and its type. Strings of ours with such an end are documents."""


class Wiped(NamedTuple):
    """How many keys are gone, and how many under the prefix are not of this deployment."""

    gone: int
    left: int


def wipe(client: SyncClient, keys: Keys, kept: Sequence[str]) -> Wiped:
    """`kept` stays, and so does the unknown. What may be either's runs out by itself, or the journal names it."""
    others = _deployments_below(client, keys)
    rows = _journals(client, keys) if others else frozenset()
    gone = left = 0
    for part in _parts(client, keys):
        ours = [key for key in part if keys.is_ours(key) and (key in rows or not key.startswith(others))]
        doomed = [key for key in ours if key not in kept]
        left += len(part) - len(ours)
        gone += int(client.unlink(*doomed)) if doomed else 0
    return Wiped(gone, left)


def _deployments_below(client: SyncClient, keys: Keys) -> tuple[str, ...]:
    """How the keys of each begin. A deployment may be called like one of our families: then names tell nothing."""
    return tuple(
        key.removesuffix(mark)
        for part in _parts(client, keys)
        for key in part
        for mark, kind in _MARKS.items()
        if key.endswith(f":{mark}") and key != keys.named(mark) and _is_mark(client, key, kind)
    )


def _journals(client: SyncClient, keys: Keys) -> frozenset[str]:
    """Of every job that the journal has a chain of: left behind, they would not fit to the chain that begins anew."""
    chains = (keys.journal_heads, keys.journal_base)
    found: list[Iterable[Any]] = [client.hscan_iter(key, count=PART) for key in chains]
    return frozenset(keys.journal(str(job)) for jobs in found for job, _ in jobs)


def _is_mark(client: SyncClient, key: str, kind: str) -> bool:
    if client.type(key) != kind:
        return False
    return kind != "string" or not str(client.get(key) or "").startswith("{")


def _parts(client: SyncClient, keys: Keys) -> Iterator[list[str]]:
    pattern = "".join(f"\\{char}" if char in "*?[]\\" else char for char in keys.named("")) + "*"
    part: list[str] = []
    found: Iterable[Any] = client.scan_iter(pattern, count=PART)
    for key in found:
        part.append(str(key))
        if len(part) >= PART:
            yield part
            part = []
    if part:
        yield part
