"""The write-ahead log as the event loop sees it: lines of one loop turn go to one thread, which groups its syncs."""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

from vmsh_scheduler.clock import stopwatch
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.stores.local.log import LogFile
from vmsh_scheduler.stores.local.records import Position

Settled = Callable[[StateWriteFailed | None], None]
"""Called on the loop, in the order of the appends."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Lines that are acknowledged together, and who is told."""

    payloads: list[str]
    durable: bool
    settled: Settled
    epoch: int


Batch = Sequence[Entry]
Results = list[tuple[Entry, StateWriteFailed | None]]


class Wal:
    """A failure fails everything appended until the loop has heard of it: later lines were built on the lost ones."""

    def __init__(self, log: LogFile) -> None:
        self.written = self.synced = log.synced
        self.pending = 0
        self.syncs = 0
        self.sync_seconds = 0.0
        self._log = log
        self._epoch = 0
        self._failed_epoch = -1
        self._turn: list[Entry] = []
        self._queue: SimpleQueue[Batch | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def append(self, payloads: list[str], settled: Settled, *, durable: bool) -> None:
        if not self._turn:
            self._started().call_soon(self._hand_over)
        self.pending += 1
        self._turn.append(Entry(payloads, durable, settled, self._epoch))

    def sync(self, settled: Settled) -> None:
        """Settles once everything appended before is durable."""
        self.append([], settled, durable=True)

    def close(self) -> None:
        """After the last append settled."""
        self._stop()
        self._loop = None
        self._log.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._stop()
            self._loop = loop
            self._thread = threading.Thread(target=self._serve, args=(loop,), name="wal", daemon=True)
            self._thread.start()
        return loop

    def _stop(self) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _hand_over(self) -> None:
        """Lines that need no sync are written right here while the thread is idle: a tenth of the price."""
        turn, self._turn = self._turn, []
        if self.pending > len(turn) or any(entry.durable for entry in turn) or not self._log.ready:
            self._queue.put(turn)
        else:
            self._resolve(self._write(turn), self._log.written, self._log.synced)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        while (batch := self._queue.get()) is not None:
            results = self._write(self._with_waiting(batch))
            with suppress(RuntimeError):  # the loop was closed on us: nobody is left to hear it
                loop.call_soon_threadsafe(self._resolve, results, self._log.written, self._log.synced)

    def _with_waiting(self, batch: Batch) -> Batch:
        entries = list(batch)
        while not self._queue.empty():
            more = self._queue.get()
            if more is None:
                self._queue.put(None)
                break
            entries += more
        return entries

    def _write(self, entries: Batch) -> Results:
        """Every entry in one write and at most one sync."""
        floor = self._failed_epoch
        live = [entry for entry in entries if entry.epoch > floor]
        error = self._append(live) if live else None
        if error is not None:
            self._failed_epoch = max(entry.epoch for entry in live)
        gone = StateWriteFailed("a change before this one could not be written", hint="it is tried again")
        return [(entry, error if entry.epoch > floor else gone) for entry in entries]

    def _append(self, entries: Batch) -> StateWriteFailed | None:
        payloads = [payload for entry in entries for payload in entry.payloads]
        durable = any(entry.durable for entry in entries)
        try:
            if payloads:
                self._log.append(payloads, durable=durable)
            if durable:
                self._synced()
        except StateWriteFailed as error:
            return error
        except OSError as error:
            return StateWriteFailed(f"the log cannot be written: {os.strerror(error.errno or 0)}")
        return None

    def _synced(self) -> None:
        """One fdatasync, counted and timed: what a slow disk costs has to be seen."""
        began = stopwatch()
        self._log.sync()
        self.syncs += 1
        self.sync_seconds += stopwatch() - began

    def _resolve(self, results: Results, written: Position, synced: Position) -> None:
        self.written, self.synced = written, synced
        if any(error is not None for _, error in results):
            self._epoch += 1
        for entry, error in results:
            self.pending -= 1
            entry.settled(error)
