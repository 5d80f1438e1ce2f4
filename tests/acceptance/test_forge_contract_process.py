"""Forge.OS contract, sections 13 to 15 and 17: metrics, health, telemetry, agents of a file, start and stop."""

import re
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.contract import COUNTERS, GAUGES, HISTOGRAMS, World, error, world
from tests.support.daemon import Place, until
from tests.support.forge import forge

FILE = """
agents:
  - {agentId: filed, userId: ops, name: Of a file, walletAddress: "kaspa:qq0", cycleIntervalMs: 60000,
     callback: {url: "http://127.0.0.1:9/x"}}
"""


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    began = time.monotonic()
    with world(
        tmp_path_factory.mktemp("process"),
        lambda place: place.configure("namespaces: {}\n", agents=FILE),
        SCHEDULER_INSTANCE_ID="sched-doc",
        SCHEDULER_REDIS_PREFIX="",
    ) as made:
        assert time.monotonic() - began < 8
        yield made


def test_every_metric_is_there_in_plain_decimals(it: World) -> None:
    it.register(id="m", callbackUrl=it.hook("/m"))
    it.dispatched("m")
    text = it.api.ask("GET", "/metrics").body.decode()
    for name in (*COUNTERS, *GAUGES):
        kind = "counter" if name in COUNTERS else "gauge"
        assert re.search(rf"^forgeos_scheduler_{name}\s+\d+(\.\d+)?$", text, re.MULTILINE), name
        assert f"# TYPE forgeos_scheduler_{name} {kind}\n" in text
    for name in HISTOGRAMS:
        bounds = re.findall(rf'^forgeos_scheduler_{name}_bucket{{le="([^"]+)"}} \d+$', text, re.MULTILINE)
        assert bounds == ["50", "100", "250", "500", "1000", "2500", "5000", "+Inf"]
        assert re.search(rf"^forgeos_scheduler_{name}_sum \d+(\.\d+)?$", text, re.MULTILINE)
        assert re.search(rf"^forgeos_scheduler_{name}_count [1-9]\d*$", text, re.MULTILINE)
    for kind in ("price", "blockdag", "balance"):
        assert re.search(rf'^forgeos_scheduler_cache_misses_total{{kind="{kind}"}} \d+$', text, re.MULTILINE)
    samples = [line.rpartition(" ")[2] for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"\d+(\.\d+)?", sample) for sample in samples)
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(names) == len(set(names))
    it.control("m", "remove")


def test_the_fence_and_large_numbers_have_no_exponent(it: World) -> None:
    assert it.metric("leader_fence_token") > 1_000_000
    assert it.metric("leader_active") == 1


HEALTH = {
    "scheduler": (
        "tickMs queueDepth queueCapacity inFlight concurrency saturated redisAuthoritativeQueue redisQueue leader"
    ),
    "auth": (
        "enabled requireAuthForReads jwtEnabled jwtHs256Enabled jwksUrlConfigured oidcIssuerConfigured jwksPinnedKids"
        " jwksRequirePinnedKid serviceTokens quota"
    ),
    "redis": (
        "enabled connected keyPrefix loadedAgents lastError execQueueRecoveredOnBootTotal execQueueResetOnBootTotal"
    ),
    "agents": "count running paused",
    "cache": "priceAgeMs blockdagAgeMs balanceEntries",
}


def test_health_has_the_keys_of_both(it: World) -> None:
    health = it.api.get("/health")
    assert {"ok", "service", "kasApiBase", "ts"} <= health.keys()
    assert (health["ok"], health["service"], health["kasApiBase"]) == (True, "forgeos-scheduler", it.upstream.url)
    for part, keys in HEALTH.items():
        assert set(keys.split()) <= health[part].keys(), part
    for part in ("scheduler", "auth", "redis", "cache"):
        assert list(health[part]) == HEALTH[part].split()
    assert list(health["scheduler"]["leader"]) == (
        ["instanceId", "active", "lastRenewedAt", "nextRenewAt", "lockTtlMs", "fenceToken", "acquireBackoffUntil"]
    )
    assert health["scheduler"]["leader"]["instanceId"] == "sched-doc"
    assert (health["scheduler"]["tickMs"], health["scheduler"]["queueCapacity"]) == (1_000, 10_000)
    assert health["auth"]["quota"] == {"windowMs": 60_000, "readMax": 600, "writeMax": 240, "tickMax": 60}
    assert health["redis"]["keyPrefix"] == "forgeos:scheduler"
    assert (health["agents"]["count"], health["agents"]["running"]) == (1, 1)
    ours = it.daemon.health()
    assert ours.keys() <= health.keys()


