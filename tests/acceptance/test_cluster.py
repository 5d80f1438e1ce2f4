"""Several instances over one Redis: one leads, all work, nothing is lost when one of them goes (docs/redis.md)."""

from collections.abc import Iterator

import pytest

from tests.support.daemon import until
from tests.support.forge import Stub
from tests.support.instances import Instances
from tests.support.redis_server import RedisServer, serving

KEY = "X-ForgeOS-Idempotency-Key"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def cluster(redis: RedisServer, cluster: Instances) -> Instances:
    with redis.client() as client:
        client.flushall()
    cluster.env = {}
    return cluster


ANCHORED = """namespaces:
  dao:one:
    cadence:
      fast: {target: "local:dao", every: 1h, command: ["true"]}
"""


def keys(consumer: Stub) -> list[str]:
    return [each.headers[KEY] for each in list(consumer.received)]


def test_one_leads_and_every_instance_shows_and_changes_every_agent(cluster: Instances, consumer: Stub) -> None:
    """forge-os D16: an instance knew only what was registered with it."""
    cluster.start("a", "b")
    leader, follower = cluster.leader(), cluster.follower()
    cluster[follower].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    cluster[leader].register(id="two", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    for name in (leader, follower):
        until(lambda name=name: cluster[name].agent("one") and cluster[name].agent("two"), f"both agents at {name}")
    until(lambda: len(keys(consumer)) >= 6, "cycles")
    assert len(set(keys(consumer))) == len(keys(consumer))
    said = {each.headers["X-ForgeOS-Scheduler-Instance"] for each in consumer.received}
    assert said == {leader}
    asked = cluster[follower].ask("POST", "/v1/agents/one/control", {"action": "pause"}, X_User_Id="user-123")
    assert asked.json["agent"]["status"] == "PAUSED"
    until(lambda: cluster[leader].agent("one")["status"] == "PAUSED", "the pause at the leader")


def test_a_killed_leader_is_replaced_and_no_cycle_is_sent_twice(cluster: Instances, consumer: Stub) -> None:
    cluster.start("a", "b")
    leader, follower = cluster.leader(), cluster.follower()
    for n in range(5):
        cluster[leader].register(id=f"agent-{n}", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: len(keys(consumer)) >= 10, "cycles")
    fence = cluster.condition(leader)["fence"]
    cluster[leader].daemon.kill()
    until(lambda: cluster.condition(follower)["role"] == "leader", "another leader")
    assert cluster.condition(follower)["fence"] > fence
    before = len(keys(consumer))
    until(lambda: len(keys(consumer)) >= before + 15, "cycles under the new leader")
    fences = [int(each.headers["X-ForgeOS-Leader-Fence-Token"]) for each in list(consumer.received)]
    assert fences == sorted(fences)
    accepted = set(keys(consumer))
    assert len(keys(consumer)) - len(accepted) <= 5  # what the dead one was sending at that moment comes again


def test_an_orderly_stop_gives_the_lock_away_at_once(cluster: Instances, consumer: Stub) -> None:
    cluster.start("a", "b")
    leader, follower = cluster.leader(), cluster.follower()
    cluster[leader].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: keys(consumer), "a cycle")
    cluster[leader].daemon.stop()
    until(lambda: cluster.condition(follower)["role"] == "leader", "another leader", timeout=2.5)
    assert len(set(keys(consumer))) == len(keys(consumer))


def test_equal_files_under_two_roots_are_two_job_sets(cluster: Instances) -> None:
    """Directories are part of a job: neither instance would carry out what the other hands out, so both say so."""
    cluster.namespaces = ANCHORED
    cluster.start("a", "b")
    for name in ("a", "b"):
        until(lambda name=name: "config_differs" in cluster.condition(name)["problems"], f"a word of it at {name}")
