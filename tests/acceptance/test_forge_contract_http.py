"""Forge.OS contract, sections 2, 5 and 11, over one daemon without access control: errors, fields, orders, market."""

import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.contract import RECORD, VIEW, World, error, world
from tests.support.forge import WALLET


@pytest.fixture(scope="module")
def it(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("http"), SCHEDULER_TICK_MS="60000") as made:
        yield made


REGISTER = "/v1/agents/register"
MARKET = "/v1/market-snapshot"


def code(value: object) -> str | None:
    """A test of the table is named after the error."""
    return str(value["message"]) if isinstance(value, dict) and "message" in value else None


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", REGISTER, b"{", 400, {"message": "invalid_json"}),
        ("POST", REGISTER, b'{"a":NaN}', 400, {"message": "invalid_json"}),
        ("POST", REGISTER, b"\xff", 400, {"message": "invalid_json"}),
        ("POST", REGISTER, b"[" * 100_000, 400, {"message": "invalid_json"}),
        ("POST", REGISTER, b"", 400, {"message": "agent_id_required"}),
        ("POST", REGISTER, b"[1]", 400, {"message": "agent_id_required"}),
        ("POST", REGISTER, b'"text"', 400, {"message": "agent_id_required"}),
        ("POST", REGISTER, {"id": "  "}, 400, {"message": "agent_id_required"}),
        ("POST", REGISTER, {"id": "x"}, 400, {"message": "wallet_address_required"}),
        ("POST", REGISTER, {"id": "x", "walletAddress": "bitcoin:abc"}, 400, {"message": "wallet_address_required"}),
        ("POST", REGISTER, b"x" * 1_100_000, 413, {"message": "payload_too_large"}),
        ("POST", "/v1/agents/x/control", b"{", 400, {"message": "invalid_json"}),
        ("POST", "/v1/agents/no/control", {"action": "x"}, 404, {"message": "agent_not_found", "key": "anon:no"}),
        ("GET", MARKET, None, 400, {"message": "address_required"}),
        ("GET", f"{MARKET}?address=", None, 400, {"message": "address_required"}),
        ("GET", f"{MARKET}?address=abc", None, 400, {"message": "address_required"}),
        ("GET", "/nope", None, 404, {"message": "not_found"}),
        ("GET", "/v1/agents/", None, 404, {"message": "not_found"}),
        ("GET", REGISTER, None, 404, {"message": "not_found"}),
        ("POST", "/v1/agents", {}, 404, {"message": "not_found"}),
        ("POST", "/v1/agents/a/b/control", {}, 404, {"message": "not_found"}),
        ("PUT", "/v1/agents", None, 404, {"message": "not_found"}),
        ("DELETE", "/v1/agents", None, 404, {"message": "not_found"}),
        ("PATCH", "/v1/agents", None, 404, {"message": "not_found"}),
    ],
    ids=code,
)  # fmt: skip
def test_error_table(it: World, method: str, path: str, body: object, status: int, said: object) -> None:
    assert error(it.api.ask(method, path, body)) == (status, said)


def test_error_table_invalid_action(it: World) -> None:
    it.register(id="act", status="PAUSED")
    assert error(it.control("act", "explode")) == (400, {"message": "invalid_action"})
    it.control("act", "remove")


def test_head_is_not_found_and_has_no_body(it: World) -> None:
    got = it.api.ask("HEAD", "/health")
    assert (got.status, got.body) == (404, b"")


def test_queries_are_ignored(it: World) -> None:
    assert it.api.ask("GET", "/v1/agents?x=1&x=2&%zz").status == 200


def test_headers_of_answers(it: World) -> None:
    got = it.api.ask("GET", "/v1/agents", Origin="http://localhost:5173")
    seen = {name: got.headers.get(name) for name in ("Content-Type", "Cache-Control", "Access-Control-Allow-Origin")}
    assert seen == {
        "Content-Type": "application/json",
        "Cache-Control": "no-store",
        "Access-Control-Allow-Origin": "http://localhost:5173",
    }
    assert got.headers["Access-Control-Allow-Methods"] == "GET,POST,OPTIONS"
    assert got.headers["Access-Control-Allow-Headers"] == "Content-Type,X-User-Id,Authorization,X-Scheduler-Token"
    metrics = it.api.ask("GET", "/metrics")
    assert metrics.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert metrics.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Methods" not in metrics.headers


