"""Output of recorded runs: files that outlive the daemon and yet cannot fill the disk while it lives."""

import asyncio
import contextlib
import ctypes
import fcntl
import os
from collections.abc import Callable, Iterator

from vmsh_scheduler.executors.capture import HEAD, TAIL, Kept

_BLOCK = 4096
_SLACK = 1024 * 1024
"""Bytes a stream may lie on disk beyond what is kept of it."""
_TRIM_S = 0.05
_PUNCH_KEEP_SIZE = 0b11

Punch = Callable[[int, int, int], bool]
"""Gives the blocks of (fd, offset, length) back; False where the file system cannot."""


class OutputFile:
    """An append file whose middle is given back to the file system while it grows.

    Holes instead of truncation: no byte can fall between reading and cutting, and the size stays the count."""

    __slots__ = ("_dropped", "_head", "_punched", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._punched = 0
        self._dropped = 0
        self._head = b""

    def trim(self, punch: Punch) -> None:
        """Free all but head and tail once there is _SLACK of it; where holes are unknown, cut to nothing."""
        size = os.fstat(self.fd).st_size
        if size - max(self._punched, HEAD) < _SLACK + TAIL:
            return
        end = (size - TAIL) // _BLOCK * _BLOCK
        if punch(self.fd, HEAD, end - HEAD):
            self._punched = end
            return
        self._head = self._head or os.pread(self.fd, HEAD, 0)
        self._dropped += size
        os.ftruncate(self.fd, 0)

    def kept(self) -> Kept:
        size = os.fstat(self.fd).st_size
        head = self._head or os.pread(self.fd, HEAD, 0)
        start = 0 if self._head else len(head)
        tail = os.pread(self.fd, TAIL, max(start, size - TAIL))
        return Kept(head, tail, self._dropped + size)

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
    """One timer for all output files that are being written to; none when there are none."""

    def __init__(self, punch: Punch) -> None:
        self._punch = punch
        self._files: set[OutputFile] = set()
        self._timer: asyncio.TimerHandle | None = None

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

    def _later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_TRIM_S, self._trim)

    def _trim(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):
                file.trim(self._punch)
        self._later()


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give blocks back, the size staying; False where the file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    fallocate = getattr(libc, "fallocate64", None) or libc.fallocate  # musl has only the latter
    result: int = fallocate(fd, _PUNCH_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(length))
    return result == 0
