"""What a command writes: head and tail of each stream, whatever the length, and the result line."""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, NoReturn

HEAD = 8 * 1024
TAIL = 56 * 1024
_CHUNK = 64 * 1024
_BURST = 1024 * 1024
_PAUSE_S = 0.05
"""A flood is read at about _BURST per _PAUSE_S: 20 MB/s; the pipe makes the flooder wait."""


class Kept(NamedTuple):
    """One stream as far as it was kept; `total` bytes were written."""

    head: bytes
    tail: bytes
    total: int

    @property
    def truncated(self) -> bool:
        return self.total > len(self.head) + len(self.tail)

    def text(self) -> str:
        """Cut at line ends where something is left out, so that no half of a masked secret stays."""
        if not self.truncated:
            return _decode(self.head + self.tail)
        head = self.head[: self.head.rfind(b"\n") + 1] or self.head
        tail = self.tail[self.tail.find(b"\n") + 1 :] or self.tail
        left_out = self.total - len(head) - len(tail)
        return f"{_decode(head)}\n[... {left_out} of {self.total} bytes left out ...]\n{_decode(tail)}"


NOTHING = Kept(b"", b"", 0)


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


class Stream:
    """Reads one pipe until it ends and then calls `ended`, once. Bounded in memory and in CPU."""

    __slots__ = ("_allowance", "_ended", "_fd", "_head", "_loop", "_resume", "_tail", "_total", "_watched")

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, ended: Callable[[], None]) -> None:
        self._loop = loop
        self._fd = fd
        self._ended = ended
        self._head = b""
        self._tail = bytearray()
        self._total = 0
        self._allowance = _BURST
        self._watched = False
        self._resume: asyncio.TimerHandle | None = None

    @property
    def open(self) -> bool:
        return self._fd >= 0

    def watch(self) -> None:
        """Read from now on, whenever there is something."""
        if self._fd >= 0:
            self._allowance = _BURST
            self._watched = True
            self._loop.add_reader(self._fd, self._readable)

    def kept(self) -> Kept:
        return Kept(self._head, bytes(self._tail[-TAIL:]), self._total)

    def drain(self) -> None:
        """Take what is in the pipe now: its writer has ended, so that is at most one pipe full."""
        self._allowance = _BURST
        while self._fd >= 0 and self._allowance > 0 and self._take():
            pass

    def close(self) -> None:
        if self._fd < 0:
            return
        if self._resume is not None:
            self._resume.cancel()
        self._unwatch()
        os.close(self._fd)
        self._fd = -1
        self._ended()

    def _readable(self) -> None:
        if self._take() and self._allowance <= 0 and self._fd >= 0:
            self._unwatch()
            self._resume = self._loop.call_later(_PAUSE_S, self.watch)

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.remove_reader(self._fd)

    def _take(self) -> bool:
        """False: nothing there now, or nothing any more."""
        try:
            chunk = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            return False
        self._add(chunk)
        return True

    def _add(self, chunk: bytes) -> None:
        self._total += len(chunk)
        self._allowance -= len(chunk)
        room = HEAD - len(self._head)
        if room > 0:
            self._head += chunk[:room]
            chunk = chunk[room:]
        self._tail += chunk
        if len(self._tail) > 2 * TAIL:
            del self._tail[:-TAIL]


def combined(out: Kept, err: Kept) -> str:
    """Both streams as one text; labelled only when both said something."""
    if not err.total:
        return out.text() if out.total else ""
    if not out.total:
        return err.text()
    return f"--- stdout\n{out.text().rstrip()}\n--- stderr\n{err.text()}"


def last_object(text: str) -> Mapping[str, object]:
    """The last line that is a JSON object; {} when there is none. A line that was cut is none."""
    for line in reversed(text.splitlines()):
        stripped = line.strip()
        if stripped.startswith("{") and stripped.endswith("}"):
            parsed = _parse(stripped)
            if parsed is not None:
                return parsed
    return {}


def _parse(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line, parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()  # lone surrogates could not be stored
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