@pytest.mark.parametrize("path", ["/v1/anything", "/health", "/nope"])
def test_options_is_answered_everywhere(it: World, path: str) -> None:
    got = it.api.ask("OPTIONS", path, Origin="http://127.0.0.1:3000")
    assert (got.status, got.body) == (204, b"")
    assert got.headers["Access-Control-Allow-Origin"] == "http://127.0.0.1:3000"
    assert "Cache-Control" not in got.headers


def test_d33_no_origin_gets_null_and_caches_are_told(it: World) -> None:
    for origin in ("null", "https://evil.example"):
        got = it.api.ask("GET", "/v1/agents", Origin=origin)
        assert "Access-Control-Allow-Origin" not in got.headers
        assert got.headers["Vary"] == "Origin"


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"name": "f", "cycleIntervalMs": 15_000, "strategyLabel": "Custom", "callbackUrl": "", "status": "RUNNING"}),
    ({"agentId": None}, {"id": "f"}),
    ({"agentId": "", "id": " f "}, {"id": "f"}),
    ({"agentId": 7}, {"id": "7", "name": "7"}),
    ({"agentId": 1.5}, {"id": "1.5"}),
    ({"agentId": "g", "id": "f"}, {"id": "g"}),
    ({"walletAddress": f"  {WALLET.upper()} "}, {"walletAddress": WALLET}),
    ({"walletAddress": "kaspatest:"}, {"walletAddress": "kaspatest:"}),
    ({"cycleIntervalMs": 0, "cycleMs": 2_000}, {"cycleIntervalMs": 2_000}),
    ({"cycleIntervalMs": 3_000, "cycleMs": 2_000}, {"cycleIntervalMs": 3_000}),
    ({"cycleIntervalMs": "2500"}, {"cycleIntervalMs": 2_500}),
    ({"cycleIntervalMs": True}, {"cycleIntervalMs": 1_000}),
    ({"cycleIntervalMs": 10}, {"cycleIntervalMs": 1_000}),
    ({"cycleIntervalMs": -5}, {"cycleIntervalMs": 1_000}),
    ({"cycleIntervalMs": None}, {"cycleIntervalMs": 15_000}),
    ({"cycleIntervalMs": 86_400_000}, {"cycleIntervalMs": 86_400_000}),
    ({"name": " n" + "x" * 200}, {"name": " n" + "x" * 118}),
    ({"name": ""}, {"name": "f"}),
    ({"name": "Grüße 🚀"}, {"name": "Grüße 🚀"}),
    ({"strategyLabel": "s" * 200}, {"strategyLabel": "s" * 120}),
    ({"strategyLabel": False}, {"strategyLabel": "Custom"}),
    ({"callbackUrl": " http://127.0.0.1:9/x "}, {"callbackUrl": "http://127.0.0.1:9/x"}),
    ({"status": "paused"}, {"status": "PAUSED"}),
    ({"status": "stopped"}, {"status": "RUNNING"}),
    ({"status": None}, {"status": "RUNNING"}),
]


@pytest.mark.parametrize(("sent", "kept"), FIELDS)
def test_fields_of_a_registration(it: World, sent: dict[str, Any], kept: dict[str, Any]) -> None:
    body = {"id": "f", **sent}
    if "status" not in sent and "status" not in kept:
        body["status"] = "PAUSED"
    got = it.register("fields", **body)
    assert got.status == 200, got
    agent = got.json["agent"]
    assert list(got.json) == ["ok", "key", "agent"]
    assert list(agent) == RECORD
    assert {name: agent[name] for name in kept} == kept
    assert got.json["key"] == f"fields:{agent['id']}"
    assert it.control(agent["id"], "remove", "fields").status == 200


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ({"cycleIntervalMs": "abc"}, "cycle_interval_invalid"),
        ({"cycleIntervalMs": [2_000, 1]}, "cycle_interval_invalid"),
        ({"cycleIntervalMs": "NaN"}, "cycle_interval_invalid"),
        ({"cycleIntervalMs": "1_000"}, "cycle_interval_invalid"),
        ({"cycleIntervalMs": 1e300}, "cycle_interval_invalid"),
        ({"agentId": {"a": 1}, "id": ""}, "agent_id_required"),
        ({"agentId": 10**400}, "agent_id_invalid"),
        ({"callbackUrl": "ftp://x"}, "callback_url_invalid"),
        ({"callbackUrl": "x" * 10_000}, "callback_url_invalid"),
    ],
)
def test_d24_what_is_no_value_is_refused(it: World, sent: dict[str, Any], code: str) -> None:
    assert error(it.register("fields", **{"id": "f", **sent})) == (400, {"message": code})


