"""How instances end, answer and hand over work, Redis there or away: forge-os D6, D9, D13 to D16, D31, D32, D34."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import until
from tests.support.forge import WALLET, Got, Stub
from tests.support.instances import Instances
from tests.support.redis_faults import FENCE, KEY, judge
from tests.support.redis_server import RedisServer, serving
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.run import Cause, Run
from vmsh_scheduler.executors.callback import cycle_of

P = "forgeos:scheduler"
AGENT = "X-ForgeOS-Agent-Key"


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(tmp_path / "redis", "--appendonly", "yes") as server:
        yield server


def holding(cluster: Instances, consumer: Stub) -> tuple[str, threading.Event]:
    """Who carries out a cycle that waits for its answer, and what lets it go on."""
    gate = consumer.hold("/held")
    cluster[cluster.leader()].register(id="held", cycleIntervalMs=3_600_000, callbackUrl=f"{consumer.url}/held")
    until(lambda: consumer.at("/held"), "the call")
    return until(lambda: next((name for name in cluster.started if cluster.runs(name)), None), "who makes it"), gate


def test_d9_sigterm_in_mid_callback_one_post_the_result_kept_and_the_lock_given_away(
    cluster: Instances, consumer: Stub
) -> None:
    cluster.start("a", "b")
    busy, gate = holding(cluster, consumer)
    other = next(name for name in cluster.started if name != busy)
    began = time.monotonic()
    cluster[busy].daemon.signal(signal.SIGTERM)
    cluster[busy].daemon.wait_line("draining")
    gate.set()
    assert cluster[busy].daemon.wait() == 0
    assert time.monotonic() - began < 5
    until(lambda: cluster.condition(other)["role"] == "leader", "the other one to lead", timeout=2.5)
    until(lambda: cluster[other].agent("held")["lastCycleAt"], "the result")
    until(lambda: time.monotonic() > began + 5, "the claim's time to pass")
    assert len(consumer.at("/held")) == 1


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_d13_sigterm_while_redis_is_away_ends_in_time(cluster: Instances, consumer: Stub, how: str) -> None:
    """The original does not end at all."""
    cluster.start("a", "b")
    _, gate = holding(cluster, consumer)
    cluster.redis.kill() if how == "killed" else cluster.redis.pause()
    gate.set()
    took = {}
    for name in cluster.started:
        began = time.monotonic()
        cluster[name].daemon.signal(signal.SIGTERM)
        cluster[name].daemon.wait(timeout=12)
        took[name] = time.monotonic() - began
        assert "Traceback" not in cluster[name].daemon.text()
    assert max(took.values()) < 10, took


def test_d13_redis_that_comes_late_is_found_and_health_never_lies(cluster: Instances, consumer: Stub) -> None:
    cluster.redis.kill()
    cluster.start("a")
    seen = cluster["a"].get("/health")
    assert (seen["redis"]["enabled"], seen["redis"]["connected"], seen["redis"]["lastError"]) == (
        True,
        False,
        "redis_down",
    )
    cluster.redis.start()
    until(lambda: cluster["a"].get("/health")["redis"]["connected"], "it to say that it is connected")
    cluster.leader()
    cluster["a"].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: consumer.received, "a cycle")


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_d14_requests_are_answered_while_redis_is_away_and_nothing_bursts_out_afterwards(
    cluster: Instances, consumer: Stub, how: str
) -> None:
    """The original's hang; then both of its instances send at once."""
    cluster.start("a", "b")
    leader, follower = cluster.leader(), cluster.follower()
    cluster[leader].register(id="fast", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: len(consumer.received) >= 2 and cluster[follower].agent("fast"), "cycles")
    cluster.redis.kill() if how == "killed" else cluster.redis.pause()
    for name in (leader, follower):
        for method, path, body in (
            ("GET", "/health", None), ("GET", "/v1/agents", None), ("GET", "/metrics", None),
            ("POST", "/v1/agents/register", {"id": "new", "walletAddress": WALLET}),
            ("POST", "/v1/agents/fast/control", {"action": "pause"}), ("POST", "/v1/scheduler/tick", {}),
        ):  # fmt: skip
            began = time.monotonic()
            got = cluster[name].ask(method, path, body, X_User_Id="user-123")
            assert time.monotonic() - began < 10, path
            assert got.status in (200, 503), (path, got)
            if "agents/" in path:
                assert (got.status, set(got.json) >= {"error"}) == (503, True), (path, got)
    until(lambda: cluster.leader_now() is None, "the leader to step down")
    before = len(consumer.received)
    cluster.redis.start() if how == "killed" else cluster.redis.resume()
    cluster.leader()
    back = time.monotonic()
    until(lambda: len(consumer.received) >= before + 2, "cycles")
    assert len(consumer.received) - before <= 3 + (time.monotonic() - back)
    seen = judge(consumer.received)
    assert (seen.stale, seen.repeated) == (0, 0)


