"""D7 and D8 at booted daemons: Redis replaced by a replica that lacks things, and every error it may answer with."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.forge import Stub
from tests.support.forwarder import forwarding
from tests.support.instances import Instances
from tests.support.redis_faults import judge
from tests.support.redis_server import RedisServer, serving

Record = Callable[[str, object], None]


@pytest.fixture
def redis(durable: RedisServer) -> RedisServer:
    return durable


def synced(replica: RedisServer, primary: RedisServer) -> None:
    with replica.client() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        until(lambda: client.info("replication")["master_link_status"] == "up", "the replica to have it all")


class TestD7:
    """A replica is promoted that has neither the lock nor the last writes."""

    def test_d7_the_fence_rises_and_what_was_forgotten_comes_again_under_its_key(
        self, cluster: Instances, consumer: Stub, tmp_path: Path, record_property: Record
    ) -> None:
        cluster.redis.start()
        with serving(tmp_path / "replica") as replica, forwarding(cluster.redis.port) as front:
            cluster.env = {"SCHEDULER_REDIS_URL": f"redis://127.0.0.1:{front.port}/0"}
            cluster.start("a", "b")
            first = cluster.leader()
            cluster[first].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
            until(lambda: len(consumer.received) >= 2, "cycles")
            synced(replica, cluster.redis)
            with replica.client() as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
                client.delete("forgeos:scheduler:leader_lock")
                known = int(client.get("forgeos:scheduler:leader_fence") or 0)
            cluster[first].daemon.kill()
            until(lambda: cluster.highest_fence() > known, "a term that the replica does not know")
            before, fence = len(consumer.received), cluster.highest_fence()
            until(lambda: len(consumer.received) >= before + 2, "cycles that it does not know")
            cluster.redis.kill()
            front.lead_to(replica.port)
            before = len(consumer.received)
            until(lambda: cluster.highest_fence() > fence, "a term at the replica")
            until(lambda: len(consumer.received) >= before + 3, "cycles")
        seen = judge(consumer.received)
        record_property(
            "D7", f"promoted without the lock, a term and {before} calls later: fence rises, {seen.stale} stale, "
            f"{seen.repeated} sent again under their key"
        )  # fmt: skip
        assert seen.stale == 0
        assert seen.fences == sorted(seen.fences)
        assert max(seen.fences) > fence > known


Harm = Callable[[RedisServer], Callable[[], None]]
"""Does it, and returns what undoes it."""


def foreign_key(server: RedisServer) -> Callable[[], None]:
    """Something else than ours has its name."""
    with server.client() as client:
        client.delete("forgeos:scheduler:instances")
        client.rpush("forgeos:scheduler:instances", "x")
    return lambda: _told(server, "DEL", "forgeos:scheduler:instances")


def no_memory(server: RedisServer) -> Callable[[], None]:
    _told(server, "CONFIG", "SET", "maxmemory", "1")
    return lambda: _told(server, "CONFIG", "SET", "maxmemory", "0")


def read_only(server: RedisServer) -> Callable[[], None]:
    _told(server, "REPLICAOF", "127.0.0.1", "1")
    return lambda: _told(server, "REPLICAOF", "NO", "ONE")


def no_permission(server: RedisServer) -> Callable[[], None]:
    _told(server, "ACL", "SETUSER", "default", "-evalsha", "-eval")
    return lambda: _told(server, "ACL", "SETUSER", "default", "+@all")


def password(server: RedisServer) -> Callable[[], None]:
    with server.client() as client:
        client.config_set("requirepass", "canary-redis-0001")
        client.client_kill_filter(_type="normal", skipme=True)

    def undo() -> None:
        with server.client(password="canary-redis-0001") as client:
            client.config_set("requirepass", "")

    return undo


def loading(server: RedisServer) -> Callable[[], None]:
    """A tenth of a second for every key, when it is started again from a snapshot; it says so every 2 MB."""
    with server.client() as client:
        for number in range(60):
            client.set(f"ballast-{number}", "x" * 1_000_000)
        client.config_set("rdbcompression", "no")
        client.save()
        client.delete(*(f"ballast-{number}" for number in range(60)))
    server.kill()
    durable = server.options
    server.options = ("--key-load-delay", "100000")
    server.start(wait=False)

    def undo() -> None:
        server.kill()
        server.options = durable
        server.start()

    return undo


def _told(server: RedisServer, *words: str) -> None:
    with server.client() as client:
        client.execute_command(*words)


HARMS: tuple[tuple[str, Harm, str], ...] = (
    ("WRONGTYPE", foreign_key, "another type"),
    ("OOM", no_memory, "out of memory"),
    ("READONLY", read_only, "takes no writes"),
    ("NOPERM", no_permission, "may not do"),
    ("NOAUTH", password, "wants a password"),
    ("LOADING", loading, "still loading"),
)


def test_d8_each_error_is_named_in_status_and_log_and_all_goes_on_afterwards(
    cluster: Instances, consumer: Stub, record_property: Record
) -> None:
    cluster.redis.start()
    cluster.start("a")
    api = cluster["a"]
    cluster.leader()
    api.register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    for code, harm, named in HARMS:
        undo = harm(cluster.redis)
        try:
            until(lambda named=named: named in trouble(cluster), f"{code} in status")
            until(lambda named=named: named in api.daemon.text(), f"{code} in the log")
            assert cluster.condition("a")["problems"], code
        finally:
            undo()
        until(lambda: cluster.answers("a") and cluster.condition("a")["role"] == "leader", f"a leader after {code}")
        before = len(consumer.received)
        until(lambda before=before: len(consumer.received) > before, f"cycles after {code}")
    assert "canary-redis-0001" not in api.daemon.text()
    record_property("D8", f"{', '.join(code for code, _, _ in HARMS)}: named in status and log, all goes on afterwards")
    api.daemon.stop()


def trouble(cluster: Instances) -> str:
    """As `status` says it."""
    found: str = cluster.place("a").cli("status", "--json").json["cluster"]["trouble"]
    return found
