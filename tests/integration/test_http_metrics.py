"""The metrics listener through real sockets: what it answers, and what it refuses (H2, H4-H7, H9)."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from tests.support.probes import BODY, Told
from vmsh_scheduler.api.server import Address, Listener, listen_metrics
from vmsh_scheduler.domain.health import Condition
from vmsh_scheduler.errors import Exit, Unavailable


@pytest.fixture
def probes() -> Told:
    return Told()


@pytest.fixture
async def listener(probes: Told) -> AsyncIterator[Listener]:
    listener = await listen_metrics(Address(port=0), probes)
    yield listener
    await listener.close()


Answer = tuple[int, dict[str, str], bytes]


async def exchange(port: int, data: bytes, *, within: float = 30) -> Answer:
    """Send bytes as they are; read to the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        async with asyncio.timeout(within):
            return parsed(await reader.read())
    finally:
        writer.close()


def parsed(answer: bytes) -> Answer:
    head, _, body = answer.partition(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in lines)}
    return int(line.split()[1]), headers, body


async def ask(listener: Listener, target: str, *, method: str = "GET", headers: str = "Host: localhost\r\n") -> Answer:
    return await exchange(listener.port, f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode())


@pytest.mark.parametrize(
    ("condition", "target", "expected"),
    [
        (Condition.HEALTHY, "/health", 200),
        (Condition.DEGRADED, "/health", 200),
        (Condition.UNHEALTHY, "/health", 503),
        (Condition.HEALTHY, "/health?strict=1", 200),
        (Condition.DEGRADED, "/health?strict=1", 503),
        (Condition.DEGRADED, "/health?strict=0", 200),
    ],
)
async def test_health(listener: Listener, probes: Told, condition: Condition, target: str, expected: int) -> None:
    probes.condition = condition
    status, headers, body = await ask(listener, target)
    assert (status, json.loads(body)) == (expected, BODY)
    assert headers["content-type"] == "application/json; charset=utf-8"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "vmsh-scheduler"
    assert "access-control-allow-origin" not in headers


async def test_live_and_ready(listener: Listener, probes: Told) -> None:
    probes.conditions = {"config": False, "lock": True}
    status, _, body = await ask(listener, "/readyz")
    assert (status, json.loads(body)) == (503, {"ready": False, "config": False, "lock": True})
    for target in ("/livez", "/healthz"):
        assert (await ask(listener, target))[0] == 200
    probes.conditions = {"config": True, "lock": True}
    assert (await ask(listener, "/readyz"))[0] == 200


async def test_metrics_in_the_wanted_format(listener: Listener) -> None:
    status, headers, body = await ask(listener, "/metrics", headers="Host: localhost\r\nAccept: x/y\r\n")
    assert (status, headers["content-type"], body) == (200, "text/plain; version=0.0.4; for=x/y", b"metric 1\n")


async def test_large_metrics_arrive_whole(listener: Listener, probes: Told) -> None:
    probes.text = bytes(range(256)) * 8192
    status, headers, body = await ask(listener, "/metrics")
    assert (status, int(headers["content-length"]), body == probes.text) == (200, 2**21, True)


async def test_an_error_of_ours_shows_nothing(listener: Listener, probes: Told) -> None:
    probes.broken = True
    status, _, body = await ask(listener, "/health")
    assert (status, json.loads(body)["error"]["code"]) == (500, "internal")
    assert b"canary" not in body


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("Content-Length: 10737418240", 413), ("Content-Length: 1", 413), ("Content-Length: 0", 200),
        ("Content-Length: -1", 400), ("Content-Length: 1_0", 400), ("Content-Length: +1", 400),
        ("Content-Length:", 400), ("Content-Length: " + "9" * 30, 400),
        ("Content-Length: 5\r\nContent-Length: 6", 400), ("Content-Length: 0\r\nContent-Length: 0", 400),
        ("Transfer-Encoding: chunked", 413), ("Transfer-Encoding: chunked\r\nContent-Length: 3", 400),
        ("X : 1", 400), ("X: 1\r\n folded", 400), ("no colon", 400),
    ],
)  # fmt: skip
async def test_h2_bodies_are_refused_and_lies_too(listener: Listener, headers: str, expected: int) -> None:
    status, answered, _ = await ask(listener, "/health", headers=f"Host: localhost\r\n{headers}\r\n")
    assert (status, answered["connection"]) == (expected, "close")


