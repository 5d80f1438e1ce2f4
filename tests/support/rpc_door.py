"""A door before a JSON-RPC node: it lets calls through, or fails them at a chosen one in a chosen way."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Document = dict[str, Any]
Answer = Callable[[str, list[Any]], Document]
"""Method and parameters -> `{"result": ...}` or `{"error": ...}`."""

STATUS = {"500": 500, "502": 502, "401": 401, "403": 403, "redirect": 302, "json500": 500}
BODY = {
    "html": b"<html>Welcome</html>",
    "garbage": b"\x00\xff{nonsense",
    "empty": b"",
    "list": b"[1, 2]",
    "502": b"<html>Bad gateway</html>",
    "null": b'{"jsonrpc": "2.0"}',
    "cut": b'{"jsonrpc": "2.0", "id": 1, "res',
}


@dataclass
class Fault:
    """At the `nth` call of `method` from now on. `how`: a key of BODY or STATUS; `lost` = carried out, no answer;
    `refused` = not carried out, no answer; `drip` = a byte now and then, for ever; `says` = `result`."""

    method: str
    how: str
    nth: int = 1
    times: int = 1
    then: Callable[[], None] = lambda: None
    """Called before the call would be carried out, and for `lost` after it was."""
    result: Any = None
    """Of `how="says"`: the answer in place of the node's."""
    hit: int = 0

    def matches(self, method: str) -> bool:
        if self.method not in (method, "*"):
            return False
        self.hit += 1
        return self.nth <= self.hit < self.nth + self.times


@dataclass
class Seen:
    """What came through."""

    calls: list[tuple[str, list[Any]]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


class Door(ThreadingHTTPServer):
    """`url` is where clients go; `behind` is the node."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, behind: Answer) -> None:
        self.behind = behind
        self.faults: list[Fault] = []
        self.seen = Seen()
        self.open = threading.Event()
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fail(self, method: str, how: str, **more: Any) -> Fault:
        self.faults.append(Fault(method, how, **more))
        return self.faults[-1]

    def fault_at(self, method: str) -> Fault | None:
        return next((fault for fault in list(self.faults) if fault.matches(method)), None)

    def count(self, method: str) -> int:
        return sum(called == method for called, _ in self.seen.calls)

    def reset(self) -> None:
        self.faults.clear()
        self.seen = Seen()

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up: expected here."""


class _Handler(BaseHTTPRequestHandler):
    server: Door
    protocol_version = "HTTP/1.1"
    timeout = 60.0

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        method, params = asked["method"], asked["params"]
        self.server.seen.calls.append((method, params))
        self.server.seen.headers.append(dict(self.headers))
        fault = self.server.fault_at(method)
        if fault is None:
            self._say(200, self._carried_out(asked))
        else:
            self._fail(fault, asked)

    def _carried_out(self, asked: Document) -> bytes:
        answer = self.server.behind(asked["method"], asked["params"])
        return json.dumps({"jsonrpc": "2.0", "id": asked["id"], **answer}).encode()

    def _fail(self, fault: Fault, asked: Document) -> None:
        if fault.how == "lost":
            self._carried_out(asked)
        fault.then()
        if fault.how in ("lost", "refused"):
            self.close_connection = True
        elif fault.how == "says":
            self._say(200, json.dumps({"id": asked["id"], "result": fault.result}).encode())
        elif fault.how == "json500":
            self._say(500, json.dumps({"id": 1, "error": {"code": -32603, "message": "node is busy"}}).encode())
        elif fault.how == "drip":
            self._drip()
        else:
            self._say(STATUS.get(fault.how, 200), BODY.get(fault.how, b""))

    def _say(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url + "/elsewhere")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _drip(self) -> None:
        with suppress(OSError):
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not self.server.open.is_set():
                self.wfile.write(b" ")
                time.sleep(0.02)

    def log_message(self, format: str, *args: Any) -> None:
        """`seen` is the log."""


@contextmanager
def door(behind: Answer) -> Iterator[Door]:
    with Door(behind) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.open.set()
            server.shutdown()
            thread.join()
