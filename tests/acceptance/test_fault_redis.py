"""Family D at booted daemons: Redis away, dead, emptied, stopped, read-only or replaced under several instances."""

import signal
import time
from collections.abc import Callable
from urllib.parse import quote

import pytest

from tests.support.broken import ROOT, command
from tests.support.daemon import until
from tests.support.forge import Stub
from tests.support.instances import Instances
from tests.support.redis_faults import asking, judge
from tests.support.redis_server import RedisServer

Record = Callable[[str, object], None]
TTL_S = 2.0
"""tests.support.instances.TIMES"""
BOOT_S = 3.0


@pytest.fixture
def redis(durable: RedisServer) -> RedisServer:
    return durable


def health_of(cluster: Instances, name: str) -> tuple[str, str]:
    """At both listeners."""
    each = cluster[name]
    return f"http://127.0.0.1:{each.daemon.port}/health", f"http://127.0.0.1:{each.port}/health"


def quickest(measure: Callable[[], float]) -> float:
    """Of up to three: what else the machine does is not the program's."""
    tries = [measure()]
    while tries[-1] > BOOT_S and len(tries) < 3:
        tries.append(measure())
    return min(tries)


def degraded_after(cluster: Instances) -> float:
    """Seconds until an instance that finds no server serves."""
    if "a" in cluster.started:
        cluster["a"].daemon.stop()
    began = time.monotonic()
    cluster.start("a")
    seen = cluster.condition("a")
    took = time.monotonic() - began
    assert (seen["role"], seen["problems"], seen["fence"]) == ("follower", ["redis_down"], 0)
    return took


def given_up_after(cluster: Instances) -> float:
    """Seconds until one that is told to exit has."""
    began = time.monotonic()
    env = cluster.environ("a", SCHEDULER_REDIS_ON_DOWN="exit", PORT="0")
    daemon = cluster.place("a").daemon(env=env)
    assert daemon.wait() == 69
    took = time.monotonic() - began
    assert "nothing listens there" in daemon.text()
    assert "Traceback" not in daemon.text()
    return took


class TestD1:
    """No server at start."""

    def test_d1_wait_serves_degraded_within_3_s_never_leads_and_goes_on_by_itself(
        self, cluster: Instances, consumer: Stub, record_property: Record
    ) -> None:
        took = quickest(lambda: degraded_after(cluster))
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
        record_property(
            "D1", f"no server at start, wait: degraded and serving after {took:.1f} s, then leads by itself"
        )
        assert took <= BOOT_S

    def test_d1_exit_ends_with_69(self, cluster: Instances, record_property: Record) -> None:
        took = quickest(lambda: given_up_after(cluster))
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


def lose_in_mid_run(cluster: Instances, consumer: Stub) -> tuple[float, int]:
    """Redis is killed while a callback waits for its answer: seconds until the leader steps down, and calls that
    begin between then and its return."""
    cluster.start("a", "b", SCHEDULER_REDIS_EXEC_LEASE_TTL_MS="15000")
    leader = cluster.leader()
    held = consumer.hold("/held")
    cluster[leader].register(id="held", cycleIntervalMs=3_600_000, callbackUrl=f"{consumer.url}/held")
    cluster[leader].register(id="fast", cycleIntervalMs=1_000, callbackUrl=f"{consumer.url}/fast")
    until(lambda: consumer.at("/held") and len(consumer.at("/fast")) >= 2, "runs")
    cluster.redis.kill()
    died = time.monotonic()
    until(lambda: cluster.condition(leader)["role"] == "follower", "the leader to step down", timeout=4 * TTL_S)
    took, before = time.monotonic() - died, len(consumer.received)
    held.set()
    until(lambda: time.monotonic() > died + 2 * TTL_S, "a while")
    return took, len(consumer.received) - before


def planted(cluster: Instances, kind: str) -> None:
    """Every instance has this defect."""
    for name in ("a", "b"):
        cluster.place(name).command = command(kind)
        cluster.place(name).environ["PYTHONPATH"] = str(ROOT)