def test_d15_a_healthy_leader_keeps_its_lock_whatever_the_tick(cluster: Instances) -> None:
    """The original's loses it every 5 s with a tick of a minute."""
    cluster.start("a", "b", SCHEDULER_TICK_MS="60000", SCHEDULER_LEADER_LOCK_TTL_MS="1000")
    leader, began = cluster.leader(), time.monotonic()
    fence = cluster.condition(leader)["fence"]
    while time.monotonic() < began + 10:
        assert cluster.condition(leader)["role"] == "leader"
        with cluster.redis.client() as client:
            value = str(client.get(f"{P}:leader_lock"))
        assert value.rsplit("|", 2)[1:] == [str(fence), leader]
    text = cluster[leader].ask("GET", "/metrics").body.decode()
    assert "forgeos_scheduler_leader_acquired_total 1\n" in text
    assert "forgeos_scheduler_leader_renew_failed_total 0\n" in text


def test_d16_what_one_registers_another_changes_and_nobody_writes_it_back(cluster: Instances) -> None:
    cluster.start("a", "b")
    leader, follower = cluster.leader(), cluster.follower()
    cluster[leader].register(id="x", name="first", cycleIntervalMs=3_600_000)
    until(lambda: cluster[follower].agent("x"), "it there")
    cluster[follower].register(id="x", name="second", cycleIntervalMs=3_600_000)
    for name in (leader, follower):
        until(lambda name=name: cluster[name].agent("x")["name"] == "second", f"the change at {name}")
    with cluster.redis.client() as client:
        assert json.loads(str(client.hget(f"{P}:agents", "user-123:x")))["name"] == "second"
    removed = cluster[follower].ask("POST", "/v1/agents/x/control", {"action": "remove"}, X_User_Id="user-123")
    assert removed.status == 200
    for name in (leader, follower):
        until(lambda name=name: cluster[name].agent("x") is None, f"its end at {name}")
    with cluster.redis.client() as client:
        assert (client.hlen(f"{P}:agents"), client.zcard(f"{P}:agent_schedule")) == (0, 0)


def test_d6_a_cycle_that_another_instance_sends_is_not_sent_again(cluster: Instances, consumer: Stub) -> None:
    """Its lease in Redis is somebody else's: the original takes that for a failure of Redis and sends."""
    cluster.start("a")
    cluster.leader()
    with cluster.redis.client() as client:
        cluster["a"].register(id="one", cycleIntervalMs=2_000, callbackUrl=consumer.url)
        first = until(lambda: consumer.received[:1], "a cycle")[0].headers[KEY]
        until(lambda: cluster["a"].agent("one")["lastCycleAt"], "its outcome")
        slot = int(first.split(":")[-2])
        assert first == key_of("one", slot)
        key = key_of("one", until(lambda: _due(cluster, "one", slot), "the next slot"))
        client.set(f"{P}:callback_dedupe:{key}:lease", "another", px=4_000)
        held = time.monotonic()
        call = until(lambda: consumer.received[1:2], "the cycle once the other one's lease is over")[0]
        assert call.headers[KEY] == key
        assert time.monotonic() - held >= 3.5
    assert judge(consumer.received).repeated == 0


