"""A market upstream and a callback consumer that record what they get, and a client of the API."""

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.daemon import PATIENCE_S, Daemon, Place, until

WALLET = "kaspa:qpv7fcvdlz6th4hqjtm9qkkms2dw0raem963x3hm8glu3kjgj7922vy69hv85"
UPSTREAM: Mapping[str, object] = {
    "/info/price": {"price": 0.12},
    "/info/blockdag": {"networkName": "kaspa-mainnet", "virtualDaaScore": "98765432", "blockCount": "1234"},
}


@dataclass
class Received:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Stub:
    """Answers 200 with what `answers` says of a path, else `status`."""

    port: int = 0
    status: int = 200
    answers: dict[str, object] = field(default_factory=dict)
    received: list[Received] = field(default_factory=list)
    held: dict[str, threading.Event] = field(default_factory=dict)
    """By path: what has to be set before there is an answer."""
    lines: dict[str, tuple[int, Mapping[str, str]]] = field(default_factory=dict)
    """By path: another status than the others', and headers."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def at(self, path: str) -> list[Received]:
        return [each for each in list(self.received) if each.path == path]

    def hold(self, path: str) -> threading.Event:
        """From now on nothing is answered there until the event is set."""
        return self.held.setdefault(path, threading.Event())

    def answer(self, path: str) -> tuple[int, bytes]:
        known = self.answers.get(path)
        if path.endswith("/balance"):
            known = {"balance": 250_000_000}
        return self.status, json.dumps({} if known is None else known).encode()


@contextmanager
def stub(**answers: object) -> Iterator[Stub]:
    """Serving on a port of its own."""
    made = Stub(answers=dict(UPSTREAM) | answers)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.received.append(Received(self.command, self.path, dict(self.headers.items()), body))
            if self.path in made.held:
                made.held[self.path].wait(PATIENCE_S)
            status, reply = made.answer(self.path)
            status, headers = made.lines.get(self.path, (status, {}))
            with suppress(ConnectionError):
                self._reply(status, headers, reply)

        def _reply(self, status: int, headers: Mapping[str, str], reply: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        for gate in made.held.values():
            gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass(frozen=True, slots=True)
class Got:
    """One reply of the API."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Forge:
    """A booted daemon's API."""

    daemon: Daemon
    port: int

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Got:
        """`headers`: underscores for dashes. A `bytes` body goes as it is."""
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, raw or None, {"Content-Type": "application/json", **named})
            reply = connection.getresponse()
            return Got(reply.status, dict(reply.getheaders()), reply.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Any:
        got = self.ask("GET", path, **headers)
        assert got.status == 200, got
        return got.json

    def register(self, **body: object) -> Any:
        got = self.ask("POST", "/v1/agents/register", {"walletAddress": WALLET, **body}, X_User_Id="user-123")
        assert got.status == 200, got
        return got.json

    def agent(self, id: str) -> Any:
        """Its line in the list; None: not there."""
        return next((agent for agent in self.get("/v1/agents")["agents"] if agent["id"] == id), None)


def forge(place: Place, upstream: Stub, **env: str) -> Forge:
    """A daemon configured by environment alone, with its API on a free port."""
    more = {"PORT": "0", "KAS_API_BASE": upstream.url, **env}
    daemon = place.daemon(env=more)
    line = until(lambda: next(iter(daemon.lines("api started")), None), "the API")
    return Forge(daemon, int(line["port"]))
