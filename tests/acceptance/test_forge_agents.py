"""The Forge.OS scheduler's contract over a booted daemon, sections 4 to 8 and 14 (real market stub, real consumer)."""

import pytest

from tests.support.contract import RECORD, VIEW
from tests.support.daemon import Place, until
from tests.support.forge import WALLET, Forge, Stub, forge, stub


@pytest.fixture
def api(place: Place, upstream: Stub) -> Forge:
    return forge(place, upstream, SCHEDULER_INSTANCE_ID="sched-doc")


def test_a_registered_agent_is_woken_with_the_market(api: Forge, consumer: Stub) -> None:
    reply = api.register(agentId="alpha-1", name="Alpha 1", cycleIntervalMs=15_000, callbackUrl=f"{consumer.url}/hook")
    assert (reply["ok"], reply["key"], list(reply["agent"])) == (True, "user-123:alpha-1", RECORD)
    assert reply["agent"]["nextRunAt"] == reply["agent"]["createdAt"] + 1_000
    posted = until(lambda: consumer.received[:1], "the callback")[0]
    assert (posted.method, posted.path) == ("POST", "/hook")
    assert posted.headers["X-ForgeOS-Agent-Key"] == "user-123:alpha-1"
    assert posted.headers["X-ForgeOS-Scheduler-Instance"] == "sched-doc"
    assert list(posted.json) == ["event", "ts", "scheduler", "agent", "market"]
    assert posted.json["market"]["walletKas"] == 2.5
    assert posted.json["market"]["dag"] == {"daaScore": 98_765_432, "network": "kaspa-mainnet"}
    seen = until(lambda: agent if (agent := api.agent("alpha-1"))["lastDispatch"] else None, "the outcome")
    assert list(seen) == VIEW
    assert seen["lastDispatch"]["ok"] is True
    assert seen["lastDispatch"]["callbackIdempotencyKey"] == posted.headers["X-ForgeOS-Idempotency-Key"]
    assert seen["nextRunAt"] == seen["lastCycleAt"] + 15_000
    assert api.get("/v1/telemetry-summary")["callbacks"]["successTotal"] == 1


def test_d7_a_failed_cycle_is_tried_again_under_its_key(api: Forge, consumer: Stub) -> None:
    consumer.status = 500
    api.register(id="beta", cycleMs="1000", callbackUrl=consumer.url)
    until(lambda: len(consumer.received) >= 2, "a second attempt")
    first, second = consumer.received[:2]
    assert first.headers["X-ForgeOS-Idempotency-Key"] == second.headers["X-ForgeOS-Idempotency-Key"]
    assert [each.headers["X-ForgeOS-Attempt"] for each in (first, second)] == ["1", "2"]
    seen = api.agent("beta")
    assert seen["failureCount"] >= 1
    assert seen["lastDispatch"]["error"].startswith("callback_500")


def test_t4c_a_slow_host_leaves_permits_to_the_others(api: Forge, consumer: Stub) -> None:
    """ADR 13, with the default of four."""
    gate = consumer.hold("/slow")
    with stub() as quick:
        api.register(id="quick0", cycleIntervalMs=60_000, callbackUrl=quick.url)
        for n in range(8):
            api.register(id=f"slow{n}", cycleIntervalMs=60_000, callbackUrl=f"{consumer.url}/slow")
        for n in range(1, 20):
            api.register(id=f"quick{n}", cycleIntervalMs=60_000, callbackUrl=quick.url)
        until(lambda: len(quick.received) == 20, "twenty that wait for nobody")
        assert len(consumer.at("/slow")) == 3
        gate.set()


def test_pause_resume_remove(api: Forge, consumer: Stub) -> None:
    api.register(id="gamma", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: consumer.received, "a cycle")
    paused = api.ask("POST", "/v1/agents/gamma/control", {"action": "PAUSE"}, X_User_Id="user-123").json
    assert (paused["action"], paused["agent"]["status"]) == ("pause", "PAUSED")
    count = len(consumer.received)
    api.ask("POST", "/v1/scheduler/tick")
    assert len(consumer.received) == count
    resumed = api.ask("POST", "/v1/agents/gamma/control", {"action": "resume"}, X_User_Id="user-123").json
    assert resumed["agent"]["status"] == "RUNNING"
    until(lambda: len(consumer.received) > count, "a cycle after the pause")
    removed = api.ask("POST", "/v1/agents/gamma/control", {"action": "remove"}, X_User_Id="user-123").json
    assert removed == {"ok": True, "action": "remove", "key": "user-123:gamma", "agent": None}
    assert api.get("/v1/agents")["agents"] == []


