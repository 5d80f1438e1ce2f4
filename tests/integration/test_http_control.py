"""The control socket: what the CLI asks of a running daemon, and who may ask."""

import asyncio
import errno
import json
import os
import socket
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vmsh_scheduler.api import acceptor, client
from vmsh_scheduler.api.client import CONTROL_NAME
from vmsh_scheduler.api.errors import KINDS, from_wire, to_wire
from vmsh_scheduler.api.operations import HistoryQuery, Json
from vmsh_scheduler.api.server import Listener, listen_control
from vmsh_scheduler.cli.context import Context
from vmsh_scheduler.errors import (
    Busy,
    CannotCreate,
    ConfigError,
    Denied,
    NotFound,
    SchedulerError,
    StateWriteFailed,
    Unavailable,
    Usage,
)

Call = Callable[..., Any]


class Recorded:
    """Operations that say what they were asked, or raise what a test wants."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def _told(self, name: str, **given: object) -> Json:
        if self.error is not None:
            raise self.error
        return {"asked": name, **given}

    async def status(self) -> Json:
        return self._told("status")

    def health(self) -> Json:
        return self._told("health")

    async def next(self, job: str, limit: int) -> Json:
        return self._told("next", job=job, limit=limit)

    async def why(self, job: str, at: int | None) -> Json:
        return self._told("why", job=job, at=at)

    async def history(self, query: HistoryQuery) -> Json:
        return self._told("history", job=query.job, before=query.before, limit=query.limit)

    async def trigger(self, job: str, *, by: str) -> Json:
        return self._told("trigger", job=job, by=by)

    async def pause(self, job: str, *, until: int | None, note: str, by: str) -> Json:
        return self._told("pause", job=job, until=until, note=note, by=by)

    async def resume(self, job: str, *, by: str) -> Json:
        return self._told("resume", job=job, by=by)

    async def resolve(self, run: str, verdict: str, *, by: str) -> Json:
        return self._told("resolve", run=run, verdict=verdict, by=by)

    async def reset(self, job: str, *, by: str) -> Json:
        return self._told("reset", job=job, by=by)

    async def reload(self, *, by: str) -> Json:
        return self._told("reload", by=by)

    @property
    def agents(self) -> "RecordedAgents":
        return RecordedAgents(self._told)


class RecordedAgents:
    """The same of the agents' part."""

    def __init__(self, told: Callable[..., Json]) -> None:
        self._told = told

    async def list(self) -> Json:
        return self._told("agents")

    async def register(self, body: Mapping[str, object], user: str, *, by: str) -> Json:
        return self._told("register", body={name: value for name, value in body.items() if value}, user=user, by=by)

    async def control(self, user: str, id: str, action: str, *, by: str) -> Json:
        return self._told("control", user=user, id=id, action=action, by=by)


@pytest.fixture
def operations() -> Recorded:
    return Recorded()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Longer than the 107 bytes that a socket's path may have."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir(mode=0o700)
    return deep


@pytest.fixture
async def listener(directory: Path, operations: Recorded) -> AsyncIterator[Listener]:
    listener = await listen_control(str(directory), operations)
    yield listener
    await listener.close()


@pytest.fixture
def call(directory: Path) -> Call:
    async def ask(method: str, path: str, values: dict[str, Any] | None = None) -> Any:
        return await asyncio.to_thread(client.call, str(directory / CONTROL_NAME), method, path, values)

    return ask


