"""The HTTP server that the standard library makes easy: every row of H bites it."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote


class Naive(ThreadingHTTPServer):
    """Serves the files below `root`, takes JSON, logs what it was asked."""

    request_queue_size = 512

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lines: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up: expected here."""

    def log(self) -> str:
        """As it would stand in a file."""
        return "".join(f"{line}\n" for line in self.lines)


class _Handler(BaseHTTPRequestHandler):
    server: Naive
    timeout = 30.0

    def do_GET(self) -> None:
        path = unquote(self.path)
        self.server.lines.append(f"asked for {path} by {self.headers.get('User-Agent')}")
        file = Path(f"{self.server.root}/{path}")
        self._answer(200 if file.is_file() else 404, file.read_bytes() if file.is_file() else b"", path)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            self._answer(200, json.dumps(json.loads(body)["job"], ensure_ascii=False).encode())
        except Exception as error:  # noqa: BLE001, RUF100 - what everybody writes
            self._answer(500, repr(error).encode("utf-8", "replace"))

    def _answer(self, status: int, body: bytes, about: str = "") -> None:
        self.send_response(status)
        self.send_header("X-About", about)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """The log is the server's."""


@contextmanager
def naive_server(root: Path) -> Iterator[Naive]:
    """Its threads end with it: they are waited for, so close what you opened first."""
    with Naive(root) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
