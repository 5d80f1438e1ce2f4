"""Forge.OS contract, sections 3 and 4: who may do what, whose agents they see, how often; and what refuses to start."""

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.contract import World, error, world
from tests.support.daemon import Place
from tests.support.forge import WALLET, Got, stub
from tests.support.tokens import SECRET, hs256, rs256, rsa_jwk

SERVICES = json.dumps(
    [
        {"token": "svc-read-0", "sub": "user-123", "scopes": ["agent:read"]},
        {"token": "svc-write-0", "userId": "user-123", "scopes": [" agent:write ", "agent:read"]},
        {"token": "svc-admin-0", "sub": "ops", "scopes": ["admin"]},
        {"token": "svc-text-0", "sub": "texter", "scopes": "scheduler:tick, agent:read"},
        {"token": "svc-deflt-0", "sub": "deflt"},
        {"token": "svc-none-0", "sub": "none", "scopes": []},
        {"token": "svc-quota-0", "sub": "quick", "scopes": "scheduler:tick"},
    ]
)
"""The list form; the map form is MAPPED."""
MAPPED = json.dumps({"svc-map-0001": {"sub": "mapped", "scopes": ["agent:read", "agent:write"]}})
Record = Callable[[str, object], None]
REGISTER = "/v1/agents/register"
TICK = "/v1/scheduler/tick"


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Reading needs a token too."""
    with world(
        tmp_path_factory.mktemp("auth"),
        SCHEDULER_AUTH_READS="true",
        SCHEDULER_AUTH_TOKENS="super-secret-token,second-token",
        SCHEDULER_AUTH_TOKEN="replaced-by-the-plural",
        SCHEDULER_SERVICE_TOKENS_JSON=SERVICES,
        SCHEDULER_JWT_HS256_SECRET=SECRET,
        SCHEDULER_QUOTA_TICK_MAX="2",
        SCHEDULER_QUOTA_WINDOW_MS="3600000",
        SCHEDULER_TICK_MS="60000",
    ) as made:
        yield made


@pytest.fixture(scope="module")
def open_reads(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Reading needs none, as by default; keys are published by an issuer."""
    with (
        stub(**{"/jwks": {"keys": [rsa_jwk("one")]}}) as issuer,
        world(
            tmp_path_factory.mktemp("open"),
            SCHEDULER_SERVICE_TOKENS_JSON=MAPPED,
            SCHEDULER_AUTH_TOKEN="admin-token-1",
            SCHEDULER_JWKS_URL=f"{issuer.url}/jwks",
            SCHEDULER_TICK_MS="60000",
        ) as made,
    ):
        yield made


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def ask(it: World, method: str, path: str, token: str = "", body: object = None, **headers: str) -> Got:
    return it.api.ask(method, path, body, **(bearer(token) if token else {}), **headers)


def ids(got: Got) -> list[str]:
    assert got.status == 200, got
    return [f"{agent['userId']}:{agent['id']}" for agent in got.json["agents"]]


def claims(**more: Any) -> dict[str, Any]:
    """Some are made when tests are collected, and used in the end of a long run."""
    return {"sub": "jay", "exp": int(time.time()) + 7_200, "scope": "agent:read", **more}


@pytest.mark.parametrize(
    ("method", "path", "token", "status", "said"),
    [
        ("GET", "/v1/agents", "", 401, {"message": "unauthorized"}),
        ("GET", "/v1/agents", "nope", 401, {"message": "unauthorized"}),
        ("GET", "/v1/agents", "replaced-by-the-plural", 401, {"message": "unauthorized"}),
        ("GET", "/foo", "", 401, {"message": "unauthorized"}),
        ("POST", "/nope", "", 401, {"message": "unauthorized"}),
        ("PUT", "/v1/agents", "", 401, {"message": "unauthorized"}),
        ("DELETE", "/x", "", 401, {"message": "unauthorized"}),
        ("GET", "/foo", "svc-none-0", 404, {"message": "not_found"}),
        ("POST", "/nope", "svc-read-0", 404, {"message": "not_found"}),
        ("POST", "/v1/nope", "svc-read-0", 403, {"message": "forbidden", "required_scope": "agent:write"}),
        ("POST", REGISTER, "svc-read-0", 403, {"message": "forbidden", "required_scope": "agent:write"}),
        ("POST", "/v1/agents/x/control", "svc-text-0", 403, {"message": "forbidden", "required_scope": "agent:write"}),
        ("POST", TICK, "svc-write-0", 403, {"message": "forbidden", "required_scope": "scheduler:tick"}),
        ("GET", "/v1/agents", "svc-none-0", 403, {"message": "forbidden", "required_scope": "agent:read"}),
        ("GET", "/v1/telemetry-summary", "svc-none-0", 403, {"message": "forbidden", "required_scope": "agent:read"}),
        ("GET", "/v1/market-snapshot", "svc-deflt-0", 400, {"message": "address_required"}),
    ],
    ids=lambda value: value["message"] if isinstance(value, dict) else None,
)  # fmt: skip
def test_error_table_who_may(it: World, method: str, path: str, token: str, status: int, said: object) -> None:
    assert error(ask(it, method, path, token, {})) == (status, said)