@pytest.mark.parametrize(
    ("method", "path", "values", "expected"),
    [
        ("GET", "/status", {}, {"asked": "status"}),
        ("GET", "/health", None, {"asked": "health"}),
        ("GET", "/next", {"job": None}, {"asked": "next", "job": "", "limit": 10}),
        ("GET", "/next", {"job": "dao:x:/fast", "limit": 3}, {"asked": "next", "job": "dao:x:/fast", "limit": 3}),
        ("GET", "/why", {"job": "a b/é"}, {"asked": "why", "job": "a b/é", "at": None}),
        ("GET", "/why", {"job": "n/f", "at": 17}, {"asked": "why", "job": "n/f", "at": 17}),
        ("GET", "/history", {"limit": 99_999}, {"asked": "history", "job": "", "before": None, "limit": 10_000}),
        ("POST", "/trigger", {"job": "n/f", "by": "me"}, {"asked": "trigger", "job": "n/f", "by": "me"}),
        (
            "POST",
            "/pause",
            {"job": "n/f", "until": 5, "note": "x"},
            {"asked": "pause", "job": "n/f", "until": 5, "note": "x", "by": ""},
        ),
        ("POST", "/resume", {"job": "n/f"}, {"asked": "resume", "job": "n/f", "by": ""}),
        ("POST", "/reset", {"job": "n/f"}, {"asked": "reset", "job": "n/f", "by": ""}),
        ("POST", "/resolve", {"run": "r", "as": "ok"}, {"asked": "resolve", "run": "r", "verdict": "ok", "by": ""}),
        ("POST", "/reload", {}, {"asked": "reload", "by": ""}),
        ("GET", "/agents", {}, {"asked": "agents"}),
        (
            "POST",
            "/agents/register",
            {"id": "a", "user": "u", "cycleIntervalMs": "1", "by": "me"},
            {"asked": "register", "body": {"id": "a", "cycleIntervalMs": "1"}, "user": "u", "by": "me"},
        ),
        (
            "POST",
            "/agents/control",
            {"id": "a", "user": "u", "action": "pause"},
            {"asked": "control", "user": "u", "id": "a", "action": "pause", "by": ""},
        ),
    ],
)
async def test_every_route(
    listener: Listener, call: Call, method: str, path: str, values: dict[str, Any] | None, expected: Json
) -> None:
    assert await call(method, path, values) == expected


@pytest.mark.parametrize("kind", KINDS)
async def test_errors_arrive_as_they_were_raised(
    listener: Listener, call: Call, operations: Recorded, kind: type[SchedulerError]
) -> None:
    operations.error = kind("what is wrong", hint="what to do")
    with pytest.raises(kind) as caught:
        await call("POST", "/reload")
    assert type(caught.value) is kind
    assert (caught.value.message, caught.value.hint) == ("what is wrong", "what to do")


async def test_config_errors_bring_every_problem(listener: Listener, call: Call, operations: Recorded) -> None:
    operations.error = ConfigError("refused", problems=("a:1:1: x", "a:2:1: y"))
    with pytest.raises(ConfigError) as caught:
        await call("POST", "/reload")
    assert caught.value.problems == ("a:1:1: x", "a:2:1: y")


async def test_a_bug_is_an_error_without_its_text(listener: Listener, call: Call, operations: Recorded) -> None:
    operations.error = RuntimeError("canary")
    with pytest.raises(SchedulerError) as caught:
        await call("GET", "/status")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotFound("x"), 404), (Usage("x"), 409), (Busy("x"), 409), (Denied("x"), 403), (ConfigError("x"), 422),
        (StateWriteFailed("x"), 503), (Unavailable("x"), 503), (SchedulerError("x"), 500),
    ],
)  # fmt: skip
def test_one_table_of_statuses(error: SchedulerError, status: int) -> None:
    assert to_wire(error)[0] == status


@pytest.mark.parametrize("body", [None, [], {"error": "x"}, {"error": {}}, {"error": {"code": "new_kind"}}])
def test_answers_of_a_newer_daemon_are_still_errors(body: object) -> None:
    assert type(from_wire(500, body)) is SchedulerError


@pytest.mark.parametrize(
    ("method", "path", "values"),
    [
        ("GET", "/why", {}),
        ("GET", "/why", {"job": "x", "at": "soon"}),
        ("GET", "/next", {"limit": "-1"}),
        ("GET", "/status", {"verbose": "1"}),
        ("POST", "/trigger", {"job": 7}),
        ("POST", "/trigger", {"job": "x" * 501}),
        ("POST", "/pause", {"job": "x", "until": True}),
        ("POST", "/trigger", {"jobb": "x"}),
        ("POST", "/status", {}),
        ("GET", "/trigger", {}),
        ("GET", "/nothing", {}),
    ],
)
async def test_requests_that_make_no_sense(
    listener: Listener, call: Call, method: str, path: str, values: dict[str, Any]
) -> None:
    with pytest.raises(SchedulerError):
        await call(method, path, values)


