"""Family D at booted daemons: Redis away, dead, emptied, stopped, read-only or replaced under several instances."""

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.broken import ROOT, command
from tests.support.daemon import until
from tests.support.forge import Stub, stub
from tests.support.instances import Instances
from tests.support.redis_faults import asking, judge
from tests.support.redis_server import RedisServer

Record = Callable[[str, object], None]
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
TTL_S = 2.0
"""tests.support.instances.TIMES"""
BOOT_S = 3.0


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis", *DURABLE)
    yield server
    server.stop()


@pytest.fixture
def upstream() -> Iterator[Stub]:
    with stub() as made:
        yield made


@pytest.fixture
def consumer() -> Iterator[Stub]:
    with stub() as made:
        yield made


@pytest.fixture
def cluster(tmp_path: Path, redis: RedisServer, upstream: Stub) -> Iterator[Instances]:
    made = Instances(tmp_path, redis, upstream)
    yield made
    made.close()


def health_of(cluster: Instances, name: str) -> tuple[str, str]:
    """At both listeners."""
    each = cluster[name]
    return f"http://127.0.0.1:{each.daemon.port}/health", f"http://127.0.0.1:{each.port}/health"


class TestD1:
    """No server at start."""

    def test_d1_wait_serves_degraded_within_3_s_never_leads_and_goes_on_by_itself(
        self, cluster: Instances, consumer: Stub, record_property: Record
    ) -> None:
        began = time.monotonic()
        cluster.start("a")
        seen = cluster.condition("a")
        took = time.monotonic() - began
        assert (seen["role"], seen["problems"], seen["fence"]) == ("follower", ["redis_down"], 0)
        assert cluster["a"].daemon.health()["status"] == "degraded"
        assert cluster["a"].ask("POST", "/v1/agents/register", {"id": "x", "walletAddress": "kaspa:qq"}).status in (
            400,
            503,
        )
        cluster.redis.start()
        until(lambda: cluster.condition("a")["role"] == "leader", "a leader")
        cluster["a"].register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
        until(lambda: consumer.received, "a cycle")
        assert min(judge(consumer.received).fences) > 0
        record_property("D1", f"no server at start, wait: degraded and serving after {took:.1f} s, then leads by itself")
        assert took <= BOOT_S

    def test_d1_exit_ends_with_69(self, cluster: Instances, record_property: Record) -> None:
        began = time.monotonic()
        place = cluster.place("a")
        env = cluster.environ("a", SCHEDULER_REDIS_ON_DOWN="exit", PORT="0")
        daemon = place.daemon(env=env)
        assert daemon.wait() == 69
        took = time.monotonic() - began
        assert "nothing listens there" in daemon.text()
        assert "Traceback" not in daemon.text()
        record_property("D1", f"no server at start, exit: code 69 after {took:.1f} s")
        assert took <= BOOT_S

    def test_d1_standalone_says_so_and_its_fence_is_the_clock(
        self, cluster: Instances, consumer: Stub, record_property: Record
    ) -> None:
        before = int(time.time() * 1_000)
        cluster.start("a", SCHEDULER_REDIS_ON_DOWN="standalone")
        api = cluster["a"]
        assert "nothing listens there" in api.daemon.wait_line("standalone")["why"]
        assert "cluster" not in api.daemon.health()
        api.register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
        until(lambda: consumer.received, "a cycle")
        assert min(judge(consumer.received).fences) >= before
        record_property("D1", "no server at start, standalone: said, works, its fence is the clock in ms")
