"""Bytes as no library would send them, at a booted daemon's API: each is answered or hung up on, and it lives on."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.daemon import Place
from tests.support.faults import rss_kb
from tests.support.forge import WALLET, Forge, forge, stub
from tests.support.http import Reply, exchange

PATIENCE_S = 60.0
HOST = "Host: localhost\r\n"
GOOD = f"GET /v1/agents HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n".encode()
CROWD = 600
HUNG_UP = b"hung up"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    """At the end nothing has failed inside, nothing of a stranger's is in the log, and it stops in good order."""
    place = Place(tmp_path_factory.mktemp("sockets"))
    try:
        with stub() as upstream:
            made = forge(place, upstream)
            yield made
            assert made.get("/health")["ok"] is True
            assert not made.daemon.lines("api failed")
            assert "canary" not in made.daemon.text()
            made.daemon.stop()
    finally:
        place.close()


def ask(api: Forge, head: str, body: bytes = b"") -> Reply:
    """To the end: `Connection: close` is added."""
    return exchange(api.port, head.encode("latin-1") + b"Connection: close\r\n\r\n" + body, within=PATIENCE_S)


def mannered(reply: Reply) -> bool:
    """Ours in shape, and naming no library."""
    return reply.headers["server"] == "vmsh-scheduler" and isinstance(json.loads(reply.body)["error"]["message"], str)


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (f"GET // HTTP/1.1\r\n{HOST}", {404}),
        (f"GET //canary/v1 HTTP/1.1\r\n{HOST}", {404}),
        (f"POST // HTTP/1.1\r\n{HOST}Content-Length: 0\r\n", {404}),
        (f"GET http://localhost/nope HTTP/1.1\r\n{HOST}", {404, 400}),
        (f"GET nope HTTP/1.1\r\n{HOST}", {404, 400}),
        (f"GET http://[ HTTP/1.1\r\n{HOST}", {404, 400}),
        (f"CONNECT canary:443 HTTP/1.1\r\n{HOST}", {404, 400}),
        (f"BREW /v1/agents HTTP/1.1\r\n{HOST}", {404, 400}),
        (f"POST /v1/agents/%/control HTTP/1.1\r\n{HOST}Content-Length: 2\r\n", {400}),
        (f"POST /v1/agents/%f/control HTTP/1.1\r\n{HOST}Content-Length: 2\r\n", {400}),
        (f"POST /v1/agents/%ff/control HTTP/1.1\r\n{HOST}Content-Length: 2\r\n", {400}),
        (f"POST /v1/agents/\xff/control HTTP/1.1\r\n{HOST}Content-Length: 2\r\n", {400}),
        (f"GET /%zz%00%c0%ae HTTP/1.1\r\n{HOST}", {404}),
        (f"GET /health?%zz=%ff&&&==;%00 HTTP/1.1\r\n{HOST}X-Odd: %\r\n", {200}),
        (f"GET /v1/market-snapshot?address=%ff%zz HTTP/1.1\r\n{HOST}", {400}),
        ("GET /health HTTP/1.1\r\nHost: canary.example\r\n", {421}),
        ("GET /health HTTP/1.1\r\nHost: localhost.canary.example\r\n", {421}),
        ("GET /health HTTP/1.1\r\nHost: 127.0.0.1@canary\r\n", {421, 400}),
        ("GET /health HTTP/1.1\r\nHost: \r\n", {421, 400}),
        ("OPTIONS /health HTTP/1.1\r\nHost: canary.example\r\n", {421}),
        ("GET /nope HTTP/1.1\r\nHost: LOCALHOST:1\r\n", {404}),
        ("GET /nope HTTP/1.1\r\nHost: [::1]:80\r\n", {404}),
        (f"GET /health HTTP/1.1\r\n{HOST}X-Long: {'x' * 10_000}\r\n", {400}),
        (f"GET /health HTTP/1.1\r\n{HOST}" + "".join(f"X-{n}: canary\r\n" for n in range(1_000)), {400}),
        (f"GET /{'x' * 10_000} HTTP/1.1\r\n{HOST}", {400}),
        (f"GET /health HTTP/1.1\r\n{HOST}no header\r\n", {400}),
        (f"GET /health HTTP/9.9\r\n{HOST}", {400}),
        (f"POST /v1/scheduler/tick HTTP/1.1\r\n{HOST}Content-Length: x\r\n", {400}),
        (f"POST /v1/scheduler/tick HTTP/1.1\r\n{HOST}Content-Length: -1\r\n", {400}),
        (f"POST /v1/scheduler/tick HTTP/1.1\r\n{HOST}Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", {400}),
        ("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", {400}),
        ("\r\n\r\ncanary\r\n", {400}),
    ],
)  # fmt: skip
def test_odd_heads(api: Forge, head: str, statuses: set[int]) -> None:
    reply = ask(api, head, b"{}" if "Content-Length: 2" in head else b"")
    assert reply.status in statuses, reply.raw[:500]
    assert reply.status == 200 or mannered(reply)
    assert b"canary" not in reply.raw