class TestD2:
    """Redis dies in mid-run."""

    def test_d2_the_leader_steps_down_nothing_starts_what_runs_ends_and_all_goes_on(
        self, cluster: Instances, consumer: Stub, record_property: Record
    ) -> None:
        cluster.redis.start()
        took, started = lose_in_mid_run(cluster, consumer)
        assert (cluster.leader_now(), started) == (None, 0)
        cluster.redis.start()
        cluster.leader()
        before = len(consumer.at("/fast"))
        until(lambda: len(consumer.at("/fast")) >= before + 2, "cycles")
        until(lambda: cluster["a"].agent("held")["lastCycleAt"], "the outcome of what ran")
        seen = judge(consumer.received)
        assert (len(consumer.at("/held")), seen.stale, seen.repeated) == (1, 0, 0)
        record_property(
            "D2", f"killed in mid-run, lock of {TTL_S:g} s: stepped down after {took:.1f} s, {started} starts, "
            "the run in flight ended once"
        )  # fmt: skip
        assert took <= 0.8 * TTL_S + 0.3

    def test_d2_bites_one_that_never_steps_down_is_seen(self, cluster: Instances, consumer: Stub) -> None:
        planted(cluster, "leads for ever")
        cluster.redis.start()
        with pytest.raises(AssertionError, match="the leader to step down"):
            lose_in_mid_run(cluster, consumer)


def flushed(server: RedisServer) -> None:
    with server.client() as client:
        client.flushall()


def restarted_empty(server: RedisServer) -> None:
    server.kill()
    server.forget()
    server.start()


class TestD3:
    """Redis comes back empty."""

    @pytest.mark.parametrize("empty", [flushed, restarted_empty])
    def test_d3_agents_come_back_from_memory_the_loss_is_told_and_the_fence_rises(
        self, cluster: Instances, consumer: Stub, empty: Callable[[RedisServer], None], record_property: Record
    ) -> None:
        cluster.redis.start()
        cluster.start("a", "b")
        leader = cluster.leader()
        consumer.hold("/held")
        api = cluster[cluster.follower()]
        api.register(id="held", cycleIntervalMs=3_600_000, callbackUrl=f"{consumer.url}/held")
        api.register(id="fast", cycleIntervalMs=1_000, callbackUrl=f"{consumer.url}/fast")
        api.register(id="quiet", cycleIntervalMs=1_000)
        api.ask("POST", "/v1/agents/quiet/control", {"action": "pause"}, X_User_Id="user-123")
        until(lambda: consumer.at("/held") and len(consumer.at("/fast")) >= 2, "runs")
        fence = cluster.condition(leader)["fence"]
        for name in ("a", "b"):
            until(lambda name=name: cluster[name].agent("fast"), f"the agents at {name}")
        empty(cluster.redis)
        now = cluster.restorer()
        assert "state_lost" in cluster.condition(now)["problems"]
        assert cluster[now].daemon.health()["status"] == "degraded"
        assert "restored" in cluster[now].daemon.wait_line("trouble", what="state_lost")["why"]
        for name in ("a", "b"):
            found = {each["id"]: each["status"] for each in cluster[name].get("/v1/agents")["agents"]}
            assert found == {"held": "RUNNING", "fast": "RUNNING", "quiet": "PAUSED"}
        before = len(consumer.at("/fast"))
        until(lambda: len(consumer.at("/fast")) >= before + 3, "cycles")
        until(lambda: len(consumer.at("/held")) >= 2, "the open run again")
        seen = judge(consumer.received)
        assert seen.stale == 0
        assert len({call.headers["X-ForgeOS-Idempotency-Key"] for call in consumer.at("/held")}) == 1
        assert cluster.condition(now)["fence"] > fence
        record_property(
            "D3", f"{empty.__name__}: 3 agents and a pause restored, 0 stale, open run sent again by its key"
        )

    def test_d3_agents_that_could_not_be_restored_are_in_the_next_term(
        self, cluster: Instances, consumer: Stub
    ) -> None:
        """A key of another type stands where a journal goes."""
        cluster.redis.start()
        cluster.start("a")
        cluster.leader()
        api, journal = cluster["a"], "forgeos:scheduler:journal:_agents/user-123/one"
        api.register(id="one", cycleIntervalMs=1_000, callbackUrl=consumer.url)
        until(lambda: consumer.received, "a cycle")
        with cluster.redis.client() as client:
            with client.pipeline() as both:
                both.flushall()
                both.set(journal, "x")
                both.execute()
            api.daemon.wait_line("trouble", what="state_lost")
            until(lambda: "redis_refuses" in cluster.condition("a")["problems"], "the problem")
            assert api.daemon.alive
            client.delete(journal)
        cluster.leader()
        before = len(consumer.received)
        until(lambda: len(consumer.received) > before, "cycles")
        api.daemon.stop()


