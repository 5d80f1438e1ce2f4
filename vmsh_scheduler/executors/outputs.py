"""Output of recorded runs: files that outlive the daemon and yet cannot fill the disk while it lives."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from vmsh_scheduler.executors.capture import HEAD, TAIL, Kept

_BLOCK = 4096
_SLACK = 1024 * 1024
"""Bytes a stream may lie on disk beyond what is kept of it."""
_PIECE = 8 * 1024 * 1024
"""Bytes given back at a time: meanwhile nobody else can write to that file, or unlink it."""
_TRIM_S = 0.05
_PUNCH_KEEP_SIZE = 0b11

Punch = Callable[[int, int, int], bool]
"""Gives the blocks of (fd, offset, length) back; False where the file system cannot."""


class OutputFile:
    """An append file whose middle is given back to the file system while it grows.

    Holes instead of truncation: no byte can fall between reading and cutting, and the size stays the count."""

    __slots__ = ("_complete", "_dropped", "_head", "_lock", "_punched", "_tail", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._punched = HEAD
        self._dropped = 0
        self._head = b""
        self._tail = b""
        self._complete = False
        self._lock = threading.Lock()

    def overgrown(self) -> bool:
        """There is _SLACK of it that nobody wants."""
        return os.fstat(self.fd).st_size - self._punched >= _SLACK + TAIL

    def trim(self, fd: int, punch: Punch) -> None:
        """Free all but head and tail; where holes are unknown, remember those and cut to nothing.

        From any thread: `fd` is its own duplicate of ours. Raises OSError."""
        end = (os.fstat(fd).st_size - TAIL) // _BLOCK * _BLOCK
        while self._punched < end:
            stop = min(self._punched + _PIECE, end)
            if not punch(fd, self._punched, stop - self._punched):
                self._cut(fd)
                return
            self._punched = stop

    def complete(self) -> None:
        """Nothing more will come: from here on it is never cut, because what is kept of it will be read."""
        with self._lock:
            self._complete = True

    def kept(self) -> Kept:
        with self._lock:
            size = os.fstat(self.fd).st_size
            head = self._head or os.pread(self.fd, HEAD, 0)
            start = 0 if self._head else len(head)
            tail = self._tail + os.pread(self.fd, TAIL, max(start, size - TAIL))
            return Kept(head, tail[-TAIL:], self._dropped + size)

    def _cut(self, fd: int) -> None:
        with self._lock:
            if self._complete:
                return
            size = os.fstat(fd).st_size
            self._head = self._head or os.pread(fd, HEAD, 0)
            self._tail = os.pread(fd, TAIL, size - TAIL)
            self._dropped += size
            os.ftruncate(fd, 0)

    def held(self) -> bool:
        """Somebody still has the end that was locked and given to the shim."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        os.close(self.fd)


class Trimmer:
    """One timer for all output files that are being written to, none when there are none; and while one of them has
    overgrown a thread, because giving back a second's flood takes the kernel longer than the loop may stand still."""

    def __init__(self, punch: Punch) -> None:
        self._punch = punch
        self._files: set[OutputFile] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._overgrown: deque[tuple[OutputFile, int]] = deque()
        self._lock = threading.Lock()
        self._working = False

    @contextlib.contextmanager
    def over(self, *files: OutputFile) -> Iterator[None]:
        """While this lasts, `files` stay small on disk."""
        self._files.update(files)
        if self._timer is None:
            self._later()
        try:
            yield
        finally:
            self._files.difference_update(files)
            if not self._files and self._timer is not None:
                self._timer.cancel()
                self._timer = None
            for file in files:
                file.complete()
            self._hand_over(files)

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TRIM_S, self._look)

    def _look(self) -> None:
        if not self._working:
            self._hand_over(self._files)
        self._later()

    def _hand_over(self, files: Iterable[OutputFile]) -> None:
        """The thread has descriptors of its own, so that whoever closes or unlinks a file need not wait for it."""
        with contextlib.suppress(OSError):
            self._overgrown.extend((file, os.dup(file.fd)) for file in files if file.overgrown())
        with self._lock:
            if not self._overgrown or self._working:
                return
            self._working = True
        threading.Thread(target=self._work, name="trim", daemon=True).start()

    def _work(self) -> None:
        while (next_one := self._next()) is not None:
            file, fd = next_one
            with contextlib.suppress(OSError):
                file.trim(fd, self._punch)
            os.close(fd)

    def _next(self) -> tuple[OutputFile, int] | None:
        with self._lock:
            self._working = bool(self._overgrown)
            return self._overgrown.popleft() if self._working else None


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give blocks back, the size staying; False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate  # musl has only the latter
    result: int = fallocate(fd, _PUNCH_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length))
    return result == 0
