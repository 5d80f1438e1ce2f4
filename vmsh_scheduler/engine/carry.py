"""One run from its permit to its settled state: find, intend, execute, settle; and the same after a crash."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.action import Action
from vmsh_scheduler.domain.decision import Note, Reason
from vmsh_scheduler.domain.events import Finished, Started, Trouble
from vmsh_scheduler.domain.job import Job, OnUnknown, Origin
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Cause, Execution, Found, Nothing, Outcome, Run, Status, Trace
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.engine.board import WRITE_RETRY, Board, Release
from vmsh_scheduler.ports import Change, Executor, Subjects

RESOURCES = "resources"
"""Outcome code for a start refused by the machine (EAGAIN, EMFILE): retried, never counted (decision 15)."""
REFUSED_EVERY: Millis = 10 * SECOND
"""Refused starts are told of this often."""

LOST = Outcome(Status.UNKNOWN, code="lost", message="the daemon died and nobody saw how this run ended")
LANDED = Outcome(Status.OK, code="probed", message="the probe says that it happened", flags=("probed",))


@dataclass(frozen=True, slots=True)
class Identity:
    """Who runs: goes into every run."""

    fence: int
    boot_id: str = ""
    worker: str = ""
    config_hash: str = ""


class End(NamedTuple):
    """When a run ended, and by how much the wall clock was set since it began."""

    at: Millis
    skew: Millis
    """Of the wall clock against elapsed time, as `at` has it."""
    stepped: Millis = 0

    def by(self, skew: Millis) -> "End":
        """The same instant by the clock as it stands now: plans are made from it."""
        step = skew - self.skew
        return self if abs(step) < SECOND else End(self.at + step, skew, self.stepped + step)

    def restated(self, run: Run) -> Run:
        """Begun by the clock that `at` is of: a step is no duration."""
        return run if abs(self.stepped) < SECOND else replace(run, started_at=run.started_at + self.stepped)


class Permit:
    """The right to have one process running; given back once, as soon as it has ended."""

    __slots__ = ("_back",)

    def __init__(self, back: Callable[[], None]) -> None:
        self._back: Callable[[], None] | None = back

    def give_back(self) -> None:
        back, self._back = self._back, None
        if back is not None:
            back()


class Carrier:
    """Carries runs out. Every write comes before what it allows: intent before start, outcome before word."""

    def __init__(
        self, board: Board, executors: Mapping[type[Action], Executor], subjects: Subjects, identity: Identity
    ) -> None:
        self.board = board
        self.executors = executors
        self.subjects = subjects
        self.identity = identity
        self._count = 0
        self._refused_at: Millis = 0

    async def carry(self, release: Release, permit: Permit) -> None:
        """Run the release's slot once, or say why there is nothing to run. Withdrawn meanwhile (paused, reloaded):
        nothing happens, and whoever withdrew it has decided anew."""
        job = release.job
        executor = self.executors.get(type(job.action))
        if executor is None:
            await self._close(release, Nothing(Reason.NOT_CONFIGURED.value))
            return
        looked = await self._look(release)
        if isinstance(looked, Nothing):
            await self._nothing(release, looked, executor)
            return
        run = await self._begin(release, looked)
        if run is not None:
            await self._execute(job, run, executor, permit)

    async def _look(self, release: Release) -> Found | Nothing | None:
        """What the run is about; None: about nothing in particular."""
        job = release.job
        if job.subject is None:
            return None
        found = await self.subjects.find(job, release.state)
        if isinstance(found, Nothing):
            return found
        if plan.unchanged(job, release.state, found):
            return Nothing(Reason.UNCHANGED.value)
        return found if found.target else replace(found, target=job.subject.target)

    async def recover(self, job: Job, run: Run, tell: Callable[[Trace], None]) -> None:
        """Find out what became of a run that was open when the last daemon died, and settle it (decision 9).

        `tell` is called with it afterwards; of one that goes on, before its end is waited for."""
        executor = self.executors.get(type(job.action))
        if executor is None:
            return
        recovery = await executor.recover(job, run)
        trace = recovery.trace
        match trace:
            case Trace.NEVER_BEGAN:
                await self._never_began(job, run)
            case Trace.RUNNING:
                tell(trace)
                await self._conclude(job, run, await executor.adopt(job, run), executor)
            case Trace.FINISHED if recovery.outcome is not None:
                await self._settle(job, run, recovery.outcome, executor)
            case _:
                trace = await self._unknown(job, run, executor, recovery.outcome or LOST)
        tell(trace)

    async def _unknown(self, job: Job, run: Run, executor: Executor, lost: Outcome) -> Trace:
        """What it is once the probe was asked."""
        landed = await executor.probe(job, run)
        if landed is False:
            await self._never_began(job, run)
            return Trace.NEVER_BEGAN
        await self._settle(job, run, LANDED if landed else lost, executor)
        return Trace.FINISHED if landed else Trace.UNKNOWN

    async def _begin(self, release: Release, found: Found | None) -> Run | None:
        """Write the intent; None = withdrawn, or it could not be written: nothing may start."""
        job, state = release.job, await self.board.take(release)
        if state is None:
            return None
        now = self.board.clock.now()
        state, superseded = self._supersede(job, state, found, now)
        run = self._mint(job, state, found, now)
        decision = plan.fired(job, state, run, self._inputs(state, now, superseded))
        change = Change(
            job.id,
            plan.begin(state, run),
            () if decision is None else (decision,),
            notes=() if superseded is None else (superseded,),
        )
        durable = job.policy.crash_exact or job.policy.on_unknown is OnUnknown.HOLD
        if not await self.board.commit([change], durable=durable):
            await self.board.postpone(job.id)
            return None
        await self.board.reschedule(job.id)
        waited = self.board.clock.now() - (state.ready_at or now)
        self.board.observer(Started(job, run, max(0, waited)))
        return run

    def _supersede(self, job: Job, state: JobState, found: Found | None, now: Millis) -> tuple[JobState, Note | None]:
        """A retry that finds something new gives its slot up: another root never shares an idempotency key."""
        if not plan.replaces(state, found):
            return state, None
        note = Note("superseded", now, job.id, {"slot": state.slot, "attempts": state.attempt})
        return plan.reopen(state, plan.manual_slot(state, now), now, Cause.NEW_ROOT), note

    def _mint(self, job: Job, state: JobState, found: Found | None, now: Millis) -> Run:
        self._count += 1
        attempt = plan.attempt_of(state)
        return Run(
            id=f"{self.identity.fence:x}-{self._count:x}",
            job_id=job.id,
            slot=state.slot if state.slot is not None else now,
            cause=Cause.RETRY if attempt > 1 else Cause(state.cause or Cause.SCHEDULE.value),
            attempt=attempt,
            fence=self.identity.fence,
            started_at=now,
            deadline=now + job.policy.timeout,
            boot_id=self.identity.boot_id,
            recorded=job.policy.crash_exact,
            found=found,
            previous=state.last_status if attempt > 1 else "",
        )

    def _inputs(self, state: JobState, now: Millis, superseded: Note | None) -> dict[str, object]:
        inputs: dict[str, object] = {"late_ms": max(0, now - (state.slot or now))}
        if self.identity.config_hash:
            inputs["config"] = self.identity.config_hash
        if superseded is not None:
            inputs["supersedes"] = superseded.details["slot"]
        return inputs

    async def _execute(self, job: Job, run: Run, executor: Executor, permit: Permit) -> None:
        """While the outcome waits for the disk, somebody else's process may run."""
        before = self._skew()
        outcome = await executor.run(job, run)
        end = self._end(before)
        permit.give_back()
        await self.board.calm()
        await self._conclude(job, run, outcome, executor, end)

    def _end(self, before: Millis | None = None) -> End:
        """Now; `before`: the skew as the run began, if that was seen."""
        skew = self._skew()
        return End(self.board.clock.now(), skew, 0 if before is None else skew - before)

    def _skew(self) -> Millis:
        return self.board.clock.now() - self.board.clock.elapsed()

    async def _conclude(self, job: Job, run: Run, outcome: Outcome, executor: Executor, end: End | None = None) -> None:
        """A run that another instance carried out may end as one whose end nobody saw."""
        if outcome.code == RESOURCES:
            self._refused(job, outcome, self.board.clock.now() if end is None else end.at)
            await self._never_began(job, run, wait=SECOND)
        elif outcome.status is Status.UNKNOWN:
            await self._unknown(job, run, executor, outcome)
        else:
            await self._settle(job, run, outcome, executor, end)

    def _refused(self, job: Job, outcome: Outcome, now: Millis) -> None:
        """The machine has no processes or descriptors left: all jobs meet that, so it is not told for each."""
        if now - self._refused_at >= REFUSED_EVERY:
            self._refused_at = now
            self.board.observer(Trouble(now, "start_refused", {"job": job.id, "why": outcome.message}))

    async def _settle(self, job: Job, run: Run, outcome: Outcome, executor: Executor, end: End | None = None) -> None:
        """Written first, said afterwards; a disk that refuses is asked again until it takes it, or nobody waits."""
        end = end or self._end()
        while True:
            await self.board.steady(job.id)
            end = end.by(self._skew())
            seen = end.restated(run)
            job = self.board.jobs.get(job.id, job)
            state = plan.settle(job, self.board.state(job.id), seen, outcome, end.at)
            delay = max(0, run.started_at - run.slot) if run.cause is Cause.SCHEDULE else 0
            execution = Execution(seen, outcome, end.at, self.identity.worker, delay)
            if await self.board.commit_over([Change(job.id, self._kept(job, state), execution=execution)], soon=True):
                break
            if not self.board.patient:
                return
            await asyncio.sleep(WRITE_RETRY / SECOND)
        executor.forget(run)
        self.board.observer(Finished(job, execution, state, state.ready_at))
        await self.board.reschedule(job.id)

    async def _never_began(self, job: Job, run: Run, wait: Millis = 0) -> None:
        while True:
            await self.board.steady(job.id)
            now = self.board.clock.now()
            state = plan.never_began(self.board.state(job.id), run, now + wait)
            note = Note("never_began", now, job.id, {"run": run.id, "slot": run.slot})
            if await self.board.commit_over([Change(job.id, self._kept(job, state), notes=(note,))]):
                break
            self.board.unstarted.add(run.id)
            if not self.board.patient or (run.recorded and not self.board.herding):
                return  # its record says to the next start as well that it never began
            await asyncio.sleep(WRITE_RETRY / SECOND)
        self.board.unstarted.discard(run.id)
        executor = self.executors.get(type(job.action))
        if executor is not None:
            executor.forget(run)
        await self.board.reschedule(job.id)

    def _kept(self, job: Job, state: JobState) -> JobState | None:
        """A job that was removed while it ran does not come back with its outcome (forge-os D17)."""
        return None if job.origin is Origin.API and job.id not in self.board.jobs else state

    async def _nothing(self, release: Release, nothing: Nothing, executor: Executor) -> None:
        """Looking failed (a seal, a directory): a failed attempt with backoff, so that it is seen."""
        if not nothing.failed:
            await self._close(release, nothing)
            return
        run = await self._begin(release, None)
        if run is not None:
            outcome = Outcome(Status.FAILED, ErrorClass.VALIDATION, nothing.reason, nothing.message)
            await self._settle(release.job, run, outcome, executor)

    async def _close(self, release: Release, nothing: Nothing) -> None:
        job, opened = release.job, await self.board.take(release)
        if opened is None:
            return
        now = self.board.clock.now()
        state, decision = plan.close_slot(job, opened, Reason(nothing.reason), now)
        change = Change(job.id, state, () if decision is None else (decision,))
        if await self.board.commit([change]):
            await self.board.reschedule(job.id)
        else:
            await self.board.postpone(job.id)

    def rename(self, config_hash: str) -> None:
        """A new configuration is in force; its hash goes into every decision from now on."""
        self.identity = replace(self.identity, config_hash=config_hash)