def stopped_for(cluster: Instances, consumer: Stub, seconds: float) -> tuple[float, float, int]:
    """Redis is stopped: p99 of /health in ms at both listeners of both instances before and meanwhile, and starts
    meanwhile."""
    cluster.start("a", "b")
    cluster[cluster.leader()].register(id="fast", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: len(consumer.received) >= 2, "cycles")
    urls = [url for name in ("a", "b") for url in health_of(cluster, name)]
    with asking(*urls) as calm:
        until(lambda: len(calm.ms) > 200, "answers")
    cluster.redis.pause()
    died = time.monotonic()
    try:
        until(lambda: time.monotonic() > died + 0.5, "what was under way")
        before = len(consumer.received)
        with asking(*urls) as waits:
            until(lambda: time.monotonic() > died + seconds, "the end of the pause", timeout=seconds + 5)
        assert waits.failed == 0
        assert cluster.leader_now() is None
        return calm.p99, waits.p99, len(consumer.received) - before
    finally:
        cluster.redis.resume()


class TestD4:
    """Redis does not answer."""

    def test_d4_nothing_starts_health_answers_and_all_goes_on(
        self, cluster: Instances, consumer: Stub, record_property: Record
    ) -> None:
        cluster.redis.start()
        calm, meanwhile, started = stopped_for(cluster, consumer, 4)
        before = len(consumer.received)
        until(lambda: len(consumer.received) >= before + 2, "cycles")
        seen = judge(consumer.received)
        assert (started, seen.stale, seen.repeated) == (0, 0, 0)
        record_property(
            "D4", f"stopped for 4 s: {started} starts, p99 of /health {meanwhile:.0f} ms ({calm:.0f} ms before)"
        )
        assert meanwhile <= max(50, 2 * calm)

    def test_d4_bites_who_waits_for_it_in_the_loop_answers_late(self, cluster: Instances, consumer: Stub) -> None:
        planted(cluster, "asks redis in the loop")
        cluster.redis.start()
        calm, meanwhile, _ = stopped_for(cluster, consumer, 4)
        assert meanwhile > max(50, 2 * calm)


def wake_too_late(cluster: Instances, upstream: Stub, consumer: Stub, number: int) -> None:
    """An instance is stopped between claiming a cycle and sending it, until another has sent it; then both what it
    waited for and its wake-up come at once."""
    wallet = f"kaspa:q{number:060d}"
    path, name = f"/addresses/{quote(wallet, safe='')}/balance", f"late-{number}"
    gate, leader = upstream.hold(path), cluster.leader()
    cluster[leader].register(
        id=name, cycleIntervalMs=3_600_000, walletAddress=wallet, callbackUrl=f"{consumer.url}/{name}"
    )
    until(lambda: upstream.at(path), "the cycle to begin")
    busy = until(lambda: next((who for who in cluster.started if cluster.runs(who)), None), "whoever has it")
    cluster[busy].daemon.signal(signal.SIGSTOP)
    try:
        other = next(who for who in cluster.started if who != busy)
        until(lambda: cluster.condition(other)["role"] == "leader", "another leader")
        until(lambda: len(upstream.at(path)) >= 2, "the cycle to begin there")
        gate.set()
        until(lambda: consumer.at(f"/{name}"), "the cycle")
    finally:
        cluster[busy].daemon.signal(signal.SIGCONT)
    until(lambda: cluster.leader_now() and all(cluster.answers(who) for who in cluster.started), "both again")
    woken = time.monotonic()
    until(lambda: time.monotonic() > woken + 1, "what it might still do")


PATIENT = {"KAS_API_TIMEOUT_MS": "30000"}
ROUNDS = 2


class TestD5:
    """Whoever was stopped past its time wakes up."""

    def test_d5_it_sends_nothing_more(
        self, cluster: Instances, upstream: Stub, consumer: Stub, record_property: Record
    ) -> None:
        cluster.env = PATIENT
        cluster.redis.start()
        cluster.start("a", "b")
        for number in range(ROUNDS):
            wake_too_late(cluster, upstream, consumer, number)
        seen = judge(consumer.received)
        record_property(
            "D5", f"{ROUNDS} stopped past their time between claim and call: {seen.all} calls, {seen.stale} of a stale "
            f"fence, {seen.repeated} repeated (who checks nothing sees the same)"
        )  # fmt: skip
        assert (seen.all, seen.stale, seen.repeated) == (ROUNDS, 0, 0)
        assert [len(cluster[name].get("/v1/agents")["agents"]) for name in ("a", "b")] == [ROUNDS, ROUNDS]

    def test_d5_bites_one_that_never_loses_a_claim_is_refused_by_the_receiver(
        self, cluster: Instances, upstream: Stub, consumer: Stub
    ) -> None:
        planted(cluster, "never loses a claim")
        cluster.env = PATIENT
        cluster.redis.start()
        cluster.start("a", "b")
        wake_too_late(cluster, upstream, consumer, 0)
        seen = judge(consumer.received)
        assert (len(seen.accepted), seen.stale + seen.repeated) == (1, 1)
