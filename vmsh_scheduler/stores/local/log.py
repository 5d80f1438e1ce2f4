"""The write-ahead log on disk: append, make durable, and never trust a descriptor that failed to sync."""

import os
from contextlib import suppress

from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.stores.local.directory import StateDirectory
from vmsh_scheduler.stores.local.records import Position, frame, header

ROTATE_AT = 4 << 20
UNSYNCED_CAP = 256 << 10


class LogFile:
    """Not thread-safe: one thread writes. Opens a new generation at its first line, never an old one.

    `written`: handed to the kernel; `synced`: on disk."""

    def __init__(self, directory: StateDirectory, after: Position, *, rotate_at: int = ROTATE_AT) -> None:
        self.written = self.synced = after
        self.syncs = 0
        self._directory = directory
        self._disk = directory.disk
        self._rotate_at = rotate_at
        self._fd = -1
        self._last_gen = max([after.gen, *directory.generations()])
        self._unsynced: list[str] = []
        self._unsynced_size = 0

    @property
    def ready(self) -> bool:
        """The next append without `durable` will not sync anything."""
        return self._fd >= 0 and self.written.offset < self._rotate_at and self._unsynced_size < UNSYNCED_CAP

    def append(self, payloads: list[str], *, durable: bool) -> None:
        """All of them or none. Raises StateWriteFailed."""
        if self._fd < 0 or self.written.offset >= self._rotate_at:
            self._rotate()
        before, full = self.written, self._unsynced_size >= UNSYNCED_CAP
        data = b"".join([frame(payload, before.gen) for payload in payloads])
        try:
            self._disk.write_all(self._fd, data)
        except OSError as error:
            self._take_back(before)
            raise self._failed("written", error) from error
        self.written = Position(before.gen, before.offset + len(data))
        self._unsynced += payloads
        self._unsynced_size += len(data)
        if durable or full:
            self._make_durable(before, len(payloads))

    def sync(self) -> None:
        """Everything written so far is durable afterwards. Raises StateWriteFailed."""
        if self._unsynced:
            self._make_durable(self.written, 0)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _make_durable(self, before: Position, fresh: int) -> None:
        """A failed fdatasync is never retried on its descriptor (the kernel may have dropped the pages and would
        report success): the same lines go to a new file. The last `fresh` lines fail with it, older ones wait."""
        try:
            self._sync_data()
        except OSError:
            self._abandon()
            try:
                self._begin()
            except StateWriteFailed:
                if fresh:
                    del self._unsynced[-fresh:]
                raise
        self._unsynced.clear()
        self._unsynced_size = 0
        self.synced = self.written

    def _rotate(self) -> None:
        if self._fd >= 0:
            self.sync()
        if self._fd < 0 or self.written.offset >= self._rotate_at:
            self.close()
            self._begin()
            self._unsynced.clear()
            self._unsynced_size = 0
            self.synced = self.written

    def _begin(self) -> None:
        """A new generation, durable with its directory entry before anything relies on it; it starts with the
        lines whose durability is in doubt."""
        gen = self._last_gen + 1
        self._last_gen = gen
        name = self._directory.wal(gen)
        data = header(gen, self.synced) + b"".join([frame(payload, gen) for payload in self._unsynced])
        try:
            self._fd = self._directory.create(name, append=True)
            self._disk.write_all(self._fd, data)
            self._sync_data()
            self._directory.sync()
        except OSError as error:
            self._abandon()
            with suppress(OSError):
                self._directory.remove(name)
            raise self._failed("begun", error) from error
        self.written = Position(gen, len(data))

    def _sync_data(self) -> None:
        self.syncs += 1
        self._disk.sync_data(self._fd)

    def _take_back(self, good: Position) -> None:
        try:
            self._disk.truncate(self._fd, good.offset)
        except OSError:
            self._cut_here(good)

    def _cut_here(self, good: Position) -> None:
        """The file ends in a torn line that cannot be removed: the next generation says where to stop."""
        with suppress(OSError):
            self._sync_data()
            self._unsynced.clear()
            self._unsynced_size = 0
            self.synced = good
        self._abandon()

    def _abandon(self) -> None:
        with suppress(OSError):
            self.close()
        self._fd = -1

    def _failed(self, what: str, error: OSError) -> StateWriteFailed:
        path = self._directory.path / self._directory.wal(self._last_gen)
        return StateWriteFailed(f"{path} cannot be {what}: {error.strerror}", hint="see df -h, df -i, mount and dmesg")