def key_of(agent: str, slot: int) -> str:
    job = f"_agents/user-123/{agent}"
    run = Run("any", job, slot, Cause.SCHEDULE, 1, 1, slot, slot)
    return cycle_of(Callback("", {}, user="user-123", agent=agent), run, "a").key


def _due(cluster: Instances, id: str, after: int) -> int | None:
    due = cluster["a"].agent(id)["nextRunAt"]
    return int(due) if due > after else None


def test_d31_d34_every_key_of_a_script_is_one_that_was_named_and_all_are_in_one_slot(
    cluster: Instances, consumer: Stub
) -> None:
    """A node of a Redis Cluster refuses scripts whose keys lie in two slots."""
    cluster.env = {"SCHEDULER_REDIS_PREFIX": "{vmsh}:s"}
    server = cluster.redis
    server.stop()
    server.forget()
    server.options = ("--cluster-enabled", "yes", "--appendonly", "yes")
    server.start()
    with server.client() as client:
        client.execute_command("CLUSTER", "ADDSLOTS", *range(16_384))
        until(lambda: "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO")), "the cluster")
        cluster.start("a", "b")
        cluster[cluster.leader()].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
        until(lambda: len(consumer.received) >= 3, "cycles")
        assert {key.startswith("{vmsh}:s:") for key in client.keys("*")} == {True}


def test_d32_a_leader_that_was_stopped_hands_out_nothing_more(cluster: Instances, consumer: Stub) -> None:
    """Its scripts name the lock, and are refused; the original enqueues under the old fence."""
    cluster.start("a", "b")
    leader, follower = cluster.leader(), cluster.follower()
    for number in range(5):
        cluster[leader].register(id=f"n{number}", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: len(consumer.received) >= 10, "cycles")
    cluster[leader].daemon.signal(signal.SIGSTOP)
    try:
        until(lambda: cluster.condition(follower)["role"] == "leader", "another leader")
        fence = int(cluster.condition(follower)["fence"])
        before = len(consumer.received)
        until(lambda: len(consumer.received) >= before + 10, "its cycles")
    finally:
        cluster[leader].daemon.signal(signal.SIGCONT)
    before = len(consumer.received)
    until(lambda: len(consumer.received) >= before + 15, "cycles with both")
    assert {int(call.headers[FENCE]) for call in consumer.received[before:]} == {fence}
    assert judge(consumer.received).stale == 0
    assert cluster.leader() == follower


SHARED_QUOTA = {
    "SCHEDULER_AUTH_TOKENS": "canary-token-0001", "SCHEDULER_QUOTA_READ_MAX": "20",
    "SCHEDULER_QUOTA_WINDOW_MS": "3600000", "SCHEDULER_AUTH_READS": "true",
}  # fmt: skip


def test_a6_one_quota_over_all_instances_and_over_redis_that_goes(cluster: Instances) -> None:
    cluster.env = SHARED_QUOTA
    cluster.start("a", "b")

    def ask(name: str) -> Got:
        return cluster[name].ask("GET", "/v1/agents", Authorization="Bearer canary-token-0001")

    found = [ask("ab"[number % 2]).status for number in range(24)]
    assert found == [200] * 20 + [429] * 4
    with cluster.redis.client() as client:
        (key,) = client.keys(f"{P}:quota:*")
        assert int(client.get(key) or 0) == 24
        assert 0 < client.pttl(key) <= 3_601_000
    cluster.redis.kill()
    rest = [ask("a").status for _ in range(12)]
    assert rest == [200] * 8 + [429] * 4, "what this instance saw itself goes on to count"
