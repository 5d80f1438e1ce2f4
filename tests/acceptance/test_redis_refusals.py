"""Instances over a Redis that refuses some of what they ask: they say so, try no faster, and go on when it obeys."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.forge import Stub
from tests.support.instances import Instances
from tests.support.redis_server import RedisServer, serving

P = "forgeos:scheduler"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(tmp_path / "redis") as server:
        yield server


def running(cluster: Instances, consumer: Stub, *names: str) -> Instances:
    cluster.start(*names)
    cluster[cluster.leader()].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: len(consumer.received) >= 2, "cycles")
    return cluster


def problems(cluster: Instances, name: str) -> list[str]:
    found: list[str] = cluster.condition(name)["problems"]
    return found


def trouble(cluster: Instances, name: str) -> str:
    found: str = cluster.place(name).cli("status", "--json").json["cluster"]["trouble"]
    return found


def terms(cluster: Instances) -> int:
    return sum(each.daemon.text().count('"leading"') for each in cluster.started.values())


def told(cluster: Instances, name: str, what: str) -> int:
    return sum(f'"{what}"' in line for line in cluster[name].daemon.text().splitlines())


def goes_on(cluster: Instances, consumer: Stub) -> None:
    until(lambda: all(cluster.answers(name) for name in cluster.started), "nothing to be wrong any more")
    before = len(consumer.received)
    until(lambda: len(consumer.received) > before, "cycles")


def test_a_right_that_is_taken_away_ends_the_term_and_no_other_begins(
    cluster: Instances, consumer: Stub, redis: RedisServer
) -> None:
    """Two instances began a hundred terms a second, and called themselves healthy."""
    running(cluster, consumer, "a", "b")
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-xadd")
        fence, before = client.get(f"{P}:leader_fence"), terms(cluster)
        for name in cluster.started:
            until(lambda name=name: "redis_refuses" in problems(cluster, name), f"{name} to say so")
            # a leader's term ends a moment after its first refused write
            until(lambda name=name: cluster[name].get("/health")["status"] == "degraded", f"{name} to be degraded")
            assert "NOPERM" in trouble(cluster, name)
        began = time.monotonic()
        until(lambda: time.monotonic() > began + 4, "time to pass")
        assert terms(cluster) == before
        assert client.get(f"{P}:leader_fence") == fence
        for name in cluster.started:
            assert 1 <= told(cluster, name, "redis_refuses") <= 2  # of the write, and of the lock
            assert told(cluster, name, "redis_down") == 0
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    goes_on(cluster, consumer)
    until(lambda: told(cluster, "a", "redis_obeys") == 1, "a line in its log")


def test_terms_that_one_bad_key_ends_come_ever_more_slowly(
    cluster: Instances, consumer: Stub, redis: RedisServer
) -> None:
    running(cluster, consumer, "a", "b")
    with redis.client() as client:
        (key,) = [name for name in client.scan_iter(f"{P}:journal:*") if name.endswith("one")]
        rows = client.dump(key)
        client.delete(key)
        client.set(key, "mine")
        before, began = terms(cluster), time.monotonic()
        until(lambda: any("redis_refuses" in problems(cluster, name) for name in cluster.started), "one to say so")
        name = next(name for name in cluster.started if "redis_refuses" in problems(cluster, name))
        assert f"{key} holds a string" in trouble(cluster, name)
        until(lambda: time.monotonic() > began + 10, "time to pass")
        assert terms(cluster) - before <= 24
        for each in cluster.started:
            assert told(cluster, each, "redis_refuses") <= 1
            assert told(cluster, each, "term_ended") <= 1
        client.delete(key)
        client.restore(key, 0, rows)
    goes_on(cluster, consumer)


def test_without_the_right_to_publish_all_goes_on_and_is_degraded(
    cluster: Instances, consumer: Stub, redis: RedisServer
) -> None:
    """What was done was taken for failed: claims were lost, and a third of the calls made."""
    running(cluster, consumer, "a")
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-publish")
    before, began = len(consumer.received), time.monotonic()
    until(lambda: "redis_refuses" in problems(cluster, "a"), "it to say so")
    until(lambda: len(consumer.received) >= before + 5, "cycles")
    assert time.monotonic() - began < 15
    assert "PUBLISH" in trouble(cluster, "a")
    assert (told(cluster, "a", "claim_lost"), told(cluster, "a", "dispatch_down")) == (0, 0)
    with redis.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "+@all")
    goes_on(cluster, consumer)


def test_requests_that_cannot_be_taken_are_no_secret(cluster: Instances, consumer: Stub, redis: RedisServer) -> None:
    running(cluster, consumer, "a")
    with redis.client() as client:
        client.set(f"{P}:requests", "mine")
        until(lambda: "redis_refuses" in problems(cluster, "a"), "it to say so")
        client.delete(f"{P}:requests")
    goes_on(cluster, consumer)


def test_who_leads_no_more_is_named_by_nobody(cluster: Instances, consumer: Stub, redis: RedisServer) -> None:
    """Neither by what it said itself before, nor by what the others heard of it."""
    running(cluster, consumer, "a", "b")
    leader = cluster.leader()
    before = cluster.condition(leader)["fence"]
    with redis.client() as client:
        client.replicaof("127.0.0.1", "1")  # READONLY: it can be read, and nobody can be elected
        for name in cluster.started:
            until(lambda name=name: cluster.condition(name)["role"] == "follower", f"{name} not to lead")
            until(lambda name=name: cluster.condition(name)["leader"] is None, f"{name} to name nobody")
            condition = cluster.condition(name)
            assert (condition["leader"], condition["fence"]) == (None, before)
            assert "no_leader" in condition["problems"]
            rows = cluster.place(name).cli("status", "--json").json["cluster"]["members"]
            assert [row["role"] for row in rows] == ["follower", "follower"]
        client.replicaof("NO", "ONE")
    goes_on(cluster, consumer)
    assert all(cluster.condition(name)["fence"] > before for name in cluster.started)


def test_two_processes_under_one_id_say_so(cluster: Instances, consumer: Stub, redis: RedisServer) -> None:
    running(cluster, consumer, "a", "b")
    cluster.start("c", SCHEDULER_INSTANCE_ID="a")
    for name in ("a", "c"):
        until(lambda name=name: "instance_id_taken" in problems(cluster, name), f"{name} to say so")
        until(lambda name=name: told(cluster, name, "instance_id_taken") == 1, "a line in its log")
    assert "instance_id_taken" not in problems(cluster, "b")

    def findings() -> str:
        env = {"SCHEDULER_REDIS_URL": redis.url, "PORT": "0"}
        return " ".join(cluster.place("b").cli("redis", "check", "--json", env=env).json["findings"])

    until(lambda: "several processes say that they are 'a'" in findings(), "a finding")
    cluster["c"].daemon.kill()
    until(lambda: "instance_id_taken" not in problems(cluster, "a"), "it to be over", timeout=15)
    cluster["a"].daemon.kill()
    cluster.start("a")
    began = time.monotonic()
    until(lambda: time.monotonic() > began + 3, "some beats")
    assert told(cluster, "a", "instance_id_taken") == 0
    assert "instance_id_taken" not in problems(cluster, "a")