def test_telemetry(it: World) -> None:
    got = it.api.get("/v1/telemetry-summary")
    assert list(got) == ["ok", "service", "scheduler", "callbacks", "ts"]
    assert set(got["scheduler"]) == {
        "queueDepth", "queueCapacity", "inFlight", "concurrency", "saturated", "saturationProxyPct",
        "redisAuthoritativeQueue", "redisExecQueue",
    }  # fmt: skip
    assert list(got["callbacks"]) == ["successTotal", "errorTotal", "dedupeSkippedTotal", "latencyP95BucketMs"]
    assert got["callbacks"]["latencyP95BucketMs"] in (None, 50, 100, 250, 500, 1_000, 2_500, 5_000)


def test_agents_of_a_file_are_listed_and_the_file_alone_changes_them(it: World) -> None:
    seen = it.api.agent("filed")
    assert (seen["userId"], seen["name"], seen["walletAddress"]) == ("ops", "Of a file", "kaspa:qq0")
    refused = (403, {"message": "agent_is_configured", "file": "config/agents.yaml"})
    assert error(it.register("ops", id="filed")) == refused
    for action in ("pause", "resume", "remove"):
        assert error(it.control("filed", action, "ops")) == refused
    assert error(it.control("filed", "bogus", "ops")) == (400, {"message": "invalid_action"})
    assert it.api.agent("filed")["status"] == "RUNNING"


def test_idle_it_ends_within_two_seconds(it: World) -> None:
    """Last in this module. A connection that is kept open does not keep the daemon."""
    it.control("filed", "pause")
    began = time.monotonic()
    it.daemon.signal(signal.SIGTERM)
    assert it.daemon.wait(timeout=10) == 0
    assert time.monotonic() - began < 2


def test_d9_what_runs_at_sigterm_is_waited_for_and_not_sent_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    with world(tmp_path_factory.mktemp("drain"), SCHEDULER_TICK_MS="250") as it:
        gate = it.consumer.hold("/drain")
        it.register(id="d", name="\ud800 é", cycleIntervalMs=3_600_000, callbackUrl=it.hook("/drain"))
        it.register(id="far", cycleIntervalMs=3_600_000, status="PAUSED")
        until(lambda: it.consumer.at("/drain"), "the callback")
        it.daemon.signal(signal.SIGTERM)
        it.daemon.wait_line("stopping")
        gate.set()
        assert it.daemon.wait() == 0
        again = forge(it.place, it.upstream, SCHEDULER_TICK_MS="250")
        seen = again.agent("d")
        assert (seen["lastDispatch"]["ok"], seen["nextRunAt"] - seen["lastCycleAt"]) == (True, 3_600_000)
        again.ask("POST", "/v1/scheduler/tick")
        assert len(it.consumer.at("/drain")) == 1
        assert [agent["id"] for agent in again.get("/v1/agents")["agents"]] == ["d", "far"]
        assert again.agent("far")["status"] == "PAUSED"


def test_w8_d7_after_a_kill_in_mid_callback_the_same_key_is_sent_again(
    tmp_path_factory: pytest.TempPathFactory, record_property: Callable[[str, object], None]
) -> None:
    with world(tmp_path_factory.mktemp("killed"), SCHEDULER_TICK_MS="250") as it:
        gate = it.consumer.hold("/killed")
        it.register(id="k", cycleIntervalMs=3_600_000, callbackUrl=it.hook("/killed"))
        until(lambda: it.consumer.at("/killed"), "the callback")
        it.daemon.kill()
        gate.set()
        again = forge(it.place, it.upstream, SCHEDULER_TICK_MS="250")
        first, second = until(lambda: got if len(got := it.consumer.at("/killed")) == 2 else None, "the same again")
        names = ("X-ForgeOS-Idempotency-Key", "X-ForgeOS-Queue-Task-Id")
        assert [first.headers[name] for name in names] == [second.headers[name] for name in names]
        fences = [int(each.headers["X-ForgeOS-Leader-Fence-Token"]) for each in (first, second)]
        assert fences[0] < fences[1]
        record_property("W8", "killed in mid-callback: the same key and task id again, a higher fence")
        until(lambda: again.agent("k")["lastCycleAt"], "its end")


def test_h9_a_taken_port_is_said_and_nothing_starts(place: Place, tmp_path_factory: pytest.TempPathFactory) -> None:
    with world(tmp_path_factory.mktemp("taken")) as it:
        done = place.cli("run", env={"PORT": str(it.api.port)})
        assert done.code == 69
        assert str(it.api.port) in done.err
