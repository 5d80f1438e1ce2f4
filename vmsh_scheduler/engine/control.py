"""What a person may do to a job: run it now, hold it, let it go, say what became of it."""

from shlex import quote

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.explain import resume_agent
from vmsh_scheduler.domain.job import Job, Origin, Overlap
from vmsh_scheduler.domain.run import Cause
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.engine import Engine
from vmsh_scheduler.errors import NotFound, StateWriteFailed, Usage
from vmsh_scheduler.ports import Change

VERDICTS = ("ok", "failed", "retry")


class Control:
    """Every operation is one durable change with a note in the journal that says who did it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._board = engine.board

    async def fire(self, job_id: str, *, by: str) -> Millis:
        """Run now; a job that waits out a backoff keeps its slot and key. Returns the slot."""
        job, state, now = await self._job(job_id)
        _refuse(job, state)
        if job_id in self._board.waiting or (state.runs and job.policy.overlap is not Overlap.ALLOW):
            raise Usage(f"{job_id} is running already", hint="wait for it")
        if state.slot is None or state.under_way:
            state = plan.reopen(state, plan.manual_slot(state, now, job.trigger), now, Cause.MANUAL)
        state = state._replace(ready_at=now)
        await self._write(job, state, Note("trigger", now, job_id, {"by": by, "slot": state.slot}))
        return state.slot or now

    async def pause(self, job_id: str, *, until: Millis | None, note: str, by: str) -> None:
        """No slot fires until `until` or `resume`; what runs goes on."""
        job, state, now = await self._job(job_id)
        if until is not None and until <= now:
            raise Usage("the end of the pause is in the past", hint="give a later --until")
        pause = Pause(now, until, note[:500], by[:120])
        details: dict[str, object] = {"by": by, "until": until, "note": note[:500]}
        await self._write(job, state._replace(pause=pause), Note("pause", now, job_id, details))

    async def resume(self, job_id: str, *, by: str) -> None:
        """Slots fire again; what passed meanwhile was journaled as skipped."""
        job, state, now = await self._job(job_id)
        await self._write(job, state._replace(pause=None), Note("resume", now, job_id, {"by": by}))

    async def reset(self, job_id: str, *, by: str) -> None:
        """Forget the backoff of one job; its open slot is tried at once."""
        job, state, now = await self._job(job_id)
        await self._write(job, plan.reset(state, now), Note("reset", now, job_id, {"by": by}))

    async def resolve(self, run_id: str, verdict: str, *, by: str) -> str:
        """Say what became of an unknown run that is held: ok, failed or retry. Returns its job."""
        if verdict not in VERDICTS:
            raise Usage(f"{verdict!r} is no verdict", hint=f"use one of {', '.join(VERDICTS)}")
        for job_id in self._board.jobs:
            if not self._holds(job_id, run_id):
                continue
            job, state, now = await self._job(job_id)
            if self._holds(job_id, run_id):
                note = Note("resolve", now, job_id, {"by": by, "run": run_id, "as": verdict})
                await self._write(job, plan.resolve(job, state, verdict, now), note)
                return job_id
            break
        raise NotFound(f"no held run {run_id}", hint="`status` lists the runs that wait for an answer")

    def _holds(self, job_id: str, run_id: str) -> bool:
        held = self._board.state(job_id).held
        return held is not None and held.id == run_id

    async def _job(self, job_id: str) -> tuple[Job, JobState, Millis]:
        """What is said now is said of a state that nobody can take back."""
        await self._board.sure(job_id)
        job = self._board.jobs.get(job_id)
        if job is None:
            raise NotFound(f"no job {job_id}", hint="`status` lists them all")
        return job, self._board.state(job_id), self._board.clock.now()

    async def _write(self, job: Job, state: JobState, note: Note) -> None:
        """The job leaves the queue first: it is decided anew with what was just said, or without it."""
        await self._board.withdraw(job.id)
        try:
            written = await self._board.commit([Change(job.id, state, notes=(note,))])
        finally:
            await self._board.reschedule(job.id)
            self._engine.wake()
        if not written:
            raise StateWriteFailed(f"not done: {self._board.write_error}", hint="free the state directory first")


def _refuse(job: Job, state: JobState) -> None:
    """Raises Usage when a trigger would start nothing."""
    if not job.enabled and job.origin is Origin.API:
        raise Usage(f"the agent of {job.id} is paused", hint=f"first: {resume_agent(job.id)}")
    if not job.enabled:
        raise Usage(f"{job.id} is switched off in its file", hint="switch it on there first")
    if state.pause is not None:
        raise Usage(f"{job.id} is paused", hint=f"first: vmsh-scheduler resume {quote(job.id)}")
    if state.held is not None:
        raise Usage(f"{job.id} is held by unknown run {state.held.id}", hint="resolve that run first")