def test_agents_outlive_the_daemon(place: Place, api: Forge, upstream: Stub, consumer: Stub) -> None:
    api.register(id="delta", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: api.agent("delta")["lastCycleAt"], "a cycle that is recorded")
    api.daemon.kill()
    count = len(consumer.received)
    again = forge(place, upstream)
    until(lambda: again.agent("delta")["lastCycleAt"], "a cycle that is known to have ended")
    until(lambda: len(consumer.received) > count, "a cycle after the restart")
    keys = [each.headers["X-ForgeOS-Idempotency-Key"] for each in consumer.received]
    accepted = [key for n, key in enumerate(keys) if key not in keys[:n]]
    assert len(keys) - len(accepted) <= 1  # the one that the kill caught between the POST and its record


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "error"),
    [
        ("POST", "/v1/agents/register", b"{", 400, {"message": "invalid_json"}),
        ("POST", "/v1/agents/register", b"", 400, {"message": "agent_id_required"}),
        ("POST", "/v1/agents/register", {"id": "x"}, 400, {"message": "wallet_address_required"}),
        ("POST", "/v1/agents/register", {"id": "x", "walletAddress": "b"}, 400, {"message": "wallet_address_required"}),
        ("POST", "/v1/agents/register", b"x" * 1_100_000, 413, {"message": "payload_too_large"}),
        ("POST", "/v1/agents/no/control", {"action": "x"}, 404, {"message": "agent_not_found", "key": "anon:no"}),
        ("GET", "/v1/market-snapshot", None, 400, {"message": "address_required"}),
        ("GET", "/v1/market-snapshot?address=abc", None, 400, {"message": "address_required"}),
        ("GET", "/nope", None, 404, {"message": "not_found"}),
        ("PUT", "/v1/agents", None, 404, {"message": "not_found"}),
        ("HEAD", "/health", None, 404, None),
    ],
)  # fmt: skip
def test_errors(api: Forge, method: str, path: str, body: object, status: int, error: object) -> None:
    got = api.ask(method, path, body)
    assert got.status == status
    assert error is None or got.json == {"error": error}


def test_invalid_action_is_said_after_the_agent_was_found(api: Forge) -> None:
    api.register(id="eps")
    got = api.ask("POST", "/v1/agents/eps/control", {"action": "bogus"}, X_User_Id="user-123")
    assert (got.status, got.json) == (400, {"error": {"message": "invalid_action"}})


def test_d1_d2_no_path_kills_it(api: Forge) -> None:
    for path in ("//", "/v1/agents/%/control", "/v1/agents/%ff/control", "/%00", "/..;/"):
        for method in ("GET", "POST"):
            assert api.ask(method, path).status in (400, 404)
    assert api.get("/health")["ok"] is True


def test_a_header_that_is_no_text_is_shown_as_one(api: Forge) -> None:
    got = api.ask("POST", "/v1/agents/no/control", {"action": "pause"}, X_User_Id="\u00e9")
    assert (got.status, got.json["error"]["key"]) == (404, "\\udce9:no")


def test_d24_junk_numbers_are_refused(api: Forge) -> None:
    body = {"id": "z", "walletAddress": WALLET, "cycleIntervalMs": "abc"}
    got = api.ask("POST", "/v1/agents/register", body)
    assert (got.status, got.json) == (400, {"error": {"message": "cycle_interval_invalid"}})


def test_market_snapshot(api: Forge, upstream: Stub) -> None:
    got = api.get(f"/v1/market-snapshot?address={WALLET}")
    assert list(got) == ["snapshot", "cache"]
    assert list(got["snapshot"]) == ["ts", "address", "priceUsd", "dag", "walletKas"]
    asked = {each.path for each in upstream.received}
    assert asked == {"/info/price", "/info/blockdag", f"/addresses/{WALLET.replace(':', '%3A')}/balance"}
    upstream.status = 503
    other = WALLET.replace("v7", "v8")
    failed = api.ask("GET", f"/v1/market-snapshot?address={other}")
    assert failed.status == 502
    assert failed.json["error"]["message"].startswith("upstream_503:")


def test_health_is_the_union(api: Forge) -> None:
    health = api.get("/health")
    assert {"status", "lastTick", "namespaces"} <= health.keys()
    assert {"ok", "service", "kasApiBase", "scheduler", "auth", "redis", "agents", "cache", "ts"} <= health.keys()
    assert health["scheduler"]["concurrency"] == 4
    assert health["auth"]["quota"] == {"windowMs": 60_000, "readMax": 600, "writeMax": 240, "tickMax": 60}


def test_tokens_scopes_and_quota(place: Place, upstream: Stub) -> None:
    services = '{"svc-token-1": {"sub": "svc", "scopes": ["agent:read"]}}'
    api = forge(
        place, upstream, SCHEDULER_AUTH_TOKEN="admin-token-1", SCHEDULER_SERVICE_TOKENS_JSON=services,
        SCHEDULER_QUOTA_TICK_MAX="2",
    )  # fmt: skip
    assert api.ask("POST", "/v1/scheduler/tick").status == 401
    refused = api.ask("POST", "/v1/scheduler/tick", Authorization="Bearer svc-token-1")
    assert (refused.status, refused.json["error"]["required_scope"]) == (403, "scheduler:tick")
    admin = {"Authorization": "Bearer admin-token-1"}
    assert [api.ask("POST", "/v1/scheduler/tick", **admin).status for _ in range(3)] == [200, 200, 429]
    mine = api.ask("POST", "/v1/agents/register", {"id": "a", "walletAddress": WALLET}, X_User_Id="ann", **admin)
    assert mine.json["key"] == "ann:a"
    assert api.ask("GET", "/v1/agents", Authorization="Bearer svc-token-1").json["agents"] == []
    assert "admin-token-1" not in api.daemon.log.read_text()
    metrics = api.ask("GET", "/metrics").body.decode()
    assert "forgeos_scheduler_quota_exceeded_total 1" in metrics


def test_preflight(api: Forge) -> None:
    got = api.ask("OPTIONS", "/v1/anything", Origin="http://localhost:3000")
    assert got.status == 204
    assert got.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"
    assert got.headers["Access-Control-Allow-Methods"] == "GET,POST,OPTIONS"
    assert "Access-Control-Allow-Origin" not in api.ask("OPTIONS", "/x", Origin="https://evil.example").headers
