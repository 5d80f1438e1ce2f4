"""HTTP as bytes: ask as it comes, crowd a listener, and measure a good client meanwhile."""

import heapq
import json
import random
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from tests.support.daemon import Document

HALF = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: "
WHOLE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Reply:
    """`raw` in its parts; header names in lower case."""

    raw: bytes

    @property
    def head(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[0]

    @property
    def body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def status(self) -> int:
        """0: no answer at all."""
        words = self.head.split(b"\r\n", 1)[0].split()
        return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def exchange(address: int | str, data: bytes, *, within: float = 60) -> Reply:
    """Send bytes as they are to a port of this machine or a Unix socket; read to the end, or to a reset."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    with socket.socket(family) as sock:
        sock.settimeout(within)
        sock.connect(("127.0.0.1", address) if isinstance(address, int) else address)
        parts: list[bytes] = []
        with suppress(ConnectionError):
            sock.sendall(data)
            while part := sock.recv(65536):
                parts.append(part)
    return Reply(b"".join(parts))


def post(path: str, body: bytes) -> bytes:
    return b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (path.encode(), len(body), body)


BAR_MS = 50.0
HOPS = 10
"""Times that a request may wait for a processor: turns of the daemon's loop until it is answered, and the client."""


@dataclass
class Probe:
    """A good client that asks for /healthz over and over while this lasts, one connection after the other."""

    port: int
    pause_s: float = 0.02
    seconds: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)
    """By how much each pause was too long: the machine's doing, not the daemon's."""
    errors: list[str] = field(default_factory=list)

    def __enter__(self) -> "Probe":
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def p99_ms(self) -> float:
        return _p99_ms(self.seconds)

    @property
    def bar_ms(self) -> float:
        """What p99 may be: the bar, and what a machine that is busy with others makes everybody wait."""
        return BAR_MS + HOPS * _p99_ms(self.delays)

    def told(self) -> str:
        good = len(self.seconds) - len([error for error in self.errors if error.startswith("status")])
        asked = len(self.delays)
        return (
            f"healthz {good} good of {asked}, p99 {self.p99_ms:.1f} ms (a wake-up took {_p99_ms(self.delays):.1f} ms)"
        )

    def _ask(self) -> None:
        while not self._stop.is_set():
            slept = time.monotonic()
            time.sleep(self.pause_s)
            begun = time.monotonic()
            self.delays.append(begun - slept - self.pause_s)
            try:
                status = exchange(self.port, WHOLE).status
            except OSError as error:
                self.errors.append(repr(error))
                continue
            self.seconds.append(time.monotonic() - begun)
            if status != 200:
                self.errors.append(f"status {status}")


def _p99_ms(seconds: list[float]) -> float:
    return 1000 * sorted(seconds)[min(len(seconds) - 1, int(0.99 * len(seconds)))]


def half_open(port: int, count: int, seconds: float, again_s: float) -> "subprocess.Popen[str]":
    """A process of its own that holds `count` connections which never finish their head; one that is ended is opened
    again after about `again_s`. `tally` reads what it saw."""
    argv = [sys.executable, "-m", "tests.support.http", str(port), str(count), str(seconds), str(again_s)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)


def tally(crowd: "subprocess.Popen[str]") -> Document:
    """`opened`, `told` (408) and `cut` (ended without a word)."""
    output, _ = crowd.communicate()
    assert crowd.returncode == 0
    found: Document = json.loads(output)
    return found


class _Crowd:
    """The loop of `half_open`."""

    def __init__(self, port: int, count: int, again_s: float) -> None:
        self._port = port
        self._again_s = again_s
        self._due = [0.0] * count
        self._selector = selectors.DefaultSelector()
        self.seen = {"opened": 0, "told": 0, "cut": 0}

    def hold(self, until: float) -> None:
        while (now := time.monotonic()) < until:
            for _ in range(50):
                if self._due and self._due[0] <= now:
                    heapq.heappop(self._due)
                    self._open()
            for key, events in self._selector.select(0.01):
                assert isinstance(key.fileobj, socket.socket)
                self._serve(key.fileobj, events)

    def _open(self) -> None:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(("127.0.0.1", self._port))
        self._selector.register(sock, selectors.EVENT_WRITE)
        self.seen["opened"] += 1

    def _serve(self, sock: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                sock.send(HALF)
                self._selector.modify(sock, selectors.EVENT_READ)
                return
            data = sock.recv(4096)
        except OSError:
            data = b""
        self.seen["told" if data.startswith(b"HTTP/1.1 408") else "cut"] += 1
        self._selector.unregister(sock)
        sock.close()
        heapq.heappush(self._due, time.monotonic() + self._again_s * random.uniform(0.5, 1.5))


def more_descriptors(count: int) -> None:
    """For this process; as far as the hard limit goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = count if hard == resource.RLIM_INFINITY else min(count, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def main(arguments: Sequence[str]) -> None:
    port, count, seconds, again_s = int(arguments[0]), int(arguments[1]), float(arguments[2]), float(arguments[3])
    more_descriptors(count + 100)
    crowd = _Crowd(port, count, again_s)
    crowd.hold(time.monotonic() + seconds)
    sys.stdout.write(json.dumps(crowd.seen))


if __name__ == "__main__":
    main(sys.argv[1:])