@pytest.mark.parametrize("path", ["/health", "/metrics"])
def test_what_never_needs_a_token(it: World, path: str) -> None:
    assert it.api.ask("GET", path).status == 200
    assert it.api.ask("OPTIONS", path).status == 204


def test_a_head_needs_a_token(it: World) -> None:
    assert [ask(it, "HEAD", "/health", token).status for token in ("", "svc-none-0")] == [401, 404]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "bearer svc-read-0"}, 200),
        ({"Authorization": "BEARER   svc-read-0  "}, 200),
        ({"X_Scheduler_Token": "svc-read-0"}, 200),
        ({"Authorization": "Basic abc", "X_Scheduler_Token": "svc-read-0"}, 200),
        ({"Authorization": "Bearer nope", "X_Scheduler_Token": "svc-read-0"}, 401),
        ({"Authorization": "svc-read-0"}, 401),
    ],
)
def test_where_a_token_may_stand(it: World, headers: dict[str, str], status: int) -> None:
    assert it.api.ask("GET", "/v1/agents", **headers).status == status


def test_d21_whose_agents(it: World) -> None:
    body = {"id": "a", "walletAddress": WALLET, "userId": "other", "status": "PAUSED"}
    made = {
        "super-secret-token": ask(it, "POST", REGISTER, "super-secret-token", body).json["key"],
        "second-token for ann": ask(it, "POST", REGISTER, "second-token", body, X_User_Id="ann").json["key"],
        "svc-write-0 as eve": ask(it, "POST", REGISTER, "svc-write-0", body, X_User_Id="eve").json["key"],
        "svc-deflt-0": ask(it, "POST", REGISTER, "svc-deflt-0", body).json["key"],
    }
    assert list(made.values()) == ["scheduler-admin:a", "ann:a", "user-123:a", "deflt:a"]
    assert ids(ask(it, "GET", "/v1/agents", "svc-read-0")) == ["user-123:a"]
    assert ids(ask(it, "GET", "/v1/agents", "svc-text-0")) == []
    assert ids(ask(it, "GET", "/v1/agents", "svc-admin-0")) == list(made.values())
    stranger = ask(it, "POST", "/v1/agents/a/control", "svc-write-0", {"action": "pause"}, X_User_Id="ann")
    assert stranger.json["key"] == "user-123:a"
    for_ann = ask(it, "POST", "/v1/agents/a/control", "svc-admin-0", {"action": "remove"}, X_User_Id="ann")
    assert for_ann.json["key"] == "ann:a"
    own = ask(it, "POST", "/v1/agents/a/control", "svc-admin-0", {"action": "pause", "userId": "user-123"})
    assert error(own) == (404, {"message": "agent_not_found", "key": "ops:a"})


def test_error_table_quota_exceeded(it: World) -> None:
    got = [ask(it, "POST", TICK, "svc-quota-0") for _ in range(4)]
    assert [each.status for each in got] == [200, 200, 429, 429]
    assert error(got[2])[1] == {"message": "quota_exceeded", "bucket": "tick", "limit": 2}
    assert int(got[2].headers["Retry-After"]) > 0
    assert ask(it, "POST", TICK, "svc-text-0").status == 200
    assert it.metric("quota_exceeded_total") == 2
    assert it.metric("quota_checks_total") >= 5


@pytest.mark.parametrize(
    ("payload", "status"),
    [
        (claims(), 200),
        (claims(scope=None, scopes=["agent:read"]), 200),
        (claims(scope=None, scopes="agent:read,agent:write"), 200),
        (claims(scope=["agent:read", "agent:write"]), 200),
        (claims(scope=None), 403),
        (claims(exp=1), 401),
        (claims(exp=0), 401),
        (claims(exp="abc"), 401),
        (claims(exp="2020-01-01"), 401),
        (claims(nbf=99_999_999_999), 401),
        (claims(sub=None, scope="admin"), 401),
        (claims(sub=None, userId="user-123"), 401),
        (claims(sub={"a": 1}), 401),
    ],
)
def test_d21_d22_a2_claims(it: World, payload: dict[str, Any], status: int) -> None:
    token = hs256({name: value for name, value in payload.items() if value is not None})
    assert ask(it, "GET", "/v1/agents", token).status == status


def test_a1_a_token_without_a_signature_is_nobody_s(it: World) -> None:
    head, body, _ = hs256(claims(scope="admin")).split(".")
    forged = [hs256(claims(), header={"alg": "none"}), f"{head}.{body}.", hs256(claims(), b"x" * 32)]
    assert [ask(it, "GET", "/v1/agents", token).status for token in forged] == [401, 401, 401]