@pytest.mark.parametrize("id", ["line\nbreak", "\x00", "\ud800", "\u202e", "x" * 121])
def test_d26_an_id_that_no_header_can_carry_is_refused(it: World, id: str) -> None:
    assert error(it.register("fields", id=id)) == (400, {"message": "agent_id_invalid"})


@pytest.mark.parametrize("text", ["line\nbreak", "\x00", "\ud800", "\u202e"])
def test_any_name_and_label_can_be_kept(it: World, text: str) -> None:
    got = it.register("names", id="n", name=text, strategyLabel=text, status="PAUSED")
    assert got.status in (200, 400), got
    assert it.api.ask("GET", "/v1/agents").status == 200
    assert it.control("n", "remove", "names").status in (200, 404)


def test_registering_again_starts_from_zero_and_keeps_when_it_was_created(it: World) -> None:
    first = it.register(id="again", name="One", strategyLabel="S", cycleIntervalMs=60_000, status="PAUSED").json
    time.sleep(0.002)  # so that the clock moves between the two
    second = it.register(id="again").json
    assert second["key"] == first["key"]
    was, now = first["agent"], second["agent"]
    assert (now["name"], now["strategyLabel"], now["cycleIntervalMs"]) == ("again", "Custom", 15_000)
    assert (now["status"], now["failureCount"], now["lastDispatch"], now["lastCycleAt"]) == ("RUNNING", 0, None, 0)
    assert now["createdAt"] == was["createdAt"] < now["updatedAt"]
    assert now["nextRunAt"] == now["updatedAt"] + 1_000
    assert now["queuePending"] is False
    it.control("again", "remove")


def test_control_answers(it: World) -> None:
    it.register(id="ctl%/é ", status="PAUSED", cycleIntervalMs=60_000)
    path = "ctl%25%2F%C3%A9"
    resumed = it.control(path, "ReSume").json
    assert list(resumed) == ["ok", "action", "key", "agent"]
    assert (resumed["ok"], resumed["action"], resumed["key"]) == (True, "resume", "user-123:ctl%/é")
    assert list(resumed["agent"]) == RECORD
    assert (resumed["agent"]["status"], resumed["agent"]["failureCount"]) == ("RUNNING", 0)
    assert resumed["agent"]["nextRunAt"] == resumed["agent"]["updatedAt"] + 1_000
    paused = it.control(path, "pause").json
    assert (paused["agent"]["status"], paused["agent"]["queuePending"]) == ("PAUSED", False)
    assert paused["agent"]["nextRunAt"] == resumed["agent"]["nextRunAt"]
    for action in ("bogus", "", None, 7, ["pause"]):
        assert error(it.control(path, action)) == (400, {"message": "invalid_action"})
    assert it.control(path, "remove").json == {
        "ok": True, "action": "remove", "key": "user-123:ctl%/é", "agent": None,
    }  # fmt: skip
    assert error(it.control(path, "remove")) == (404, {"message": "agent_not_found", "key": "user-123:ctl%/é"})


def test_the_list_is_in_the_order_of_registration(it: World) -> None:
    for id in ("z", "a", "m"):
        it.register("order", id=id, status="PAUSED", callbackUrl="http://127.0.0.1:9/?token=hidden")
    it.register("order", id="z", status="PAUSED")
    got = it.api.get("/v1/agents")
    assert list(got) == ["agents", "ts"]
    mine = [agent for agent in got["agents"] if agent["userId"] == "order"]
    assert [agent["id"] for agent in mine] == ["z", "a", "m"]
    assert all(list(agent) == VIEW for agent in mine)
    assert [agent["callbackConfigured"] for agent in mine] == [False, True, True]
    assert "hidden" not in json.dumps(got)
    for id in ("z", "a", "m"):
        it.control(id, "remove", "order")


def test_whose_agent_it_is_without_access_control(it: World) -> None:
    body = {"id": "who", "walletAddress": WALLET, "status": "PAUSED"}
    made = [
        it.api.ask("POST", REGISTER, body).json["key"],
        it.api.ask("POST", REGISTER, {**body, "userId": "body"}).json["key"],
        it.api.ask("POST", REGISTER, {**body, "userId": 42}).json["key"],
        it.api.ask("POST", REGISTER, {**body, "userId": "body"}, X_User_Id="head").json["key"],
    ]
    assert made == ["anon:who", "body:who", "42:who", "head:who"]
    for user in ("anon", "body", "42", "head"):
        assert it.control("who", "remove", user).json["key"] == f"{user}:who"