async def test_h2_a_flood_behind_a_refusal_is_cut_off(listener: Listener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(b"POST /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10737418240\r\n\r\n")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 413")
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(pour(writer), 10)
    writer.close()


async def pour(writer: asyncio.StreamWriter) -> None:
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def test_h2_what_follows_a_request_is_no_second_request(listener: Listener) -> None:
    one = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    writer.write(one * 3)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_h2_a_huge_head_is_431(listener: Listener) -> None:
    status, _, _ = await ask(listener, "/health", headers="Host: localhost\r\nX: " + "a" * 9_000 + "\r\n")
    assert status == 431


async def test_a_head_in_single_bytes_is_fine(listener: Listener) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", listener.port)
    for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n":
        writer.write(bytes([byte]))
        await writer.drain()
    status, _, _ = parsed(await asyncio.wait_for(reader.read(), 5))
    writer.close()
    assert status == 200


async def test_h4_nothing_of_a_request_comes_back(listener: Listener) -> None:
    for target in ("/canary%0d%0aX-Canary:1", "/health?strict=%0d%0aX-Canary:%201", "/canary\x1b[31m"):
        status, headers, body = await ask(listener, target, headers="Host: localhost\r\nUser-Agent: canary\r\n")
        assert status in {200, 400, 404}
        assert "x-canary" not in headers
        assert b"canary" not in body


@pytest.mark.parametrize(
    "target",
    [
        "/", "//", "//health", "/health/", "/health/.", "/./health", "/x/../health", "/%68ealth", "/health%00",
        "/health;x=1", "/health.", "/HEALTH", "/%2e%2e/etc/passwd", "/../../etc/passwd", "/metrics/..", "/status",
        "http://localhost/health", "http://evil/health", "/health#x", "/health\\", "/health%20",
    ],
)  # fmt: skip
async def test_h5_the_table_is_exact(listener: Listener, target: str) -> None:
    status, headers, _ = await ask(listener, target)
    assert (status, headers["server"]) == (404, "vmsh-scheduler")


@pytest.mark.parametrize("target", ["health", "*", "\\health", "..", "localhost:80"])
async def test_h5_what_is_no_path_is_400(listener: Listener, target: str) -> None:
    status, headers, body = await ask(listener, target)
    assert (status, headers["server"], json.loads(body)["error"]["code"]) == (400, "vmsh-scheduler", "bad_request")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ("Host: localhost", 200), ("Host: LOCALHOST:9090", 200), ("Host: 127.0.0.1:1", 200), ("Host: [::1]:9090", 200),
        ("Host: evil.example", 421), ("Host: localhost.evil.example", 421), ("Host: 127.0.0.1.evil.example", 421),
        ("Host: localhost\r\nHost: evil", 400), ("Host:", 421), ("X: 1", 400),
    ],
)  # fmt: skip
async def test_h6_only_names_of_this_machine_on_loopback(listener: Listener, headers: str, expected: int) -> None:
    assert (await ask(listener, "/health", headers=headers + "\r\n"))[0] == expected


async def test_h6_http_1_0_needs_no_host_and_other_binds_take_any(probes: Told) -> None:
    loopback = await listen_metrics(Address(port=0), probes)
    anywhere = await listen_metrics(Address("0.0.0.0", 0), probes)
    try:
        assert (await exchange(loopback.port, b"GET /livez HTTP/1.0\r\n\r\n"))[0] == 200
        assert (await ask(anywhere, "/livez", headers="Host: scheduler.svc:9091\r\n"))[0] == 200
    finally:
        await loopback.close()
        await anywhere.close()


async def test_h6_no_cross_origin_headers(listener: Listener) -> None:
    origin = "Host: localhost\r\nOrigin: https://evil.example\r\nAccess-Control-Request-Method: GET\r\n"
    for method in ("GET", "OPTIONS"):
        _, headers, _ = await ask(listener, "/health", method=method, headers=origin)
        assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW", "get"])
async def test_h7_other_methods_are_405_with_allow(listener: Listener, method: str) -> None:
    status, headers, body = await ask(listener, "/health", method=method)
    assert (status, headers["allow"], headers["server"]) == (405, "GET, HEAD", "vmsh-scheduler")
    assert b"aiohttp" not in body


async def test_h7_head_is_get_without_a_body(listener: Listener) -> None:
    _, full, body = await ask(listener, "/health")
    status, headers, nothing = await ask(listener, "/health", method="HEAD")
    assert (status, nothing, headers["content-length"]) == (200, b"", str(len(body)))
    assert full["content-length"] == headers["content-length"]


@pytest.mark.parametrize("line", ["GET /health", "GET  /health HTTP/1.1", "GET /health HTTP/2.0", "\x16\x03\x01", ""])
async def test_h7_what_is_no_http_is_400_without_a_banner(listener: Listener, line: str) -> None:
    status, headers, body = await exchange(listener.port, line.encode() + b"\r\nHost: localhost\r\n\r\n")
    assert (status, headers["server"]) == (400, "vmsh-scheduler")
    assert b"aiohttp" not in body


@pytest.mark.parametrize("query", ["strict=1&strict=1", "a=%ff", "&".join(f"a{n}=1" for n in range(30))])
async def test_queries_that_make_no_sense(listener: Listener, query: str) -> None:
    assert (await ask(listener, f"/health?{query}"))[0] == 400


async def test_h9_a_busy_port_says_what_to_do(listener: Listener, probes: Told) -> None:
    with pytest.raises(Unavailable) as caught:
        await listen_metrics(Address(port=listener.port), probes)
    assert caught.value.exit == Exit.UNAVAILABLE
    assert f"127.0.0.1:{listener.port}" in str(caught.value)
    assert "METRICS_PORT" in str(caught.value)


@pytest.mark.parametrize("address", [Address("203.0.113.7", 0), Address("::ffff:0:1:2", 0), Address(port=70_000)])
async def test_h9_addresses_that_are_not_ours(probes: Told, address: Address) -> None:
    with pytest.raises(Unavailable, match="cannot listen on"):
        await listen_metrics(address, probes)


async def test_a_flood_of_scrapes_shares_answers(listener: Listener, probes: Told) -> None:
    """An answer that took 50 ms to make serves for a second."""
    quick = probes.metrics

    async def costly(accept: str) -> tuple[bytes, str]:
        await asyncio.sleep(0.05)
        return await quick(accept)

    probes.metrics = costly  # type: ignore[method-assign] # the same probes with a slow answer
    answers = await asyncio.gather(*(ask(listener, "/metrics") for _ in range(20)))
    assert {status for status, _, _ in answers} == {200}
    assert probes.scrapes == 1
