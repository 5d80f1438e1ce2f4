"""The write-ahead log on disk: append, make durable, and never trust a descriptor that failed to sync."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.stores.local.directory import StateDirectory
from vmsh_scheduler.stores.local.records import Position, frame, header
from vmsh_scheduler.stores.local.text import Fact, Payload

ROTATE_AT = 4 << 20
UNSYNCED_CAP = 8 << 20
"""Bytes that may wait for a disk that does not answer; more of them are refused."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of the log that is on disk now, and all that the journal takes from it."""

    start: Position
    end: Position
    facts: list[Fact]


OnSynced = Callable[[Stretch], None]
"""Called in the order of the log; by any thread, never by two at a time."""


@dataclass(slots=True, eq=False)
class Line:
    """One payload, written or about to be, that is not known to be on disk."""

    payload: Payload
    acknowledged: bool
    """Somebody was told of it already: a new log begins with it. The others fail together with their sync."""


class LogFile:
    """`append` and `reached` are the loop's; `sync` may run in a thread beside them, `begin` only without them.

    `written`: handed to the kernel; `synced`: on disk."""

    def __init__(
        self, directory: StateDirectory, after: Position, on_synced: OnSynced, *, rotate_at: int = ROTATE_AT
    ) -> None:
        self.written = self.synced = after
        self._on_synced = on_synced
        self.lines: list[Line] = []
        """Written and not synced, oldest first."""
        self._size = 0
        self._directory = directory
        self._disk = directory.disk
        self._rotate_at = rotate_at
        self._fd = -1
        self._torn = False
        self._last_gen = max([after.gen, *directory.generations()])

    @property
    def ready(self) -> bool:
        """False: `begin` comes before the next append."""
        return self._fd >= 0 and not self._torn and self.written.offset < self._rotate_at

    def append(self, lines: list[Line]) -> None:
        """All of them or none, into the page cache. Raises StateWriteFailed."""
        if self._size > UNSYNCED_CAP:
            raise StateWriteFailed("the disk does not take what was written", hint="see dmesg and iostat")
        before = self.written
        data = b"".join([frame(line.payload.text, before.gen) for line in lines])
        try:
            self._disk.write_all(self._fd, data)
        except OSError as error:
            self._take_back(before)
            raise self._failed("written", error) from error
        self.written = Position(before.gen, before.offset + len(data))
        self.lines += lines
        self._size += len(data)

    def sync(self) -> None:
        """Everything written before the call is on disk. Raises OSError; then this file must not be used again:
        the kernel may have dropped the pages, and would report success next time."""
        self._disk.sync_data(self._fd)

    def reached(self, position: Position, lines: int) -> None:
        """A sync that began when `lines` lines up to `position` were written has succeeded; news of a file that
        was given up meanwhile is old."""
        if position <= self.synced:
            return
        self._advance(position, self.lines[:lines])
        del self.lines[:lines]
        if not self.lines:
            self._size = 0

    def begin(self) -> None:
        """A new generation, durable with its directory entry before anything relies on it; it starts with the
        lines whose durability is in doubt. Raises StateWriteFailed: only acknowledged lines are left waiting."""
        if self._fd >= 0:
            self._finish()
        gen = self._last_gen + 1
        self._last_gen = gen
        name = self._directory.wal(gen)
        data = header(gen, self.synced) + b"".join([frame(line.payload.text, gen) for line in self.lines])
        try:
            self._fd = self._directory.create(name, append=True)
            self._disk.write_all(self._fd, data)
            self.sync()
            self._directory.sync()
        except OSError as error:
            self.abandon()
            self.lines = [line for line in self.lines if line.acknowledged]
            with suppress(OSError):
                self._directory.remove(name)
            raise self._failed("begun", error) from error
        self.written = Position(gen, len(data))
        self._advance(self.written, self.lines)
        self.lines.clear()
        self._size = 0

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def abandon(self) -> None:
        """Nothing is written to this file any more."""
        with suppress(OSError):
            self.close()
        self._fd, self._torn = -1, False

    def _advance(self, position: Position, lines: list[Line]) -> None:
        before, self.synced = self.synced, position
        self._on_synced(Stretch(before, position, [fact for line in lines for fact in line.payload.facts]))

    def _finish(self) -> None:
        """The old generation is left whole; when that fails, its last lines go to the new one."""
        with suppress(OSError):
            self.sync()
            self.reached(self.written, len(self.lines))
        self.abandon()

    def _take_back(self, good: Position) -> None:
        """A torn line that cannot be removed is the end of its file: the next generation says where to stop."""
        try:
            self._disk.truncate(self._fd, good.offset)
        except OSError:
            self._torn = True

    def _failed(self, what: str, error: OSError) -> StateWriteFailed:
        path = self._directory.path / self._directory.wal(self._last_gen)
        return StateWriteFailed(f"{path} cannot be {what}: {error.strerror}", hint="see df -h, df -i, mount and dmesg")