def test_a8_headers_prove_nothing(it: World, record_property: Record) -> None:
    got = it.api.ask("GET", "/v1/agents", X_Role="ADMIN", X_User_Id="user-123", X_Forwarded_For="127.0.0.1")
    assert got.status == 401
    as_admin = ask(it, "GET", "/v1/agents", "svc-text-0", X_Role="ADMIN", X_User_Id="user-123")
    assert ids(as_admin) == []
    record_property("A8", "role, user and forwarded headers: without a token 401; with one nobody else's agents")


def test_cors_with_access_control_is_open_but_has_no_credentials(it: World) -> None:
    got = ask(it, "GET", "/v1/agents", "svc-read-0", Origin="https://app.example")
    assert got.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert "Access-Control-Allow-Credentials" not in got.headers
    assert ask(it, "GET", "/v1/agents", "svc-read-0").headers["Access-Control-Allow-Origin"] == "*"


def test_d11_an_open_list_shows_nobody_other_people_s_agents(open_reads: World) -> None:
    body = {"id": "a", "walletAddress": WALLET, "status": "PAUSED", "callbackUrl": "http://127.0.0.1:9/?token=hid"}
    for user in ("mapped", "anon", "ann"):
        assert ask(open_reads, "POST", REGISTER, "admin-token-1", body, X_User_Id=user).status == 200
    seen = {
        token: ids(ask(open_reads, "GET", "/v1/agents", token, X_User_Id="ann"))
        for token in ("", "wrong", "svc-map-0001", "admin-token-1")
    }
    assert seen == {
        "": ["anon:a"],
        "wrong": ["anon:a"],
        "svc-map-0001": ["mapped:a"],
        "admin-token-1": ["mapped:a", "anon:a", "ann:a"],
    }
    assert "hid" not in ask(open_reads, "GET", "/v1/agents", "admin-token-1").body.decode()


def test_d23_bad_tokens_cost_the_issuer_no_fetch_each(open_reads: World) -> None:
    good = rs256(claims(scope="agent:read agent:write"), "one")
    assert ask(open_reads, "POST", "/v1/nope", good).status == 404
    for _ in range(20):
        assert ask(open_reads, "POST", "/v1/nope", rs256(claims(), "unknown")).status == 401
    assert open_reads.metric("jwks_fetch_total") == 1
    assert open_reads.metric("auth_jwks_success_total") == 1
    assert open_reads.metric("jwks_cache_hits_total") == 0
    assert ask(open_reads, "POST", "/v1/nope", good).status == 404
    assert open_reads.metric("jwks_cache_hits_total") == 1
    health = open_reads.api.get("/health")["auth"]
    assert (health["jwtEnabled"], health["jwtHs256Enabled"], health["jwksUrlConfigured"]) == (True, False, True)
    assert (health["serviceTokens"], health["requireAuthForReads"]) == (1, False)


def test_metrics_of_access_control(it: World) -> None:
    before = {name: it.metric(name) for name in ("auth_failures_total", "auth_success_total")}
    ask(it, "GET", "/v1/agents")
    ask(it, "GET", "/v1/agents", "svc-none-0")
    assert it.metric("auth_failures_total") == before["auth_failures_total"] + 1
    assert it.metric("auth_success_total") == before["auth_success_total"] + 1
    assert it.metric("auth_scope_denied_total") >= 1


def test_a7_no_token_is_shown_anywhere(it: World) -> None:
    told = [it.daemon.text(), *(it.api.ask("GET", path).body.decode() for path in ("/health", "/metrics"))]
    for secret in ("super-secret-token", "second-token", "svc-admin-0", SECRET):
        assert not any(secret in text for text in told)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SCHEDULER_SERVICE_TOKENS_JSON": "{"}, "SCHEDULER_SERVICE_TOKENS_JSON"),
        ({"SCHEDULER_JWKS_REQUIRE_PINNED_KID": "true"}, "SCHEDULER_JWKS_ALLOWED_KIDS"),
        ({"SCHEDULER_AUTH_READS": "true"}, "SCHEDULER_AUTH_READS"),
        ({"SCHEDULER_JWT_ISSUER": "https://issuer.example"}, "SCHEDULER_OIDC_ISSUER"),
        ({"SCHEDULER_JWT_HS256_SECRET": "short"}, "32"),
        ({"SCHEDULER_TICK_MS": "abc"}, "SCHEDULER_TICK_MS"),
        ({"HOST": "0.0.0.0"}, "SCHEDULER_AUTH_TOKENS"),
        ({"HOST": "::"}, "SCHEDULER_AUTH_TOKENS"),
    ],
    ids=["d12-json", "d12-pin", "d12-reads", "d23-issuer", "a2-secret", "d24-number", "a9-any4", "a9-any6"],
)
def test_a9_d12_d24_what_would_leave_it_open_refuses_to_start(
    place: Place, env: dict[str, str], said: str, record_property: Record
) -> None:
    done = place.cli("run", env={"PORT": "0", **env})
    assert done.code == 78, done
    assert said in done.err
    assert "api started" not in done.err
    record_property("A9", "an address that others reach, without authentication: exit 78, names the setting")
