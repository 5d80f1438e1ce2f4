"""What a person may ask of the Redis itself: what is there, what is wrong with it, and to forget all of it."""

import time
from collections.abc import Mapping
from shlex import quote
from typing import Any

from redis import exceptions

from vmsh_scheduler.errors import Busy
from vmsh_scheduler.stores.redis import findings
from vmsh_scheduler.stores.redis.connect import RedisOptions, SyncClient, connect_sync, guarding
from vmsh_scheduler.stores.redis.instances import living
from vmsh_scheduler.stores.redis.journal import RedisJournal
from vmsh_scheduler.stores.redis.keys import AGENTS, Keys
from vmsh_scheduler.stores.redis.look import Look
from vmsh_scheduler.stores.redis.scripts import Script
from vmsh_scheduler.stores.redis.values import shown
from vmsh_scheduler.stores.redis.wipe import Wiped, wipe

OLDEST = (6, 2)
SKEW_MS = 1_000
"""Clocks that are further apart make times in the journal hard to compare; leases do not depend on them."""
FULL = 0.9
"""Part of maxmemory from which on a write may be refused at any moment."""
WITHOUT_END = -1
"""What PTTL says of a key without a time to live."""
RESET_TTL_MS = 60_000

_ACQUIRE, _RELEASE = Script("lease_acquire"), Script("lease_release")


def check(options: RedisOptions) -> dict[str, Any]:
    """`findings` is empty when all is well. Raises StoreDown, ConfigError."""
    client, keys = connect_sync(options), Keys(options.prefix)
    with guarding(), client:
        asked = time.time()
        seconds, micros = client.time()
        info: Mapping[str, Any] = client.info()
        look = Look(client, keys)
        fence, wrong = findings.fence(look, keys)
        rows, silent = living(look.whole(keys.instances), seconds * 1000)
        wrong = [*findings.foreign(look), *wrong, *findings.instances(silent, keys), *findings.unreadable(look, keys)]
        offset = round((seconds + micros / 1e6 - (asked + time.time()) / 2) * 1000)
        view = {
            "address": options.address,
            "prefix": options.prefix,
            "version": str(info.get("redis_version", "")),
            "role": str(info.get("role", "")),
            "append_only": bool(info.get("aof_enabled")),
            "eviction": _eviction(client),
            "memory": {"used": int(info.get("used_memory", 0)), "most": int(info.get("maxmemory", 0))},
            "clock_offset_ms": offset,
            "leader": _leader(look, keys),
            "fence": fence,
            "instances": rows,
            "jobs": look.size(keys.states),
            "agents": look.size(keys.specs("agent")),
            "queues": {name: _depths(look, keys, pool) for name, pool in (("agents", AGENTS), ("commands", ""))},
        }
    return {**view, "findings": [*_findings(view), *wrong]}


def verify_journal(options: RedisOptions, job: str = "") -> list[str]:
    """What does not hold in the hash chains; of every job if none is named. Raises StoreDown, ConfigError."""
    client = connect_sync(options)
    with guarding(), client:
        return RedisJournal(client, Keys(options.prefix)).verify(job)


def reset(options: RedisOptions) -> Wiped:
    """Everything of this deployment goes but the fence, which never falls. Raises Busy while anybody leads."""
    client, keys = connect_sync(options), Keys(options.prefix)
    with guarding(), client:
        mine, value = client.eval(
            _ACQUIRE.text, 2, keys.leader_lock, keys.leader_fence, "reset:0", "reset", 0, RESET_TTL_MS
        )
        if not mine:
            hint = "stop every daemon of this prefix first"
            if client.pttl(keys.leader_lock) == WITHOUT_END:
                hint = _endless(keys.leader_lock)
            raise Busy(f"an instance leads ({_name(value)})", hint=hint)
        try:
            return wipe(client, keys, (keys.leader_fence, keys.leader_lock))
        finally:
            client.eval(_RELEASE.text, 1, keys.leader_lock, value)


def _endless(lock: str) -> str:
    """A leader that lives gives its lock an end again with every renewal."""
    return (
        f"{lock} has no time to live, so it never runs out and nobody is elected; unless a daemon leads at this "
        f"moment, remove it: redis-cli DEL {quote(lock)}"
    )


def _eviction(client: SyncClient) -> str:
    """ "" where CONFIG may not be asked, as on most hosted servers."""
    try:
        return str(client.config_get("maxmemory-policy").get("maxmemory-policy", ""))
    except exceptions.ResponseError:
        return ""


def _leader(look: Look, keys: Keys) -> dict[str, Any] | None:
    value = look.text(keys.leader_lock)
    return None if value is None else {"instance": _name(value), "until_ms": look.ttl(keys.leader_lock)}


def _name(lock: str) -> str:
    """Of `<instance>:<uuid>|<fence>|<instance>`."""
    return lock.rpartition("|")[2]


def _depths(look: Look, keys: Keys, pool: str) -> dict[str, int]:
    queue = keys.queue(pool)
    return {"ready": look.length(queue.ready), "running": look.length(queue.processing)}


def _findings(view: Mapping[str, Any]) -> list[str]:
    found = []
    numbers = tuple(int(part) for part in str(view["version"]).split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        found.append(f"Redis {view['version']} is too old: 6.2 or newer")
    if not view["append_only"]:
        found.append("appendonly is no: what was acknowledged is lost when Redis restarts; see docs/redis.md")
    if view["eviction"] not in ("", "noeviction"):
        found.append(f"maxmemory-policy is {view['eviction']}: Redis may drop state; it has to be noeviction")
    used, most = view["memory"]["used"], view["memory"]["most"]
    if most and used >= most * FULL:
        found.append(
            f"{used >> 10} of {most >> 10} KiB of maxmemory are used: Redis refuses writes, or soon will; raise it"
        )
    if view["role"] not in ("", "master"):
        found.append("this server is a replica: redis.url has to name the primary, or Sentinels")
    if abs(view["clock_offset_ms"]) > SKEW_MS:
        found.append(f"the clock of Redis is {view['clock_offset_ms']} ms off this machine's")
    if view["leader"] is not None and view["leader"]["until_ms"] == WITHOUT_END:
        found.append(_endless(Keys(view["prefix"]).leader_lock))
    if view["leader"] is None and view["instances"]:
        found.append(f"{len(view['instances'])} instances are there and none leads: `status` at one of them says why")
    twice = [shown(instance["id"]) for instance in view["instances"] if instance["shared_id"]]
    found += [f"several processes say that they are {id}: each needs its own SCHEDULER_INSTANCE_ID" for id in twice]
    if len({instance["config"] for instance in view["instances"]}) > 1:
        found.append("the instances' configurations differ: only the leader's jobs are scheduled")
    return found
