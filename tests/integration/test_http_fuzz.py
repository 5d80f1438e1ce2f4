"""Hostile requests to a running daemon (H1, H3, H4, H5, H7, H9): every one is answered, and none does anything."""

import json
import socket
from collections.abc import Iterator

import pytest

from tests.support.corpus import paths
from tests.support.faults import Cadence, Site, site
from tests.support.http import exchange, post
from tests.support.siege import CHANGES, HOSTILE, check_manners, fuzz_bodies, fuzz_heads, slowloris

SEED = 20261121


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A daemon with the job h/fast; at the end it stops in good order."""
    made = site(tmp_path_factory.mktemp("http"))
    made.configure(Cadence("h", ("true",), "1h"))
    try:
        daemon = made.place.daemon().ready()
        yield made
        assert not daemon.lines("request failed")
        daemon.stop()
    finally:
        made.place.close()


@pytest.fixture
def port(scene: Site) -> int:
    return scene.place.started[0].port


@pytest.fixture
def control(scene: Site) -> str:
    return str(scene.place.state.with_name("control.sock"))


def test_h1_three_hundred_half_open_connections_hold_nobody_up(scene: Site) -> None:
    """More than there are places, all in one burst."""
    found = slowloris(scene.place.started[0], 300, seconds=2, again_s=0.5)
    assert found.probe.errors == []
    assert len(found.probe.seconds) > 1
    assert found.seen["cut"] >= 300 - 256
    assert found.growth_kb < 16 << 10


def test_h3_no_body_is_an_error_of_ours(scene: Site) -> None:
    seen = fuzz_bodies(scene, 1_000, SEED)
    assert seen[400] > 300, seen
    assert seen[200] > 10, seen


@pytest.mark.parametrize("path", CHANGES)
def test_h4_what_is_sent_comes_back_escaped(scene: Site, control: str, path: str) -> None:
    daemon = scene.place.started[0]
    for values in ({"job": HOSTILE}, {"job": "h/fast", "by": HOSTILE}, {"run": HOSTILE, "as": HOSTILE}):
        for extra in ({}, {"note": HOSTILE}, {HOSTILE: HOSTILE}):
            reply = exchange(control, post(path, json.dumps({**values, **extra}).encode()))
            assert 200 <= reply.status < 500
            assert "x-canary" not in reply.headers
            assert reply.raw.isascii()
            assert not set(reply.body[:-1]) & set(range(32))
    assert not daemon.lines(level="forged")
    assert not [c for c in daemon.text() if c < " " and c != "\n"]


def test_h4_no_terminal_is_moved_by_what_was_sent(scene: Site, control: str) -> None:
    body = json.dumps({"job": "h/fast", "by": HOSTILE, "note": HOSTILE}).encode()
    assert exchange(control, post("/pause", body)).status == 200
    try:
        shown = "".join(scene.place.cli(*words).ok().out for words in (("status",), ("history",), ("why", "h/fast")))
    finally:
        assert exchange(control, post("/resume", b'{"job": "h/fast"}')).status == 200
    assert "canary" in shown
    assert not [c for c in shown if c < " " and c != "\n"]
    assert not [line for line in shown.splitlines() if line.startswith("X-Canary")]


@pytest.mark.parametrize("header", ["User-Agent", "X-Request-Id", "Referer", "Accept"])
def test_h4_a_header_leads_nowhere(scene: Site, port: int, header: str) -> None:
    for value in ("canary\x1b[31m", "canary\x00", "canary\rX-Canary: 1", "canary\nX-Canary: 1", "canary\xff"):
        for path in ("/health", "/canary"):
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}: {value}\r\n\r\n"
            reply = exchange(port, head.encode("latin-1"))
            assert reply.status in {200, 400, 404}
            assert b"canary" not in reply.raw.lower()
    assert "canary\\" not in scene.place.started[0].text()


def test_h5_no_path_leads_to_a_file(port: int, control: str) -> None:
    assert len(paths()) >= 200
    for path in paths():
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1")
        for address in (port, control):
            reply = exchange(address, request)
            assert reply.status in {400, 404}, path
            assert set(json.loads(reply.body)) == {"error"}, path
            check_manners(reply)


def test_h7_no_head_is_an_error_of_ours(port: int, control: str) -> None:
    for address in (port, control):
        seen = fuzz_heads(address, 200, SEED)
        assert seen[400] > 20, seen


@pytest.mark.parametrize(
    ("host", "port", "why"),
    [("127.0.0.1", 0, "in use"), ("203.0.113.7", 9090, "cannot listen")],
    ids=["busy", "not ours"],
)
def test_h9_without_its_port_the_program_ends_and_starts_nothing(
    tmp_path_factory: pytest.TempPathFactory, host: str, port: int, why: str
) -> None:
    made = site(tmp_path_factory.mktemp("port"))
    made.configure(made.work("w"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {"VMSH_METRICS_HOST": host, "METRICS_PORT": str(port or taken.getsockname()[1])}
        done = made.place.cli("run", env=env)
    assert done.code == 69
    assert why in done.err
    assert "Traceback" not in done.err
    assert made.entries() == []
