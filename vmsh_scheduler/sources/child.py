"""The process that reads configuration for the daemon: it loads YAML and pydantic, answers, and takes them with it.

At start it is begun first: while it loads its libraries, the daemon loads its own."""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from vmsh_scheduler.errors import ConfigError, Exit

FRAME_LIMIT = 8 << 20
MODULE = "vmsh_scheduler.sources.compile_child"


class NotRead(ConfigError):
    """The process that reads could not be started, or ended: the files may be fine, so a restart may help."""

    exit = Exit.UNAVAILABLE


Begin = Callable[[int, int], int]
"""Starts a process that reads requests from the first descriptor and writes answers to the second; its pid."""


def spawned(requests: int, answers: int) -> int:
    """A fresh interpreter."""
    actions = [
        (os.POSIX_SPAWN_DUP2, requests, 0),
        (os.POSIX_SPAWN_DUP2, answers, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    # -P: a yaml.py in the working directory must not be imported
    argv = [sys.executable, "-P", "-c", f"from {MODULE} import main; main()"]
    return os.posix_spawn(sys.executable, argv, _environment(), file_actions=actions, setsid=True)


def forked(requests: int, answers: int) -> int:
    """At start, before there is a thread or a loop: what is loaded by then (50 ms) need not be loaded again."""
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        for target, fd in enumerate((requests, answers, os.open(os.devnull, os.O_WRONLY))):
            os.dup2(fd, target)
        os.closerange(3, 1 << 16)
        import_module(MODULE).main()
    finally:
        os._exit(0)


class Child:
    """Begun on construction, which takes a few milliseconds; raises NotRead. Its methods wait: not for the loop."""

    def __init__(self, begin: Begin = spawned) -> None:
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        try:
            self.pid = begin(requests, answers)
        except OSError as error:
            os.close(self._requests)
            os.close(self._answers)
            reason = error.strerror or type(error).__name__
            raise NotRead(f"no process could be started to read the configuration: {reason}") from error
        finally:
            os.close(requests)
            os.close(answers)

    def ask(self, request: object, *, last: bool = False) -> None:
        """A child that is gone already is noticed when its answer is missing."""
        rest = memoryview(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        with suppress(BrokenPipeError):
            while rest:
                rest = rest[os.write(self._requests, rest) :]
        if last:
            self._close_requests()

    def frame(self) -> bytes:
        """The next piece of its answer; empty at the end, also at one in the middle of a frame."""
        head = self._read(4)
        length = int.from_bytes(head)
        body = self._read(length) if len(head) == 4 and length <= FRAME_LIMIT else b""
        return body if len(body) == length else b""

    def kill(self) -> None:
        """One that has ended but is not reaped yet is a no-op."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def reap(self) -> None:
        self._close_requests()
        with suppress(ChildProcessError):  # a reaper of orphans was quicker
            os.waitpid(self.pid, 0)
        os.close(self._answers)

    def end(self) -> None:
        self.kill()
        self.reap()

    def _close_requests(self) -> None:
        if self._requests >= 0:
            os.close(self._requests)
            self._requests = -1

    def _read(self, length: int) -> bytes:
        parts: list[bytes] = []
        while length > 0 and (part := os.read(self._answers, length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


def opened(frame: bytes) -> tuple[str, Any]:
    """Kind and body; raises what the child answered in their place."""
    if not frame:
        raise NotRead("reading the configuration failed: its process ended without an answer (killed, no memory?)")
    kind, body = pickle.loads(frame)  # noqa: S301  written by our own child from our own classes
    match kind:
        case "problems":
            message, problems = body
            raise ConfigError(message, problems=problems)
        case "failed":
            raise ConfigError(f"reading the configuration failed: {body}")
        case _:
            return kind, body


def _environment() -> dict[str, str]:
    package_parent = str(Path(__file__).resolve().parents[2])
    searched = [package_parent, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(searched)}
