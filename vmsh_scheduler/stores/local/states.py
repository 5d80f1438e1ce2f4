"""ports.States on disk: memory for reading, the write-ahead log for every change, a snapshot now and then."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Change, Clock
from vmsh_scheduler.stores.local.directory import StateDirectory
from vmsh_scheduler.stores.local.load import Condition, Opened
from vmsh_scheduler.stores.local.log import LogFile, OnSynced
from vmsh_scheduler.stores.local.records import Position
from vmsh_scheduler.stores.local.snapshot import Blocks, Meta, render
from vmsh_scheduler.stores.local.text import Payload, change_payload, to_text
from vmsh_scheduler.stores.local.wal import Wal

SNAPSHOT_EVERY_S = 1.0
SNAPSHOT_SHARE = 50
"""A snapshot that took t is not followed by another for 50 t: at most 2 % of the time."""


@dataclass(slots=True)
class _Doubt:
    """A job with changes that are not acknowledged yet, and the newest state that is."""

    state: JobState | None
    number: int = 0
    """Of the change that made `state`."""
    open: dict[int, JobState | None] = field(default_factory=dict)
    """What the others would make of it, by their numbers, oldest first."""

    def settle(self, number: int, *, written: bool) -> JobState | None:
        """What is shown from now on. Acknowledgements may overtake each other: a state is never replaced by an older
        one; and a change that is refused takes nothing from those before it, which still wait."""
        made = self.open.pop(number, None)
        if written and number > self.number:
            self.state, self.number = made, number
        newest = next(reversed(self.open), 0)
        return self.open[newest] if newest > self.number else self.state


class LocalStates:
    """Memory shows the newest state at once; a change that fails takes its job back to what was acknowledged.

    `snapshot_error`: why the last snapshot could not be written ("" = it could); the log holds everything anyway."""

    def __init__(self, directory: StateDirectory, opened: Opened, clock: Clock, on_synced: OnSynced) -> None:
        self.fence = opened.fence
        self.config_hash = opened.config_hash
        self.snapshot_error = ""
        self._directory = directory
        self._clock = clock
        self._wal = Wal(LogFile(directory, opened.end, on_synced))
        self._current = dict(opened.states)
        self._doubts: dict[str, _Doubt] = {}
        self._count = 0
        self._failures = 0
        self._blocks = Blocks(self._current)
        self._bases = (opened.base, opened.base)
        self._dirty = _unsaved(opened)
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._saving: asyncio.Task[None] | None = None
        self._one_save = asyncio.Lock()
        self._pause_s = SNAPSHOT_EVERY_S
        self.on_saved: Callable[[], None] = _nothing

    @property
    def synced(self) -> Position:
        return self._wal.synced

    @property
    def log_trouble(self) -> str:
        return self._wal.trouble

    @property
    def writes(self) -> tuple[int, float]:
        """Durable writes of the log so far, and the seconds they took."""
        return self._wal.syncs, self._wal.sync_seconds

    @property
    def oldest_needed(self) -> int:
        """Logs of older generations are needed by neither snapshot."""
        return min(base.gen for base in self._bases)

    def get(self, job_id: str) -> JobState | None:
        return self._current.get(job_id)

    def all(self) -> Mapping[str, JobState]:
        return dict(self._current)

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        """A change that need not be durable, of a job with one that is not acknowledged, is computed over that one:
        it shares the next sync, and fails with it."""
        if not changes:
            return
        if not durable and any(change.job_id in self._doubts for change in changes):
            durable = soon = True
        self._count += 1
        number, payloads = self._count, []
        for change in changes:
            payloads.append(change_payload(change))
            self._doubt(change.job_id).open[number] = change.state
            self._show(change.job_id, change.state)
        await self._written(payloads, lambda error: self._settle(changes, number, error), durable=durable, soon=soon)

    async def raise_fence(self, fence: int) -> None:
        """Durable before anybody is told (decision 33). Raises StateWriteFailed."""
        await self._written([Payload(to_text({"fence": fence}))], lambda error: None, durable=True)
        self.fence = max(self.fence, fence)
        self._touch()

    def note_config(self, digest: str) -> None:
        """The snapshot names the configuration it belongs to."""
        if digest != self.config_hash:
            self.config_hash = digest
            self._touch()

    async def save(self) -> None:
        """A snapshot now, if anything changed. Raises StateWriteFailed; the log holds everything anyway."""
        if self._saving is not None:
            await asyncio.wait({self._saving})
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._wal.settled:
            await self._written([], lambda error: None, durable=True)
        if self._dirty:
            await self._save()

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        try:
            await self.save()
        finally:
            self._wal.close()

    async def _written(
        self,
        payloads: list[Payload],
        settle: Callable[[StateWriteFailed | None], None],
        *,
        durable: bool,
        soon: bool = False,
    ) -> None:
        """`settle` runs on the loop whether or not the caller is still waiting."""
        told: list[StateWriteFailed | None] = []
        answer: asyncio.Future[None] | None = None

        def settled(error: StateWriteFailed | None) -> None:
            settle(error)
            told.append(error)
            if answer is not None and not answer.done():
                answer.set_result(None)

        self._wal.append(payloads, settled, durable=durable, soon=soon)
        if not told:
            answer = asyncio.get_running_loop().create_future()
            await answer
        if told[0] is not None:
            raise told[0]

    def _doubt(self, job_id: str) -> _Doubt:
        doubt = self._doubts.get(job_id)
        if doubt is None:
            doubt = self._doubts[job_id] = _Doubt(self._current.get(job_id))
        return doubt

    def _settle(self, changes: Sequence[Change], number: int, error: StateWriteFailed | None) -> None:
        for job_id in {change.job_id: None for change in changes}:
            doubt = self._doubts[job_id]
            shown = doubt.settle(number, written=error is None)
            if error is not None:
                self._failures += 1
                self._show(job_id, shown)
            if not doubt.open:
                del self._doubts[job_id]
        if error is None:
            self._touch()

    def _show(self, job_id: str, state: JobState | None) -> None:
        """What the next snapshot holds may be ahead of what was acknowledged, never behind it."""
        if state is None:
            self._current.pop(job_id, None)
        else:
            self._current[job_id] = state
        self._blocks.touch(job_id)

    def _touch(self) -> None:
        self._dirty = True
        if self._timer is None and self._saving is None and not self._closing:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._save_soon)

    def _save_soon(self) -> None:
        self._timer = None
        self._saving = asyncio.get_running_loop().create_task(self._save_quietly())

    async def _save_quietly(self) -> None:
        try:
            await self._save()
        except StateWriteFailed as error:
            self.snapshot_error = str(error)
        finally:
            self._saving = None
            if self._dirty:
                self._touch()

    async def _save(self) -> None:
        """The log was synced up to a position; the texts hold at least that much, and replaying more is harmless.
        They are published once the log holds all of them: a state comes with its journal rows or not at all."""
        async with self._one_save:
            await self._save_alone()

    async def _save_alone(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        self._dirty = False
        meta = Meta(self._wal.synced, self.fence, self.config_hash, self._clock.now())
        self._blocks.take()
        try:
            await self._all_logged()
            await asyncio.to_thread(self._replace, meta)
        except OSError as error:
            self._dirty = True
            path = self._directory.path / self._directory.snapshot
            raise StateWriteFailed(
                f"{path} cannot be replaced: {error.strerror}", hint="see df, mount and lsattr"
            ) from error
        except StateWriteFailed:
            self._dirty = True
            raise
        finally:
            self._pause_s = max(SNAPSHOT_EVERY_S, SNAPSHOT_SHARE * (loop.time() - began))
        self.snapshot_error = ""
        self._bases = (self._bases[1], meta.position)
        self.on_saved()

    async def _all_logged(self) -> None:
        """Raises StateWriteFailed if anything that is shown now does not get there."""
        failures = self._failures
        await self._written([], lambda error: None, durable=True)
        if self._failures != failures:
            raise StateWriteFailed("a change failed while a snapshot was taken", hint="it is tried again")

    def _replace(self, meta: Meta) -> None:
        parts = render(meta, *self._blocks.pieces())
        self._directory.replace(self._directory.snapshot, *parts, keep_as=self._directory.previous)


def _unsaved(opened: Opened) -> bool:
    """A loss stays a loss on disk until somebody acted on it (decision 18)."""
    if opened.condition is Condition.LOST:
        return False
    return opened.condition is Condition.RECOVERED or opened.base != opened.end


def _nothing() -> None:
    """Nobody wants to know."""
