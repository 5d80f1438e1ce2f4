"""Consumers of callbacks that answer with more than anybody wants, and what hearing them costs a daemon."""

import socketserver
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support import broken
from tests.support.contract import World, world
from tests.support.daemon import Place, until

BLOCK = 1 << 16
HEADER = 1 << 20
KINDS = ("body", "chunks", "gzip", "header", "headers", "trailer")
NO_HTTP = ("header", "headers")
"""Heads that no client has to take."""
STATUSES = (200, 500)


def bomb(size: int) -> bytes:
    """gzip of `size` zeros: about a thousandth of it."""
    packer, block = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS | 16), bytes(1 << 20)
    return b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.flush()])


@dataclass
class Flood:
    """Paths are `/<kind>/<status>`. While `calm`, an answer has the same outcome but is short."""

    size: int
    calm: bool = True
    port: int = 0
    packed: bytes = b""
    answered: Counter[str] = field(default_factory=Counter)
    """By path."""
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def paths(self) -> list[str]:
        return [f"/{kind}/{status}" for kind in KINDS for status in STATUSES]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def answer(self, path: str) -> Iterator[bytes]:
        """Up to `size` bytes, as long as somebody takes them."""
        _, kind, status = path.split("/")
        yield f"HTTP/1.1 {status} X\r\n".encode()
        if self.calm:
            yield b"no header\r\n\r\n" if kind in NO_HTTP else b"Content-Length: 2\r\n\r\n{}"
        elif kind == "gzip":
            yield f"Content-Encoding: gzip\r\nContent-Length: {len(self.packed)}\r\n\r\n".encode() + self.packed
        elif kind == "header":
            yield b"X-Long: " + b"x" * HEADER + b"\r\nContent-Length: 0\r\n\r\n"
        elif kind == "headers":
            yield b"".join(b"X-%d: yyyyyyyy\r\n" % n for n in range(HEADER >> 4)) + b"Content-Length: 0\r\n\r\n"
        else:
            yield from self._endless(kind)

    def _endless(self, kind: str) -> Iterator[bytes]:
        if kind == "body":
            yield f"Content-Length: {self.size}\r\n\r\n".encode()
            yield from (b"z" * BLOCK for _ in range(self.size // BLOCK))
            return
        yield b"Transfer-Encoding: chunked\r\n\r\n"
        if kind == "trailer":
            yield b"0\r\n"
            yield from (b"X-T: " + b"t" * 1_000 + b"\r\n" for _ in range(self.size // BLOCK))
        else:
            yield from (b"%x\r\n" % BLOCK + b"z" * BLOCK + b"\r\n" for _ in range(self.size // BLOCK))
            yield b"0\r\n\r\n"


@contextmanager
def flood(size: int) -> Iterator[Flood]:
    """Serving on a port of its own, a thread for each connection."""
    made = Flood(size, packed=bomb(size))

    class Handler(socketserver.StreamRequestHandler):
        timeout = 30

        def handle(self) -> None:
            with suppress(OSError, ValueError):
                if path := _request(self.rfile):
                    self._flood(path)

        def _flood(self, path: str) -> None:
            try:
                for part in made.answer(path):
                    made.sent[path] += self.request.send(part) if len(part) <= BLOCK else len(part)
                    if len(part) > BLOCK:
                        self.request.sendall(part)
            finally:
                made.answered[path] += 1

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

    with Server(("127.0.0.1", 0), Handler) as server:
        made.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


def _request(stream: object) -> str:
    """Its path, once all of it has come; "" at the end."""
    length, path = 0, ""
    while line := stream.readline().strip():  # type: ignore[attr-defined]  # a socket's file
        path = path or line.split()[1].decode()
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    stream.read(length)  # type: ignore[attr-defined]  # as above
    return path


def highest_kb(pid: int) -> int:
    """The most memory it ever had at once, since `forget_highest`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def forget_highest(pid: int) -> None:
    """proc(5): what it has now is the highest from here on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@dataclass(frozen=True, slots=True)
class Grown:
    """KiB by which the daemon's highest mark rose over as many floods, and over as many short answers before them."""

    floods: int
    short: int

    @property
    def more(self) -> int:
        return self.floods - self.short


@contextmanager
def flooded(root: Path, flood: Flood, *, paths: Sequence[str], planted: str = "") -> Iterator[World]:
    """An agent a second for each of these paths. `planted`: a defect of `broken`."""

    def prepare(place: Place) -> None:
        if planted:
            place.command, place.environ["PYTHONPATH"] = broken.command(planted), str(broken.ROOT)

    with world(root, prepare) as it:
        for path in paths:
            it.register(id=path.replace("/", "-"), cycleIntervalMs=1_000, callbackUrl=flood.url(path))
        yield it


def endure(it: World, flood: Flood, paths: Sequence[str], *, warm: int, rounds: int) -> Grown:
    """Each path is asked `rounds` times for a short answer, then as often for a flood."""
    _answers(flood, paths, warm)
    short = _rise(it, flood, paths, rounds)
    flood.calm = False
    return Grown(_rise(it, flood, paths, rounds), short)


def _rise(it: World, flood: Flood, paths: Sequence[str], rounds: int) -> int:
    forget_highest(it.daemon.pid)
    before = highest_kb(it.daemon.pid)
    _answers(flood, paths, rounds)
    return highest_kb(it.daemon.pid) - before


def _answers(flood: Flood, paths: Sequence[str], rounds: int) -> None:
    flood.answered.clear()
    until(lambda: all(flood.answered[path] >= rounds for path in paths), "answers", timeout=60 + 10 * rounds)
