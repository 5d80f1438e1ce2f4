"""The write-ahead log as the event loop sees it: lines are written at once, syncs are shared and run in a thread."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from vmsh_scheduler.clock import stopwatch
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.stores.local.log import Line, LogFile
from vmsh_scheduler.stores.local.records import Position
from vmsh_scheduler.stores.local.text import Payload

GATHER_S = 0.025
"""How long lines that may wait gather for one sync: at most 40 syncs a second, whatever the load."""

Settled = Callable[[StateWriteFailed | None], None]
"""Called on the loop, once; among entries of the same kind in the order of the appends."""


class Entry(NamedTuple):
    """Lines that are acknowledged together, and who is told."""

    payloads: list[Payload]
    settled: Settled
    durable: bool
    soon: bool


class Wal:
    """Writing to the page cache takes microseconds and is the loop's; only a disk makes anybody wait.

    While a new file is begun (the first line, rotation, a failed sync), what comes in queues up behind it."""

    def __init__(self, log: LogFile) -> None:
        self.syncs = 0
        self.sync_seconds = 0.0
        self.trouble = ""
        """Why a file was given up: the disk under it may be dying."""
        self._log = log
        self._waiting: list[tuple[Position, Entry]] = []
        """Written up to there; told once that is synced."""
        self._queued: list[Entry] = []
        """Not written yet: in no hurry, or a new file is being begun."""
        self._hurried = 0
        """Entries of both that share no sync later."""
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

    def append(self, payloads: list[Payload], settled: Settled, *, durable: bool, soon: bool = False) -> None:
        """`durable`: told once on disk, at once unless `soon`, which shares a sync within GATHER_S. Otherwise told
        before this returns, unless a new file is being begun."""
        if not payloads and self.settled:
            settled(None)
            return
        entry = Entry(payloads, settled, durable, soon)
        self._hurried += not soon
        if soon or self._beginning or not self._log.ready:
            self._queued.append(entry)
        else:
            self._write_all([entry])
        self._plan()

    def close(self) -> None:
        """After the last append settled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._disk.shutdown()
        self._log.close()

    def _write_all(self, more: list[Entry]) -> None:
        """What is queued and then `more`, in one write: lines stay in the order of the appends."""
        entries, self._queued = self._queued + more, []
        lines = [Line(payload, not entry.durable) for entry in entries for payload in entry.payloads]
        try:
            self._log.append(lines)
        except StateWriteFailed as error:
            self._tell(entries, error)
            return
        self._waiting += [(self._log.written, entry) for entry in entries if entry.durable]
        self._tell([entry for entry in entries if not entry.durable])

    def _tell_synced(self) -> None:
        """What is on disk is never told as refused, whatever fails after it."""
        synced = [entry for position, entry in self._waiting if position <= self._log.synced]
        del self._waiting[: len(synced)]
        self._tell(synced)

    def _tell(self, entries: list[Entry], error: StateWriteFailed | None = None) -> None:
        for entry in entries:
            self._hurried -= not entry.soon
            entry.settled(error)

    def _plan(self) -> None:
        """A round of syncs now, or once enough has gathered."""
        if self._round is not None or not (self._queued or self._waiting):
            return
        if self._hurried:
            self._begin_round()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._begin_round)

    def _begin_round(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._round is None:
            self._round = asyncio.get_running_loop().create_task(self._sync_all())

    async def _sync_all(self) -> None:
        try:
            await self._sync_or_begin()
            while self._hurried:
                await self._sync_or_begin()
        finally:
            self._round = None
            self._plan()

    async def _sync_or_begin(self) -> None:
        if not self._log.ready:
            await self._begin()
            return
        if self._queued:
            self._write_all([])
        position, lines = self._log.written, len(self._log.lines)
        try:
            await self._timed(self._log.sync)
        except OSError as error:
            self.trouble = f"a log could not be synced ({error.strerror}); a new one was begun, see dmesg"
            self._log.abandon()
            await self._begin()
            return
        self._log.reached(position, lines)
        self._tell_synced()

    async def _begin(self) -> None:
        """A new file that holds whatever is in doubt; if there can be none, everything fails that the old one does not
        hold for sure."""
        self._beginning = True
        error = None
        try:
            await self._timed(self._log.begin)
        except StateWriteFailed as failure:
            error = failure
        self._beginning = False
        self._tell_synced()
        if error is None:
            self._write_all([])
            return
        refused = [*(entry for _, entry in self._waiting), *self._queued]
        self._waiting, self._queued = [], []
        self._tell(refused, error)

    async def _timed(self, work: Callable[[], None]) -> None:
        """One wait for the disk, counted: what a slow one costs has to be seen."""
        began = stopwatch()
        try:
            await asyncio.get_running_loop().run_in_executor(self._disk, work)
        finally:
            self.syncs += 1
            self.sync_seconds += stopwatch() - began
