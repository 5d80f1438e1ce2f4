"""Writes lines to a descriptor without ever waiting: a stuck or vanished reader costs log lines, never a start."""

import errno
import os
import select
from collections import deque

PENDING_LIMIT = 1 << 20
"""Bytes kept for a reader that is slow just now."""
CHUNK = 4096
"""PIPE_BUF: what a pipe that polls writable takes at once (pipe(7))."""


class LineWriter:
    """Lines go out whole and in order; those that do not fit into the pending bytes are dropped and counted."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)
        self._pending: deque[bytes] = deque()
        self._size = 0
        self.dropped = 0

    def write(self, line: bytes) -> None:
        if self._size + len(line) > PENDING_LIMIT:
            self.dropped += 1
        else:
            self._pending.append(line)
            self._size += len(line)
        self.flush()

    def flush(self, wait_ms: int = 0) -> bool:
        """Hand over what the reader takes; `wait_ms`: patience for each 4 KB. True: nothing is left."""
        while self._pending and self._writable(wait_ms):
            try:
                self._advance(os.write(self._fd, self._pending[0][:CHUNK]))
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._give_up(error)
        return not self._pending

    def _writable(self, wait_ms: int) -> bool:
        return any(event & (select.POLLOUT | select.POLLERR | select.POLLHUP) for _, event in self._polled(wait_ms))

    def _polled(self, wait_ms: int) -> list[tuple[int, int]]:
        try:
            return self._poll.poll(wait_ms)
        except OSError:
            return []

    def _advance(self, written: int) -> None:
        rest = self._pending[0][written:]
        self._size -= written
        if rest:
            self._pending[0] = rest
        else:
            self._pending.popleft()

    def _give_up(self, error: OSError) -> None:
        """EPIPE: nobody reads any more. ENOSPC and EIO may pass: only the line at hand is lost."""
        lost = len(self._pending) if error.errno in {errno.EPIPE, errno.EBADF} else 1
        self.dropped += lost
        for _ in range(lost):
            self._size -= len(self._pending.popleft())
