"""bitcoind's answers, recorded and played back: the same tests run without a node, and against one where there is one.

`VMSH_RECORD_BITCOIN=1` with a real node writes tests/data/bitcoin/<test>.json anew."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.bitcoin_node import PASSWORD, USER, BitcoinNode

DATA = Path(__file__).parent.parent / "data" / "bitcoin"
Exchange = dict[str, Any]
"""path, method, params, status, body."""
Answer = tuple[int, bytes]


@dataclass
class Door:
    """What the rail talks to: an HTTP server of the test's own that hands every request to `answer`."""

    answer: Callable[[str, bytes, dict[str, str]], Answer | None]
    """None: hang up without a word."""
    port: int = 0

    @contextmanager
    def open(self) -> Iterator["Door"]:
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = door.answer(self.path, body, dict(self.headers))
                if answer is not None:
                    self.send_response(answer[0])
                    self.send_header("Content-Length", str(len(answer[1])))
                    self.end_headers()
                    self.wfile.write(answer[1])

            def log_message(self, *_: object) -> None:
                """Nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def passed_on(node: BitcoinNode, path: str, body: bytes, headers: dict[str, str]) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=60)
    try:
        kept = {name: value for name, value in headers.items() if name in ("Authorization", "Content-Type")}
        connection.request("POST", path, body, kept)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@dataclass
class Bench:
    """A test's node, real or recorded. What the test does to a real node itself is not played back: it did it then."""

    name: str
    node: BitcoinNode | None
    exchanges: list[Exchange] = field(default_factory=list)
    port: int = 0
    at: int = 0
    fault: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def wallet(self) -> str:
        return self.name

    def do(self, what: str, *args: Any, **how: Any) -> None:
        """A method of BitcoinNode, of which nothing is expected back."""
        if self.node is not None:
            getattr(self.node, what)(*args, **how)

    def entry(self, **more: Any) -> dict[str, Any]:
        """Of anchors.yaml."""
        login = {"user": USER, "password": "${BTC_PASSWORD}"}
        base = {"rpcUrl": self.url, **login, "wallet": self.wallet, "confirmations": 3, "feeRate": 2}
        return {key: value for key, value in {**base, **more}.items() if value is not None}

    def answer(self, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        asked = json.loads(body)
        request = {"path": path, "method": asked["method"], "params": asked["params"]}
        if self.node is None:
            return self._played(request)
        status, answer = passed_on(self.node, path, body, headers)
        self.exchanges.append({**request, "status": status, "body": answer.decode()})
        return status, answer

    def _played(self, request: Exchange) -> Answer:
        kept = self.exchanges[self.at] if self.at < len(self.exchanges) else {}
        self.at += 1
        if {key: kept.get(key) for key in request} != request:
            self.fault = self.fault or f"request {self.at}: {request}\nrecorded: {kept}"
            return 599, b"not as recorded"
        return kept["status"], kept["body"].encode()

    def check(self) -> None:
        """All that was recorded was asked for, in its order."""
        assert not self.fault, self.fault
        assert self.node is not None or self.at == len(self.exchanges)

    def save(self) -> None:
        DATA.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(one) for one in self.exchanges)
        (DATA / f"{self.name}.json").write_text(f"[\n{lines}\n]\n")


@contextmanager
def bench(name: str, node: BitcoinNode | None, *, record: bool) -> Iterator[Bench]:
    kept = json.loads((DATA / f"{name}.json").read_text()) if node is None else []
    found = Bench(name, node, kept)
    with Door(found.answer).open() as door:
        found.port = door.port
        yield found
    found.check()
    if record:
        found.save()


ENVIRON = {"BTC_PASSWORD": PASSWORD}
