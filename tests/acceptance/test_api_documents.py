"""What the API says of itself is what it does: routes, models, the page, every answer (a booted daemon)."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api_fuzz import fuzz
from tests.support.daemon import Place, until
from tests.support.forge import WALLET, Forge, Stub, forge, stub
from vmsh_scheduler.api.schemas import CONTRACTS

USER = {"X_User_Id": "ann"}
ADMIN = {"Authorization": "Bearer admin-token-1"}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Stub]:
    with stub() as made:
        yield made


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, upstream: Stub) -> Iterator[Forge]:
    """Without access control; at the end nothing has failed inside, and it stops in good order."""
    place = Place(tmp_path_factory.mktemp("api"))
    try:
        made = forge(place, upstream)
        yield made
        assert not made.daemon.lines("api failed")
        made.daemon.stop()
    finally:
        place.close()


@pytest.fixture
def guarded(tmp_path: Path, upstream: Stub) -> Iterator[Forge]:
    place = Place(tmp_path)
    services = '{"svc-token-1": {"sub": "svc", "scopes": ["agent:read"]}}'
    env = {"SCHEDULER_AUTH_TOKEN": "admin-token-1", "SCHEDULER_SERVICE_TOKENS_JSON": services}
    try:
        yield forge(place, upstream, **env, SCHEDULER_AUTH_READS="true", SCHEDULER_QUOTA_TICK_MAX="1")
    finally:
        place.close()


def test_every_kind_of_reply_is_as_described(api: Forge) -> None:
    with stub() as consumer:
        body = {"id": "doc", "walletAddress": WALLET, "cycleIntervalMs": 1_000}
        replies = {
            "POST /v1/agents/register": api.ask(
                "POST", "/v1/agents/register", {**body, "callbackUrl": consumer.url}, **USER
            )
        }
        until(lambda: (api.agent("doc") or {}).get("lastDispatch"), "a good cycle")
        replies["GET /v1/agents"] = good = api.ask("GET", "/v1/agents")
        assert good.json["agents"][0]["lastDispatch"]["ok"] is True
        consumer.status = 500
        until(lambda: api.agent("doc")["lastDispatch"]["ok"] is False, "a bad cycle")
    paused = api.ask("POST", "/v1/agents/doc/control", {"action": "pause"}, **USER)
    assert paused.json["agent"]["lastDispatch"]["ok"] is False
    CONTRACTS["POST /v1/agents/{id}/control"].reply.model_validate_json(paused.body)  # type: ignore[union-attr]  # a model
    replies["POST /v1/agents/{id}/control"] = api.ask("POST", "/v1/agents/doc/control", {"action": "remove"}, **USER)
    replies["POST /v1/scheduler/tick"] = api.ask("POST", "/v1/scheduler/tick")
    replies["GET /v1/market-snapshot"] = api.ask("GET", f"/v1/market-snapshot?address={WALLET}")
    for path in ("/health", "/metrics", "/v1/telemetry-summary", "/openapi.json", "/docs"):
        replies[f"GET {path}"] = api.ask("GET", path)
    assert replies.keys() == CONTRACTS.keys()
    for label, got in replies.items():
        reply = CONTRACTS[label].reply
        assert got.status == 200, label
        if isinstance(reply, str):
            assert got.headers["Content-Type"].startswith(reply), label
        else:
            reply.model_validate_json(got.body)


def test_the_page_needs_nothing_from_elsewhere(api: Forge) -> None:
    got = api.ask("GET", "/docs")
    policy = got.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    page = got.body.decode()
    assert not re.search(r"(src|href)=\"?(https?:)?//", page)
    assert 'fetch("/openapi.json"' in page


def test_no_request_made_from_the_description_breaks_it(api: Forge) -> None:
    seen = fuzz(api, 250)
    assert seen.labels == CONTRACTS.keys()
    assert seen.statuses[200] > 30, seen
    assert seen.statuses[400] > 10, seen
    assert not seen.statuses[500]
    assert api.get("/health")["ok"] is True


def test_the_description_is_guarded_like_other_reads(guarded: Forge) -> None:
    assert [guarded.ask("GET", path).status for path in ("/openapi.json", "/docs", "/health")] == [401, 401, 200]
    spec = guarded.get("/openapi.json", **ADMIN)
    assert spec["paths"]["/v1/scheduler/tick"]["post"]["security"] == [
        {"bearer": ["scheduler:tick"]},
        {"schedulerToken": ["scheduler:tick"]},
    ]
    assert spec["paths"]["/health"]["get"]["security"] == []
    assert guarded.ask("GET", "/docs", **ADMIN).status == 200


def test_every_change_that_was_asked_for_is_in_the_audit_log(guarded: Forge) -> None:
    register = {
        "id": "a1",
        "walletAddress": WALLET,
        "name": "in-the-body",
        "callbackUrl": "http://127.0.0.1:9/in-the-url",
    }
    asked = [
        ("POST", "/v1/agents/register", register, {**ADMIN, "X_User_Id": "ann", "X_Request_Id": "rq-1"}),
        ("POST", "/v1/agents/a1/control", {"action": "pause"}, {**ADMIN, "X_User_Id": "ann", "X_Request_Id": "rq-2"}),
        ("POST", "/v1/agents/a1/control", {"action": "no"}, {**ADMIN, "X_User_Id": "ann", "X_Request_Id": "rq-3"}),
        ("POST", "/v1/agents/gone/control", {"action": "pause"}, {**ADMIN, "X_Request_Id": "rq-4"}),
        ("POST", "/v1/scheduler/tick", {}, {**ADMIN, "X_Request_Id": "rq-5"}),
        ("POST", "/v1/scheduler/tick", {}, {**ADMIN, "X_Request_Id": "rq-6"}),
        ("POST", "/v1/scheduler/tick", {}, {"Authorization": "Bearer svc-token-1", "X_Request_Id": "rq-7"}),
        ("POST", "/v1/agents/register", register, {"Authorization": "Bearer wrong-token", "X_Request_Id": "rq-8"}),
        ("GET", "/v1/agents", None, {**ADMIN, "X_Request_Id": "rq-9"}),
        ("POST", "/v1/unknown", {}, {**ADMIN, "X_Request_Id": "rq-10"}),
    ]
    for method, path, body, headers in asked:
        guarded.ask(method, path, body, **headers)
    lines = until(lambda: found if len(found := guarded.daemon.lines("audit")) >= 8 else None, "the audit log")
    told = [
        tuple(line.get(name) for name in ("request_id", "who", "verb", "action", "key", "status")) for line in lines
    ]
    assert told == [
        ("rq-1", "scheduler-admin", "register", None, "ann:a1", 200),
        ("rq-2", "scheduler-admin", "control", "pause", "ann:a1", 200),
        ("rq-3", "scheduler-admin", "control", None, "a1", 400),
        ("rq-4", "scheduler-admin", "control", None, "scheduler-admin:gone", 404),
        ("rq-5", "scheduler-admin", "tick", None, None, 200),
        ("rq-6", "scheduler-admin", "tick", None, None, 429),
        ("rq-7", "svc", "tick", None, None, 403),
        ("rq-8", "anonymous", "register", None, None, 401),
    ]
    assert {(line["logger"], line["peer"], line["level"]) for line in lines} == {
        ("vmsh_scheduler.audit", "127.0.0.1", "info")
    }
    text = guarded.daemon.text()
    assert [
        word for word in ("admin-token-1", "svc-token-1", "wrong-token", "in-the-body", "in-the-url") if word in text
    ] == []