def test_d20_two_names_never_become_one(it: World) -> None:
    it.register("a", id="b:c", name="First", status="PAUSED")
    it.register("a:b", id="c", name="Second", status="PAUSED")
    assert {agent["name"] for agent in it.api.get("/v1/agents")["agents"]} >= {"First", "Second"}
    assert it.control("c", "remove", "a:b").json["key"] == "a:b:c"
    assert it.control("b%3Ac", "remove", "a").json["key"] == "a:b:c"
    assert error(it.register("u" * 121, id="x")) == (400, {"message": "user_id_invalid"})


def test_market_snapshot(it: World) -> None:
    address = WALLET.replace("v7", "v8")
    got = it.api.get(f"{MARKET}?address={address}")
    assert list(got) == ["snapshot", "cache"]
    assert list(got["snapshot"]) == ["ts", "address", "priceUsd", "dag", "walletKas"]
    assert got["snapshot"] | {"ts": 0} == {
        "ts": 0, "address": address, "priceUsd": 0.12, "walletKas": 2.5,
        "dag": {"daaScore": 98_765_432, "network": "kaspa-mainnet"},
    }  # fmt: skip
    assert list(got["cache"]) == ["priceAgeMs", "blockdagAgeMs", "balanceAgeMs"]
    balance = it.upstream.at(f"/addresses/{address.replace(':', '%3A')}/balance")
    assert [each.headers["Accept"] for each in balance] == ["application/json"]
    again = it.api.get(f"{MARKET}?address={address}")
    assert again["cache"]["balanceAgeMs"] >= got["cache"]["balanceAgeMs"]
    assert len(it.upstream.at(f"/addresses/{address.replace(':', '%3A')}/balance")) == 1


def test_error_table_market_errors_are_502_in_the_words_of_the_upstream(it: World) -> None:
    path = "/addresses/kaspatest%3Aqq/balance"
    it.upstream.lines[path] = (503, {})
    code, said = error(it.api.ask("GET", f"{MARKET}?address=kaspatest:qq"))
    assert (code, said) == (502, {"message": 'upstream_503:{"balance": 250000000}'})


def test_tick_answer(it: World) -> None:
    got = it.api.ask("POST", "/v1/scheduler/tick", b"{not read").json
    assert list(got) == ["ok", "ts", "queueDepth", "inFlight", "agents"]
    assert (got["ok"], got["queueDepth"], got["inFlight"]) == (True, 0, 0)


@pytest.mark.parametrize("path", ["//", "/v1/agents/%/control", "/v1/agents/%ff/control", "/%00", "/..;/", "/%"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
def test_d1_d2_no_path_kills_it(it: World, method: str, path: str) -> None:
    assert it.api.ask(method, path).status in (400, 404)
    assert it.daemon.alive


def _raw(it: World, *parts: bytes) -> bytes:
    """What comes back for bytes that are sent one by one, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", it.api.port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            connection.sendall(part)
            time.sleep(0.01)  # so that they do not share a packet
        found = b""
        while chunk := connection.recv(65_536):
            found += chunk
        return found


@pytest.mark.parametrize("host", [b"%", b"a b", b"[::1", b"x:y:z", b"\xff", b""])
def test_d1_no_host_kills_it(it: World, host: bytes) -> None:
    reply = _raw(it, b"GET /v1/agents HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 ")
    assert int(reply[9:12]) < 500
    assert it.daemon.alive


def test_d29_a_letter_split_over_two_packets_stays_one(it: World) -> None:
    body = json.dumps(
        {"id": "split", "walletAddress": WALLET, "name": "Grüße", "status": "PAUSED"}, ensure_ascii=False
    ).encode()
    cut = body.index("ü".encode()) + 1
    head = f"POST {REGISTER} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    reply = _raw(it, head.encode() + body[:cut], body[cut:])
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["agent"]["name"] == "Grüße"
    it.control("split", "remove", "anon")


def test_d25_no_path_becomes_a_label(it: World) -> None:
    for path in ("/random-1", "/a|b", "/v1/agents/secret-id/control"):
        it.api.ask("POST", path, {"action": "pause"})
    text = it.api.ask("GET", "/metrics").body.decode()
    assert 'http_responses_total{route="POST /v1/agents/{id}/control",status="404"}' in text
    for word in ("random-1", "a|b", "secret-id", WALLET[:18]):
        assert word not in text
