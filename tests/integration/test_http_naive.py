"""The attacks of H1-H9 bite: what becomes of a server as it is written at first."""

import itertools
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.children.stage import eventually
from tests.support.corpus import bodies
from tests.support.http import HALF, exchange, post
from tests.support.naive_http import Naive, naive_server


@pytest.fixture
def naive(tmp_path: Path) -> Iterator[Naive]:
    root = tmp_path / "served"
    root.mkdir()
    (root / "health").write_text("ok")
    (tmp_path / "secret").write_text("canary")
    with naive_server(root) as server:
        yield server


def get(naive: Naive, target: str, headers: str = "Host: localhost\r\n", method: str = "GET") -> bytes:
    return exchange(naive.port, f"{method} {target} HTTP/1.1\r\n{headers}\r\n".encode("latin-1")).raw


def test_h1_bites_who_has_a_thread_per_connection(naive: Naive) -> None:
    threads = threading.active_count()
    half_open = [socket.create_connection(("127.0.0.1", naive.port)) for _ in range(40)]
    try:
        for sock in half_open:
            sock.sendall(HALF)
        eventually(lambda: threading.active_count() == threads + 40, 20)
    finally:
        for sock in half_open:
            sock.close()


@pytest.mark.parametrize("lie", ["1_5", "+15", " 15 \r\nContent-Length: 99"])
def test_h2_bites_who_believes_the_length(naive: Naive, lie: str) -> None:
    request = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {lie}\r\n\r\n" + '{"job": "abcd"}'
    assert exchange(naive.port, request.encode()).status == 200


def test_h3_bites_who_takes_any_json(naive: Naive) -> None:
    seen = Counter(exchange(naive.port, post("/", body)).status for body in itertools.islice(bodies(1), 60))
    assert seen[500] > 10, seen
    assert exchange(naive.port, post("/", b'{"job": NaN}')).status == 200
    assert exchange(naive.port, post("/", b'{"job": "\\ud800"}')).status == 500


def test_h4_bites_who_repeats_what_was_said(naive: Naive) -> None:
    assert b"\r\nX-Canary: 1\r\n" in get(naive, "/x%0d%0aX-Canary:%201")
    get(naive, "/x%0aasked%20for%20forged")
    assert "\nasked for forged" in naive.log()


@pytest.mark.parametrize("path", ["/../secret", "/%2e%2e/secret", "/..%2fsecret"])
def test_h5_bites_who_serves_files(naive: Naive, path: str) -> None:
    assert get(naive, path).endswith(b"canary")


@pytest.mark.parametrize("host", ["Host: evil.example\r\n", "Host: a\r\nHost: b\r\n", ""])
def test_h6_bites_who_looks_at_no_host(naive: Naive, host: str) -> None:
    assert get(naive, "/health", host).endswith(b"ok")


@pytest.mark.parametrize("method", ["TRACE", "OPTIONS", "BREW"])
def test_h7_bites_who_answers_with_a_banner(naive: Naive, method: str) -> None:
    reply = get(naive, "/health", method=method)
    assert b" 501 " in reply
    assert b"Python" in reply


def test_h9_bites_who_shares_the_port(naive: Naive) -> None:
    """With SO_REUSEPORT, meant for quick restarts, nobody is told that the port is taken."""
    first, second = socket.socket(), socket.socket()
    with first, second:
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        first.bind(("127.0.0.1", 0))
        first.listen()
        second.bind(first.getsockname())
        second.listen()
