"""Jobs planned anew: they are new, changed, or the wall clock was set. What is not written is tried again."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.board import Anew, Board
from vmsh_scheduler.ports import Change

SLICE = 200
"""Jobs handled between two looks at the rest of the world."""


class Planner:
    """A job stands in `board.unplanned` until its new plan is written, so that no refusal makes it forgotten."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def admit(self, ids: Sequence[str], *, lost: bool) -> None:
        """Jobs that are new or changed. What waits for a permit waits no longer: it may have another command."""
        for some in _sliced(ids):
            await self._plan({id: Anew(lost=lost or self._anew(id).lost) for id in some})
            await asyncio.sleep(0)

    async def clock_step(self, by: Millis) -> None:
        """Every job within its own period (decision 2); what is not even admitted is admitted by the new clock."""
        for some in _sliced(list(self._board.jobs)):
            await self._plan({id: self._anew(id, by) for id in some})
            await asyncio.sleep(0)

    async def again(self, ids: Sequence[str]) -> None:
        """What could not be written before."""
        await self._plan({id: self._board.unplanned[id] for id in ids})

    def _anew(self, job_id: str, by: Millis = 0) -> Anew:
        """Another object each time: a plan on its way, made by the clock before, settles nothing of it."""
        before = self._board.unplanned.get(job_id, Anew(0))
        return replace(before) if before.step is None else Anew(before.step + by)

    async def _plan(self, why: Mapping[str, Anew]) -> None:
        """All in one change. A job of which something waits for its answer is left for later, as one refused."""
        why = {id: anew for id, anew in why.items() if id in self._board.jobs}
        self._board.unplanned.update(why)
        sure, changes = [], []
        for job_id, anew in why.items():
            if anew.step is None:
                await self._board.withdraw(job_id)
            if self._board.unsure(job_id):
                await self._board.postpone(job_id)
                continue
            sure.append(job_id)
            job = self._board.jobs.get(job_id)
            change = None if job is None else self._change(job, self._board.state(job_id), anew)
            if change is not None:
                changes.append(change)
        written = not changes or await self._board.commit_over(changes, durable=False)
        refused = frozenset() if written else frozenset(change.job_id for change in changes)
        for job_id in sure:
            await self._planned(job_id, why[job_id], written=job_id not in refused)

    async def _planned(self, job_id: str, anew: Anew, *, written: bool) -> None:
        if not written:
            await self._board.postpone(job_id)
            return
        if self._board.unplanned.get(job_id) is anew:
            del self._board.unplanned[job_id]
        await self._board.reschedule(job_id)

    def _change(self, job: Job, before: JobState, anew: Anew) -> Change | None:
        """None: the plan that it has will do."""
        now = self._board.clock.now()
        if anew.step is not None:
            state = plan.clamp(job, before, now)
            note = Note("clock_step", now, job.id, {"by_ms": anew.step})
            return None if state == before else Change(job.id, state, notes=(note,))
        state = plan.admit(job, before, now, lost=anew.lost)
        missed = plan.lost_slot(job, now) if anew.lost and before.revision != job.revision else None
        return None if state == before else Change(job.id, state, () if missed is None else (missed,))


def _sliced(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + SLICE] for start in range(0, len(ids), SLICE))