BAD_BODIES = {
    "deep": b"[" * 30_000,
    "deep object": b'{"a":' * 9_000,
    "nan": b'{"job": NaN}',
    "infinite": b'{"job": 1e400}',
    "huge number": b'{"job": ' + b"9" * 5_000 + b"}",
    "duplicate": b'{"job": "a", "job": "b"}',
    "bom": b'\xef\xbb\xbf{"job": "a"}',
    "surrogate": b'{"job": "\\ud800"}',
    "latin-1": b'{"job": "\xe9"}',
    "utf-16": '{"job": "a"}'.encode("utf-16"),
    "array": b"[]",
    "cut": b'{"job": "a"',
    "empty": b"",
}


def raw_post(directory: Path, head: str, body: bytes) -> tuple[int, Any]:
    with client._connected(str(directory / CONTROL_NAME)) as sock:
        sock.settimeout(10)
        answer = client._exchange(sock, head.encode() + b"\r\n\r\n" + body)
    status, _, text = answer.partition(b"\r\n\r\n")
    return int(status.split()[1]), json.loads(text)


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_h3_bad_json_is_400_with_one_line(listener: Listener, directory: Path, body: bytes) -> None:
    head = f"POST /trigger HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
    status, answer = await asyncio.to_thread(raw_post, directory, head, body)
    assert (status, answer["error"]["code"]) == (400, "bad_request")
    assert "\n" not in answer["error"]["message"]


@pytest.mark.parametrize(
    ("header", "status"),
    [("Content-Length: 65537", 413), ("X: 1", 411), ("Transfer-Encoding: chunked", 411), ("Content-Length: x", 400)],
)
async def test_h2_bodies_have_a_length_and_a_limit(
    listener: Listener, directory: Path, header: str, status: int
) -> None:
    head = f"POST /trigger HTTP/1.1\r\nHost: localhost\r\n{header}"
    assert (await asyncio.to_thread(raw_post, directory, head, b""))[0] == status


async def test_h2_a_body_that_does_not_come_is_408(directory: Path, operations: Recorded) -> None:
    listener = await listen_control(str(directory), operations, body_s=0.2)
    head = "POST /trigger HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10"
    try:
        assert (await asyncio.to_thread(raw_post, directory, head, b"{"))[0] == 408
    finally:
        await listener.close()


async def test_the_socket_is_private_and_gone_afterwards(directory: Path, operations: Recorded) -> None:
    listener = await listen_control(str(directory), operations)
    found = (directory / CONTROL_NAME).stat()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert listener.port == 0
    await listener.close()
    assert os.listdir(directory) == []  # noqa: PTH208 - a blocking Path method is refused in a coroutine


async def test_a_stale_socket_is_replaced(directory: Path, operations: Recorded, call: Call) -> None:
    fd = os.open(directory, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"/proc/self/fd/{fd}/{CONTROL_NAME}")
    os.close(fd)
    with pytest.raises(Unavailable):
        await call("GET", "/status")
    listener = await listen_control(str(directory), operations)
    assert await call("GET", "/status") == {"asked": "status"}
    await listener.close()


async def test_a_living_daemons_socket_is_left_alone(
    listener: Listener, directory: Path, operations: Recorded, call: Call
) -> None:
    with pytest.raises(Busy):
        await asyncio.to_thread(lambda: asyncio.run(listen_control(str(directory), operations)))
    assert await call("GET", "/status") == {"asked": "status"}


async def test_a_file_in_the_way_is_not_removed(directory: Path, operations: Recorded) -> None:
    victim = directory / "victim"
    victim.write_text("precious")
    (directory / CONTROL_NAME).symlink_to(victim)
    with pytest.raises(CannotCreate, match="in the way"):
        await listen_control(str(directory), operations)
    assert victim.read_text() == "precious"