def test_a_chunk_that_is_none_is_400(api: Forge) -> None:
    head = f"POST /v1/agents/register HTTP/1.1\r\n{HOST}Transfer-Encoding: chunked\r\n"
    reply = ask(api, head, b"zz\r\ncanary\r\n0\r\n\r\n")
    assert reply.status == 400
    assert mannered(reply)


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
def test_d3_a_body_of_100_megabytes_is_413(api: Forge, chunked: bool) -> None:
    """The answer comes while it is still being sent; nothing of it is kept."""
    before = rss_kb(api.daemon.pid)
    size, block = 100 << 20, b"x" * (1 << 20)
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S) as sock:
        sock.sendall(f"POST /v1/agents/register HTTP/1.1\r\n{HOST}{length}\r\n\r\n".encode())

        def send() -> None:
            with suppress(OSError):  # it is hung up on at some point
                for _ in range(size // len(block)):
                    sock.sendall(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)

        sender = threading.Thread(target=send)
        sender.start()
        reply = Reply(sock.recv(65536))
        sock.shutdown(socket.SHUT_RDWR)
        sender.join(PATIENCE_S)
    assert reply.status == 413
    assert mannered(reply)
    assert rss_kb(api.daemon.pid) - before < 16 << 10


def test_slow_heads_and_bodies_are_ended(api: Forge) -> None:
    """A byte now and then never makes a socket idle: what counts is the time for all of it, 5 to 10 s."""
    post = f"POST /v1/agents/register HTTP/1.1\r\n{HOST}Content-Length: 1000\r\n\r\n".encode()
    slow = {name: socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S) for name in ("head", "body")}
    slow["head"].sendall(f"GET /health HTTP/1.1\r\n{HOST}X-Slow: ".encode())
    slow["body"].sendall(post)
    began, ended = time.monotonic(), {}
    try:
        while len(ended) < len(slow) and time.monotonic() < began + PATIENCE_S:
            for name in slow.keys() - ended.keys():
                if got := _drip(slow[name]):
                    ended[name] = time.monotonic() - began, got
            assert api.get("/health")["ok"] is True
    finally:
        for sock in slow.values():
            sock.close()
    assert {name: 4 < seconds < 13 for name, (seconds, _) in ended.items()} == {"head": True, "body": True}, ended
    assert Reply(ended["body"][1]).status == 408
    assert ended["head"][1] == HUNG_UP


def _drip(sock: socket.socket) -> bytes:
    """Another byte, and what came back within half a second."""
    try:
        sock.sendall(b"x")
        sock.settimeout(0.5)
        return sock.recv(65536) or HUNG_UP
    except TimeoutError:
        return b""
    except ConnectionError:
        return HUNG_UP


def test_a_client_that_asks_before_it_sends_is_told_to_go_on(api: Forge) -> None:
    body = json.dumps({"id": "expected", "walletAddress": WALLET}).encode()
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S) as sock:
        head = f"POST /v1/agents/register HTTP/1.1\r\n{HOST}Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode())
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert Reply(sock.recv(65536)).status == 200


def test_pipelined_garbage_ends_the_connection(api: Forge) -> None:
    """In the same segment it may take good requests with it; one that was answered stays answered."""
    good, bad = GOOD.replace(b"Connection: close\r\n", b""), b"\x00canary\xff\r\n\r\n" * 50
    raw = exchange(api.port, good + good + bad, within=PATIENCE_S).raw
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S) as sock:
        sock.sendall(good)
        assert Reply(sock.recv(65536)).status == 200
        sock.sendall(bad)
        parts = []
        with suppress(ConnectionError):
            while part := sock.recv(65536):
                parts.append(part)
    for each in (raw, b"".join(parts)):
        assert each.count(b" 400 Bad Request\r\n") == 1
        assert b"canary" not in each


def test_who_only_stops_sending_is_answered(api: Forge) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S) as sock:
        sock.sendall(GOOD.replace(b"Connection: close\r\n", b""))
        sock.shutdown(socket.SHUT_WR)
        parts = []
        while part := sock.recv(65536):
            parts.append(part)
    assert Reply(b"".join(parts)).status == 200


@pytest.mark.parametrize("data", [b"", b"GET /hea", b"POST /v1/scheduler/tick HTTP/1.1\r\nHost: localhost\r\n"])
def test_who_stops_sending_within_a_head_is_hung_up_on(api: Forge, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            assert sock.recv(65536) == b""


def test_a_crowd_of_idle_connections_keeps_nobody_out(api: Forge) -> None:
    """More than there are places; those who came first make room."""
    crowd = [socket.create_connection(("127.0.0.1", api.port), timeout=PATIENCE_S) for _ in range(CROWD)]
    try:
        for _ in range(20):
            assert api.get("/health")["ok"] is True
        assert crowd[0].recv(1) == b""
        crowd[-1].sendall(GOOD)
        assert Reply(crowd[-1].recv(65536)).status == 200
    finally:
        for sock in crowd:
            sock.close()


@pytest.mark.parametrize(
    ("origin", "content_type", "status"),
    [
        ("https://evil.example", "application/json", 403),
        ("null", "application/json", 403),
        ("http://localhost.evil.example", "application/json", 403),
        ("http://localhost:3000", "text/plain", 403),
        ("http://localhost:3000", "", 403),
        ("http://localhost:3000", "application/json; charset=utf-8", 200),
        ("http://[::1]:1", "Application/JSON", 200),
        (None, "text/plain", 200),
    ],
)
def test_a_page_of_the_internet_changes_nothing(api: Forge, origin: str | None, content_type: str, status: int) -> None:
    """Decision 31: a browser sends these without asking first."""
    headers = {"Content_Type": content_type} | ({} if origin is None else {"Origin": origin})
    got = api.ask("POST", "/v1/scheduler/tick", b"{}", **headers)
    assert got.status == status
    assert ("Access-Control-Allow-Origin" in got.headers) == (
        origin is not None and "evil" not in origin and origin != "null"
    )
