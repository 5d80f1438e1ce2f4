"""A Redis as the Forge.OS scheduler leaves it: its agents, its queue, its leases (forge-os sections 10 and 17)."""

import json
import time
from typing import Any

import pytest

from tests.support.daemon import until
from tests.support.forge import WALLET, Stub
from tests.support.instances import Instances

P = "forgeos:scheduler"
TICK_MS = 1_500
READY, LEFT, LEASED, HOLLOW = "task-ready", "task-left", "task-leased", "task-hollow"


@pytest.fixture
def cluster(cluster: Instances) -> Instances:
    cluster.env = {"SCHEDULER_TICK_MS": str(TICK_MS)}
    return cluster


def record(id: str, url: str, **more: object) -> dict[str, object]:
    """As the original writes it (forge-os section 2)."""
    now = int(time.time() * 1_000)
    return {
        "userId": "user-123", "id": id, "name": f"Agent {id}", "walletAddress": WALLET, "status": "RUNNING",
        "cycleIntervalMs": 3_600_000, "callbackUrl": url, "strategyLabel": "dca", "createdAt": now - 9_000_000,
        "updatedAt": now - 8_000_000, "lastCycleAt": now - 1_000, "nextRunAt": now + 3_599_000,
        "lastDispatch": None, "failureCount": 0, "queuePending": False, **more,
    }  # fmt: skip


def leave(client: Any, url: str) -> None:
    """What the original had when it was killed: three agents, a task that waits, two that it had claimed of which one
    is still leased, and one without its payload."""
    client.hset(f"{P}:agents", "user-123:one", json.dumps(record("one", f"{url}/one")))
    client.hset(f"{P}:agents", "user-123:two", json.dumps(record("two", f"{url}/two")))
    client.hset(f"{P}:agents", "user-123:off", json.dumps(record("off", f"{url}/off", status="PAUSED")))
    client.hset(f"{P}:agents", "user-123:bad", "{no record")
    now = int(time.time() * 1_000)
    for key in ("one", "two"):
        client.zadd(f"{P}:agent_schedule", {f"user-123:{key}": now + 3_599_000})
    for task, agent in ((READY, "one"), (LEFT, "two"), (LEASED, "two")):
        payload = {"id": task, "kind": "agent_cycle", "queueKey": f"user-123:{agent}", "enqueuedAt": now - 5_000}
        client.hset(f"{P}:cycle_queue_payloads", task, json.dumps(payload | {"leaderFenceToken": 7, "instanceId": "o"}))
    client.rpush(f"{P}:cycle_queue", READY)
    client.rpush(f"{P}:cycle_queue_processing", LEFT, LEASED, HOLLOW)
    client.zadd(f"{P}:cycle_queue_inflight", {LEFT: now - 1, LEASED: now + 60_000})
    client.set(f"{P}:exec_lease:{LEASED}", json.dumps({"instanceId": "o", "leaderFenceToken": 7, "ts": now}), px=60_000)
    client.set(f"{P}:leader_fence", 7)


def test_agents_and_tasks_are_taken_over(cluster: Instances, consumer: Stub) -> None:
    with cluster.redis.client() as client:
        leave(client, consumer.url)
        cluster.start("a")
        began = time.monotonic()
        cluster.leader()
        found = {agent["id"]: agent for agent in cluster["a"].get("/v1/agents")["agents"]}
        assert {id: agent["status"] for id, agent in found.items()} == {
            "one": "RUNNING",
            "two": "RUNNING",
            "off": "PAUSED",
        }
        assert found["one"]["name"] == "Agent one"
        assert set(client.smembers(f"{P}:exec_agent_tasks:user-123:two")) >= {LEASED}
        assert client.hget(f"{P}:cycle_queue_task_owners", LEASED) == "user-123:two"
        until(lambda: consumer.at("/one") and consumer.at("/two"), "both tasks")
        assert time.monotonic() - began < 10
        until(lambda: client.lrange(f"{P}:cycle_queue_processing", 0, -1) == [LEASED], "only what is leased to be left")
        assert (client.exists(f"{P}:exec_lease:{LEASED}"), client.hexists(f"{P}:cycle_queue_payloads", LEASED)) == (
            1,
            True,
        )
        assert [len(consumer.at(path)) for path in ("/one", "/two", "/off")] == [1, 1, 0]
        for id in ("one", "two"):  # due as it was, not at once
            assert client.zscore(f"{P}:agent_schedule", f"user-123:{id}") > (time.time() + 3_500) * 1_000
        assert client.hget(f"{P}:agents", "user-123:bad") == "{no record"
        health = cluster["a"].get("/health")
        assert health["redis"]["execQueueRecoveredOnBootTotal"] == 1
        cluster["a"].daemon.stop()


def test_nothing_is_drained_before_the_first_tick(cluster: Instances, consumer: Stub) -> None:
    with cluster.redis.client() as client:
        leave(client, consumer.url)
        cluster.env = {"SCHEDULER_TICK_MS": "4000"}
        cluster.start("a")
        cluster.leader()
        led = time.monotonic()
        assert client.llen(f"{P}:cycle_queue") == 2
        until(lambda: time.monotonic() > led + 1, "a while")
        assert (consumer.received, client.llen(f"{P}:cycle_queue")) == ([], 2)
        until(lambda: consumer.received, "the first tick")
        assert time.monotonic() - led > 1.5


def test_remove_spares_what_is_leased(cluster: Instances, consumer: Stub) -> None:
    with cluster.redis.client() as client:
        leave(client, consumer.url)
        cluster.start("a")
        cluster.leader()
        until(lambda: consumer.at("/one") and consumer.at("/two"), "both tasks")
        got = cluster["a"].ask("POST", "/v1/agents/two/control", {"action": "remove"}, X_User_Id="user-123")
        assert got.status == 200
        assert client.hget(f"{P}:agents", "user-123:two") is None
        assert client.zscore(f"{P}:agent_schedule", "user-123:two") is None
        assert client.lrange(f"{P}:cycle_queue_processing", 0, -1) == [LEASED]
        assert client.smembers(f"{P}:exec_agent_tasks:user-123:two") == {LEASED}
        assert client.exists(f"{P}:exec_lease:{LEASED}") == 1


def test_readers_of_the_original_find_its_agents_and_when_they_are_due(cluster: Instances, consumer: Stub) -> None:
    cluster.start("a")
    cluster.leader()
    with cluster.redis.client() as client:
        cluster["a"].register(id="one", name="One", cycleIntervalMs=60_000, callbackUrl=consumer.url)
        until(lambda: cluster["a"].agent("one")["lastCycleAt"], "a cycle")
        shown = until(lambda: _shown(client, "one"), "its record")
        view = cluster["a"].agent("one")
        names = ("id", "userId", "name", "walletAddress", "status", "cycleIntervalMs", "nextRunAt", "lastCycleAt")
        assert {name: shown[name] for name in names} == {name: view[name] for name in names}
        assert (shown["callbackUrl"], shown["failureCount"]) == (consumer.url, 0)
        assert client.zscore(f"{P}:agent_schedule", "user-123:one") == view["nextRunAt"]
        cluster["a"].ask("POST", "/v1/agents/one/control", {"action": "pause"}, X_User_Id="user-123")
        assert client.zscore(f"{P}:agent_schedule", "user-123:one") is None
        assert json.loads(client.hget(f"{P}:agents", "user-123:one") or "{}")["status"] == "PAUSED"


def _shown(client: Any, id: str) -> Any:
    found = json.loads(client.hget(f"{P}:agents", f"user-123:{id}") or "{}")
    return found if found.get("lastCycleAt") else None
