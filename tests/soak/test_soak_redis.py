"""D4 to D7 at full figures: Redis and leaders that stop, a clock of Redis that jumps, failovers one after another."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.test_fault_redis import PATIENT, stopped_for, wake_too_late
from tests.acceptance.test_fault_redis_replies import synced
from tests.support.daemon import until
from tests.support.forge import Stub
from tests.support.forwarder import forwarding
from tests.support.instances import Instances
from tests.support.redis_faults import judge
from tests.support.redis_server import RedisServer
from tests.support.skewed import Skew

Record = Callable[[str, object], None]
STOPS, WORKERS, JUMPS, FAILOVERS = 200, 20, 20, 20


@pytest.fixture
def redis(durable: RedisServer) -> RedisServer:
    return durable


def test_d4_ten_seconds(cluster: Instances, consumer: Stub, record_property: Record) -> None:
    cluster.redis.start()
    calm, meanwhile, started = stopped_for(cluster, consumer, 10)
    before = len(consumer.received)
    until(lambda: len(consumer.received) >= before + 2, "cycles")
    seen = judge(consumer.received)
    record_property("D4", f"stopped for 10 s: {started} starts, p99 of /health {meanwhile:.0f} ms ({calm:.0f} before)")
    assert (started, seen.stale, seen.repeated) == (0, 0, 0)
    assert meanwhile <= max(50, 2 * calm)


def test_d5_two_hundred_leaders_stopped_past_their_time(
    cluster: Instances, consumer: Stub, record_property: Record
) -> None:
    """At work: five agents, woken every second; a leader is stopped until another one leads."""
    cluster.redis.start()
    cluster.start("a", "b", SCHEDULER_LEADER_LOCK_TTL_MS="1000")
    for number in range(5):
        cluster[cluster.leader()].register(id=f"n{number}", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    for _ in range(STOPS):
        leader = until(lambda: sole(cluster), "one leader")
        follower = "ab".replace(leader, "")
        cluster[leader].daemon.signal(signal.SIGSTOP)
        try:
            until(lambda follower=follower: cluster.condition(follower)["role"] == "leader", "another leader")
        finally:
            cluster[leader].daemon.signal(signal.SIGCONT)
        until(lambda: cluster.answers("a") and cluster.answers("b"), "both again")
    seen = judge(consumer.received)
    record_property(
        "D5",
        f"{STOPS} leaders stopped past their time: {seen.all} calls, {seen.stale} stale (refused by who checks), "
        f"{seen.repeated} repeated (known by their key), accepted fences {'rise' if _rise(seen.fences) else 'FALL'}",
    )
    assert _rise(seen.fences)
    assert len(seen.accepted) > STOPS


def test_d5_twenty_workers_stopped_between_claim_and_call(
    cluster: Instances, upstream: Stub, consumer: Stub, record_property: Record
) -> None:
    cluster.env = PATIENT
    cluster.redis.start()
    cluster.start("a", "b")
    for number in range(WORKERS):
        wake_too_late(cluster, upstream, consumer, number)
    seen = judge(consumer.received)
    record_property(
        "D5", f"{WORKERS} workers stopped between claim and call: {seen.all} calls, {seen.stale + seen.repeated} bad"
    )
    assert (seen.all, seen.stale, seen.repeated) == (WORKERS, 0, 0)


@pytest.mark.needs("gcc")
def test_d6_the_clock_of_redis_jumps_twenty_times(
    cluster: Instances, consumer: Stub, tmp_path: Path, record_property: Record
) -> None:
    """A minute ahead ends every lease at once, a minute back keeps them a minute longer."""
    skew = Skew(tmp_path / "skew")
    cluster.redis.exe = skew.exe
    cluster.redis.start()
    cluster.start("a", "b")
    for number in range(5):
        cluster[cluster.leader()].register(id=f"n{number}", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    for number in range(JUMPS):
        skew.move(60 if number % 2 == 0 else 0)
        before, moved = len(consumer.received), time.monotonic()
        until(lambda moved=moved: time.monotonic() > moved + 3, "a while")
        until(lambda before=before: len(consumer.received) >= before + 5, "cycles", timeout=120)
    seen = judge(consumer.received)
    record_property(
        "D6", f"{JUMPS} jumps of 60 s, ahead and back: {seen.all} calls, {seen.stale} stale, {seen.repeated} "
        f"repeated; accepted fences {'rise' if _rise(seen.fences) else 'FALL'}"
    )  # fmt: skip
    assert _rise(seen.fences)
    assert seen.stale == 0


def test_d7_twenty_failovers(cluster: Instances, consumer: Stub, tmp_path: Path, record_property: Record) -> None:
    """By turns to a replica that was cut off a while before and has no lock."""
    chance = random.Random(7)
    primary = cluster.redis.start()
    with forwarding(primary.port) as front:
        cluster.env = {"SCHEDULER_REDIS_URL": f"redis://127.0.0.1:{front.port}/0"}
        cluster.start("a", "b")
        cluster[cluster.leader()].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
        servers = [primary]
        for number in range(FAILOVERS):
            replica = RedisServer(tmp_path / f"replica-{number}").start()
            servers.append(replica)
            synced(replica, primary)
            with replica.client() as client:
                client.execute_command("REPLICAOF", "NO", "ONE")
                client.delete("forgeos:scheduler:leader_lock")
            cut, wait, fence = time.monotonic(), chance.uniform(0, 3), cluster.highest_fence()
            until(lambda cut=cut, wait=wait: time.monotonic() > cut + wait, "a while")
            primary.kill()
            front.lead_to(replica.port)
            primary, before = replica, len(consumer.received)
            until(lambda fence=fence: cluster.highest_fence() > fence, "a term there")
            until(lambda before=before: len(consumer.received) > before, "cycles")
        for each in servers:
            each.stop()
    seen = judge(consumer.received)
    record_property(
        "D7", f"{FAILOVERS} failovers to replicas without lock and last writes: {seen.all} calls, {seen.stale} stale, "
        f"{seen.repeated} repeated under their key; accepted fences {'rise' if _rise(seen.fences) else 'FALL'}"
    )  # fmt: skip
    assert _rise(seen.fences)
    assert seen.stale == 0


def sole(cluster: Instances) -> str | None:
    """Whoever wakes up may say for a moment that it leads; what it then writes is refused."""
    leading = [name for name in cluster.started if cluster.condition(name)["role"] == "leader"]
    return leading[0] if len(leading) == 1 else None


def _rise(fences: list[int]) -> bool:
    return fences == sorted(fences)