async def test_a_file_system_without_sockets_is_a_clear_error(
    directory: Path, operations: Recorded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(CannotCreate, match="Operation not permitted"):
        await listen_control(str(directory), operations)
    assert os.listdir(directory) == []  # noqa: PTH208 - a blocking Path method is refused in a coroutine


async def test_no_directory_is_a_clear_error(directory: Path, operations: Recorded) -> None:
    with pytest.raises(CannotCreate, match="cannot open"):
        await listen_control(str(directory / "gone"), operations)


async def test_a_socket_of_somebody_else_is_not_unlinked(directory: Path, operations: Recorded) -> None:
    listener = await listen_control(str(directory), operations)
    (directory / CONTROL_NAME).unlink()
    (directory / CONTROL_NAME).write_text("new owner")
    await listener.close()
    assert (directory / CONTROL_NAME).read_text() == "new owner"


async def test_only_our_own_user_and_root_may_talk(
    listener: Listener, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon runs as another user, and we are not root in its eyes: shown by what the kernel says of the peer."""
    monkeypatch.setattr(acceptor, "is_owner", lambda sock: False)
    with pytest.raises(Unavailable):
        await call("GET", "/status")


def test_no_daemon_is_unavailable(directory: Path) -> None:
    for path in (directory / CONTROL_NAME, directory / "gone" / CONTROL_NAME):
        with pytest.raises(Unavailable, match="no daemon"):
            client.call(str(path), "GET", "/status")
        assert not client.is_running(str(path))


async def test_what_a_daemon_cannot_do_is_not_tried_without_it(
    listener: Listener, directory: Path, operations: Recorded
) -> None:
    """One of several instances while none leads: it runs, and the disk beside it knows nothing."""
    operations.error = Unavailable("no leader answered", hint="try again")
    context = Context({"state": str(directory / "scheduler.json")})
    with pytest.raises(Unavailable, match="no leader answered"):
        await asyncio.to_thread(context.tell, "/trigger", _never, job="a/b")
    with pytest.raises(Unavailable, match="no leader answered"):
        await asyncio.to_thread(context.ask, "/status", _never)


def _never(_: object) -> Any:
    raise AssertionError("asked the disk")


async def test_a_daemon_is_running(listener: Listener, directory: Path) -> None:
    assert await asyncio.to_thread(client.is_running, str(directory / CONTROL_NAME))


@pytest.fixture
def rogue(directory: Path) -> Iterator[Callable[[bytes | None], str]]:
    """A server that answers once with given bytes, or not at all (None)."""
    threads, socks = [], []

    def serve(answer: bytes | None) -> str:
        fd = os.open(directory, os.O_RDONLY)
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(f"/proc/self/fd/{fd}/rogue")
        os.close(fd)
        sock.listen()
        socks.append(sock)

        def once() -> None:
            peer, _ = sock.accept()
            with peer, suppress(OSError):
                peer.recv(65536)
                if answer is None:
                    peer.recv(1)
                else:
                    peer.sendall(answer)

        threads.append(threading.Thread(target=once))
        threads[-1].start()
        return str(directory / "rogue")

    yield serve
    for thread in threads:
        thread.join(10)
    for sock in socks:
        sock.close()


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n{", b"nonsense", b"HTTP/1.1 x\r\n\r\n{}"])
def test_half_an_answer_is_unavailable(rogue: Callable[[bytes | None], str], answer: bytes) -> None:
    with pytest.raises(Unavailable, match="hung up"):
        client.call(rogue(answer), "GET", "/status")


def test_no_answer_in_time_is_unavailable(rogue: Callable[[bytes | None], str]) -> None:
    with pytest.raises(Unavailable, match="in time"):
        client.call(rogue(None), "GET", "/status", timeout_s=0.1)


def test_an_endless_answer_is_cut(rogue: Callable[[bytes | None], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MOST_BYTES", 1_000)
    with pytest.raises(Unavailable, match="too large"):
        client.call(rogue(b"x" * 5_000), "GET", "/status")


def test_somebody_elses_daemon_is_refused(
    rogue: Callable[[bytes | None], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = rogue(b"")
    monkeypatch.setattr(client, "_peer_uid", lambda sock: 12_345)
    monkeypatch.setattr(os, "geteuid", lambda: 54_321)
    with pytest.raises(Denied, match="uid 12345"):
        client.call(path, "GET", "/status")
