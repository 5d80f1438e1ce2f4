"""A daemon with its API, consumers of its callbacks, and what arrived there when."""

import contextlib
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import Running, running
from bench.programs import OURS, PEERS

WALLET = "kaspa:qpv7fcvdlz6th4hqjtm9qkkms2dw0raem963x3hm8glu3kjgj7922vy69hv85"
STARTED = '"api started"'


@dataclass(frozen=True, slots=True)
class Mark:
    """One arrival. `slot` is when the daemon says the cycle was due; both in ms since the epoch."""

    at: float
    agent: str
    slot: int
    attempt: int

    @property
    def late(self) -> float:
        return self.at - self.slot


@dataclass(frozen=True, slots=True)
class Sink:
    """A consumer (and upstream) as a process of its own."""

    running: Running
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def marks(self, since: float = 0, until: float = float("inf")) -> list[Mark]:
        lines = [line.split() for line in self.get("/marks").decode().splitlines()]
        found = [Mark(int(at) / 1e6, agent, int(slot), int(attempt)) for at, agent, slot, attempt in lines]
        return [mark for mark in found if since <= mark.at < until]

    def get(self, path: str) -> bytes:
        return _ask(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60), "GET", path)


@dataclass(frozen=True, slots=True)
class Api:
    """A daemon whose agents are registered over one connection."""

    running: Running
    port: int
    connection: http.client.HTTPConnection
    took: list[float] = field(default_factory=list)
    """Milliseconds of each registration."""

    def register(self, agent: str, url: str, every_ms: int) -> None:
        began = time.perf_counter()
        body = {"id": agent, "walletAddress": WALLET, "cycleIntervalMs": every_ms, "callbackUrl": url}
        _ask(self.connection, "POST", "/v1/agents/register", body)
        self.took.append(1000 * (time.perf_counter() - began))

    def crowd(self, count: int, url: str, every_ms: int, *, per_s: float = 0) -> None:
        """`count` agents; `per_s` spreads their registrations, and so all that follows."""
        began = time.monotonic()
        for number in range(count):
            if per_s:
                time.sleep(max(0.0, began + number / per_s - time.monotonic()))
            self.register(f"a{number}", url, every_ms)

    def get(self, path: str) -> bytes:
        return _ask(self.connection, "GET", path)

    def herd(self, secs: float) -> float:
        """Stopped for `secs`, so that all that came due meanwhile is due at once; when it goes on, in ms."""
        os.kill(self.running.pid, signal.SIGSTOP)
        time.sleep(secs)
        at = time.time() * 1000
        os.kill(self.running.pid, signal.SIGCONT)
        return at


def _ask(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> bytes:
    raw = None if body is None else json.dumps(body).encode()
    connection.request(method, path, raw, {"Content-Type": "application/json", "X-User-Id": "bench"})
    reply = connection.getresponse()
    said = reply.read()
    if reply.status != 200:
        raise SystemExit(f"{method} {path}: {reply.status} {said[:200]!r}")
    return said


@contextlib.contextmanager
def sink(directory: Path, name: str = "sink") -> Iterator[Sink]:
    with running([sys.executable, "-I", str(PEERS / "sink.py")], directory / f"{name}.log") as process:
        process.until(lambda: process.said("ready"), "being ready")
        yield Sink(process, int(process.log.read_text().split()[1]))


@contextlib.contextmanager
def daemon(directory: Path, upstream: Sink, **env: str) -> Iterator[Api]:
    """Configured by its environment alone: defaults but for `env`."""
    site = {"PATH": os.environ["PATH"], "VMSH_ROOT": str(directory), "METRICS_PORT": "0", "PORT": "0"}
    with running([OURS, "run"], directory / "log", {**site, "KAS_API_BASE": upstream.url, **env}) as process:
        process.until(lambda: process.said(STARTED), "the API")
        port = _port(process.log.read_text().splitlines())
        yield Api(process, port, http.client.HTTPConnection("127.0.0.1", port, timeout=60))


def _port(lines: Sequence[str]) -> int:
    return next(int(json.loads(line)["port"]) for line in lines if STARTED in line)


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
