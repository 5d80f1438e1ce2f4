"""Ways to reach a Redis, at booted daemons: TLS, users, password files, sockets, Sentinels; and no secret is shown."""

import re
from pathlib import Path

from tests.integration.test_callback_tls import certificate
from tests.integration.test_redis_faults import watching
from tests.support.daemon import until
from tests.support.forge import Stub
from tests.support.forwarder import forwarding, secured
from tests.support.instances import Instances
from tests.support.redis_server import RedisServer, serving

SECRET, NEXT = "canary-redis-0003", "canary-redis-0004"


def works(cluster: Instances, consumer: Stub, **env: str) -> str:
    """Everything that an instance says with these settings, once it has led and made a cycle."""
    cluster.start("a", LOG_LEVEL="debug", **env)
    api, _place = cluster["a"], cluster.place("a")
    cluster.leader()
    api.register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: consumer.received, "a cycle")
    return _said(cluster, **env)


def _said(cluster: Instances, **env: str) -> str:
    """To everybody who asks."""
    api, place, settings = cluster["a"], cluster.place("a"), cluster.environ("a", **env)
    told = [api.daemon.text(), str(api.daemon.health()), api.ask("GET", "/health").body.decode()]
    told += [api.ask("GET", "/metrics").body.decode(), api.daemon.get("/metrics").body]
    for words in (("status",), ("status", "--json"), ("config", "show"), ("doctor",), ("redis", "check")):
        done = place.cli(*words, env=settings)
        told += [done.out, done.err]
    return "\n".join(told)


