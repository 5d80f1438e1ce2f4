"""The write-ahead log as the event loop sees it: lines are written at once, syncs are shared and run in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vmsh_scheduler.clock import stopwatch
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.stores.local.log import LogFile
from vmsh_scheduler.stores.local.records import Position

GATHER_S = 0.025
"""How long lines that may wait gather for one sync: at most 40 syncs a second, whatever the load."""

Settled = Callable[[StateWriteFailed | None], None]
"""Called on the loop, once; among entries of the same kind in the order of the appends."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Lines that are acknowledged together, and who is told."""

    payloads: list[str]
    settled: Settled
    durable: bool
    soon: bool


class Wal:
    """Writing to the page cache takes microseconds and is the loop's; only a disk makes anybody wait.

    While a new file is begun (the first line, rotation, a failed sync), what comes in queues up behind it."""

    def __init__(self, log: LogFile) -> None:
        self.syncs = 0
        self.sync_seconds = 0.0
        self._log = log
        self._waiting: list[Entry] = []
        """Written; told once synced."""
        self._queued: list[Entry] = []
        """Not written yet."""
        self._beginning = False
        self._round: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._disk = ThreadPoolExecutor(1, "wal")

    @property
    def written(self) -> Position:
        return self._log.written

    @property
    def synced(self) -> Position:
        return self._log.synced

    @property
    def settled(self) -> bool:
        """Everything that was appended is on disk or has failed."""
        return not (self._waiting or self._queued or self._round) and self.written == self.synced

    def append(self, payloads: list[str], settled: Settled, *, durable: bool, soon: bool = False) -> None:
        """`durable`: told once on disk, at once unless `soon`, which shares a sync within GATHER_S. Otherwise told
        before this returns, unless a new file is being begun."""
        if not payloads and self.settled:
            settled(None)
            return
        entry = Entry(payloads, settled, durable, soon)
        if self._beginning or not self._log.ready:
            self._queued.append(entry)
        else:
            self._write(entry)
        self._plan()

    def close(self) -> None:
        """After the last append settled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._disk.shutdown()
        self._log.close()

    def _write(self, entry: Entry) -> None:
        try:
            self._log.append(entry.payloads, acknowledged=not entry.durable)
        except StateWriteFailed as error:
            entry.settled(error)
            return
        if entry.durable:
            self._waiting.append(entry)
        else:
            entry.settled(None)

    def _plan(self) -> None:
        """A round of syncs now, or once enough has gathered."""
        if self._round is not None or not (self._queued or self._waiting):
            return
        if self._urgent():
            self._begin_round()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._begin_round)

    def _urgent(self) -> bool:
        return bool(self._queued) or any(not entry.soon for entry in self._waiting)

    def _begin_round(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._round is None:
            self._round = asyncio.get_running_loop().create_task(self._sync_all())

    async def _sync_all(self) -> None:
        try:
            await self._sync_or_begin()
            while self._urgent():
                await self._sync_or_begin()
        finally:
            self._round = None
            self._plan()

    async def _sync_or_begin(self) -> None:
        if self._queued or not self._log.ready:
            await self._begin()
            return
        batch, self._waiting = self._waiting, []
        position, lines = self._log.written, len(self._log.lines)
        try:
            await self._timed(self._log.sync)
        except OSError:
            self._waiting = batch + self._waiting
            self._log.abandon()
            await self._begin()
            return
        self._log.reached(position, lines)
        for entry in batch:
            entry.settled(None)

    async def _begin(self) -> None:
        """A new file that holds whatever is in doubt; if there can be none, everything that waits fails."""
        self._beginning = True
        error = None
        try:
            await self._timed(self._log.begin)
        except StateWriteFailed as failure:
            error = failure
        self._beginning = False
        waiting, self._waiting = self._waiting, []
        queued, self._queued = self._queued, []
        for entry in waiting:
            entry.settled(error)
        for entry in queued:
            if error is None and self._log.ready:
                self._write(entry)
            else:
                entry.settled(error or StateWriteFailed("the log cannot be written", hint="it is tried again"))

    async def _timed(self, work: Callable[[], None]) -> None:
        """One wait for the disk, counted: what a slow one costs has to be seen."""
        began = stopwatch()
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, work)
        finally:
            self.syncs += 1
            self.sync_seconds += stopwatch() - began
