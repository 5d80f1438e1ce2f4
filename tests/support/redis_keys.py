"""Clients of a test's own Redis, and which of its keys would stay for ever."""

from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase

from tests.support.redis_server import RedisServer
from vmsh_scheduler.stores.redis.connect import Client, RedisOptions, SyncClient, connect, connect_sync
from vmsh_scheduler.stores.redis.keys import Keys

PERMANENT = (
    "agents",
    "agent_schedule",
    "cycle_queue",
    "cycle_queue_processing",
    "cycle_queue_inflight",
    "cycle_queue_payloads",
    "cycle_queue_task_owners",
    "exec_agent_tasks:*",
    "leader_fence",
    "states",
    "specs:*",
    "specs_version",
    "journal:*",
    "journal_base",
    "journal_heads",
    "journal_recent",
    "outcomes",
    "command_queue",
    "command_queue_processing",
    "command_queue_inflight",
    "command_queue_payloads",
    "command_queue_task_owners",
    "instances",
    "meta",
    "requests",
)
"""Patterns of the names, without prefix, of keys that live without a TTL; every other key has one."""


class SharedRedis:
    """What several instances share: a server and a prefix."""

    def __init__(self, server: RedisServer, prefix: str, **options: object) -> None:
        self.server = server
        self.keys = Keys(prefix)
        wanted = {
            "url": server.url,
            "prefix": prefix,
            "connect_timeout_ms": 1_000,
            "command_timeout_ms": 1_000,
        } | options
        self.options = RedisOptions(**wanted)  # type: ignore[arg-type]  # any of its words

    def client(self) -> Client:
        return connect(self.options)

    def reader(self) -> SyncClient:
        return connect_sync(self.options)


@contextmanager
def tidy(server: RedisServer, prefix: str) -> Iterator[SharedRedis]:
    """Afterwards every key has a TTL or stands on the list of permanent ones, and all are removed."""
    shared = SharedRedis(server, prefix)
    yield shared
    with shared.reader() as client:
        left = leftovers(client, prefix)
        client.flushdb()
    assert left == [], left


def leftovers(client: SyncClient, prefix: str) -> list[str]:
    """Keys outside of the prefix, and keys without an end that are not on the list of permanent ones."""
    wrong = []
    for key in client.scan_iter(count=500):
        name = str(key).removeprefix(f"{prefix}:")
        permanent = any(fnmatchcase(name, pattern) for pattern in PERMANENT)
        if name == key or (client.pttl(key) == -1 and not permanent):
            wrong.append(str(key))
    return sorted(wrong)