def test_tls_with_an_authority_of_ones_own(cluster: Instances, consumer: Stub, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    pem, other = certificate(tmp_path), certificate(tmp_path / "other")
    with secured(cluster.redis.port, pem) as port:
        url = f"rediss://localhost:{port}/0"
        works(cluster, consumer, SCHEDULER_REDIS_URL=url, SCHEDULER_REDIS_TLS_CA=str(pem))
        cluster["a"].daemon.stop()
        wrong = {"SCHEDULER_REDIS_URL": url, "SCHEDULER_REDIS_TLS_CA": str(other)}
        done = cluster.place("a").cli("redis", "check", env=wrong)
        assert (done.code, "no TLS with Redis: " in done.err) == (69, True)


def test_a_user_of_the_acl_with_the_password_in_the_url(cluster: Instances, consumer: Stub) -> None:
    """With what docs/redis.md says that is needed, and no more."""
    with cluster.redis.client() as admin:
        rights = (
            "~forgeos:scheduler:*",
            "resetchannels",
            "&forgeos:scheduler:*",
            "+@read",
            "+@write",
            "+@connection",
            "+@scripting",
        )
        admin.execute_command("ACL", "SETUSER", "worker", "on", f">{SECRET}", *rights, "+@pubsub", "+time", "+info")
        admin.execute_command("ACL", "SETUSER", "default", "off")
    said = works(cluster, consumer, SCHEDULER_REDIS_URL=f"redis://worker:{SECRET}@127.0.0.1:{cluster.redis.port}/0")
    assert SECRET not in said
    cluster["a"].daemon.stop()


def test_a_password_file_that_changes_while_it_runs(cluster: Instances, consumer: Stub, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET + "\n")
    with cluster.redis.client() as admin:
        admin.config_set("requirepass", SECRET)
    env = {"SCHEDULER_REDIS_PASSWORD_FILE": str(file)}
    assert SECRET not in works(cluster, consumer, **env)
    with cluster.redis.client(password=SECRET) as admin:
        admin.config_set("requirepass", NEXT)
        admin.client_kill_filter(_type="normal", skipme=True)
        admin.client_kill_filter(_type="pubsub", skipme=True)
    refused = "refuses this user and password"
    until(lambda: refused in cluster["a"].daemon.text(), "it to be turned away, not only cut off")
    file.write_text(NEXT)
    until(lambda: cluster.answers("a"), "it to be let in")
    before = len(consumer.received)
    until(lambda: len(consumer.received) > before, "a cycle")
    said = _said(cluster, **env)
    assert SECRET not in said
    assert NEXT not in said
    cluster["a"].daemon.stop()


def test_a_socket(cluster: Instances, consumer: Stub) -> None:
    said = works(cluster, consumer, SCHEDULER_REDIS_URL=f"unix://{cluster.redis.socket}?db=1")
    assert f"Redis at {cluster.redis.socket}" in said
    cluster["a"].daemon.stop()


def test_sentinels_name_another_primary(cluster: Instances, consumer: Stub, tmp_path: Path) -> None:
    """The old one dies; the Sentinel promotes its replica, and work goes on there under a higher fence."""
    with serving(tmp_path / "replica") as replica:
        with replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", cluster.redis.port)
            until(lambda: client.info("replication")["master_link_status"] == "up", "the replica")
        with watching(tmp_path / "sentinel", cluster.redis) as port:
            watcher = RedisServer(tmp_path, port=port)
            with watcher.client() as client:
                client.execute_command("SENTINEL", "SET", "main", "down-after-milliseconds", "1000")
                until(lambda: client.execute_command("SENTINEL", "REPLICAS", "main"), "the Sentinel to know it")
            works(cluster, consumer, SCHEDULER_REDIS_URL=f"redis+sentinel://127.0.0.1:{port}/main/0")
            fence = cluster.highest_fence()
            cluster.redis.kill()
            until(lambda: cluster.highest_fence() > fence and cluster.leader_now(), "a term at the new primary")
            before = len(consumer.received)
            until(lambda: len(consumer.received) > before, "a cycle")
            with replica.client() as client:
                assert client.exists("forgeos:scheduler:leader_lock")
            cluster["a"].daemon.stop()


def test_a_wrong_password_is_named_and_not_shown(cluster: Instances) -> None:
    with cluster.redis.client() as admin:
        admin.config_set("requirepass", NEXT)
    cluster.start("a", SCHEDULER_REDIS_URL=f"redis://:{SECRET}@127.0.0.1:{cluster.redis.port}/0")
    cluster["a"].daemon.wait_line("trouble", what="redis_down")
    said = _said(cluster, SCHEDULER_REDIS_URL=f"redis://:{SECRET}@127.0.0.1:{cluster.redis.port}/0")
    assert "refuses this user and password" in said
    assert SECRET not in said
    assert "refuses this user" not in str(cluster["a"].get("/health")), "everybody reads it"
    cluster["a"].daemon.stop()


def test_a_redis_that_answers_late_is_told_of(cluster: Instances, consumer: Stub) -> None:
    """Everything works, and takes longer."""
    with forwarding(cluster.redis.port) as front:
        cluster.env = {"SCHEDULER_REDIS_URL": f"redis://127.0.0.1:{front.port}/0"}
        cluster.start("a")
        cluster.leader()
        cluster["a"].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
        until(lambda: consumer.received, "a cycle")
        assert "redis_slow" not in cluster.condition("a")["problems"]
        front.late_s = 0.15
        until(lambda: cluster.condition("a")["problems"] == ["redis_slow"], "a word of it")
        assert cluster["a"].get("/health")["status"] == "degraded"
        assert cluster["a"].daemon.wait_line("trouble", what="redis_slow")["why"].startswith("its answers take more")
        text = cluster["a"].ask("GET", "/metrics").body.decode()
        (late,) = re.findall(r"^forgeos_scheduler_redis_round_trip_ms ([0-9.]+)$", text, re.MULTILINE)
        assert float(late) >= 150
        before = len(consumer.received)
        until(lambda: len(consumer.received) > before, "a cycle all the same")
        front.late_s = 0.0
        until(lambda: not cluster.condition("a")["problems"], "the end of it")
        assert cluster["a"].daemon.wait_line("trouble", what="redis_fast")
