"""The jobs and their states as the engine works on them, and the one way a change is written."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.decision import Decision
from vmsh_scheduler.domain.events import Decided, StateFailed, StateRestored
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.errors import StateWriteFailed
from vmsh_scheduler.ports import Agenda, Change, Clock, Observer, States

WRITE_RETRY: Millis = SECOND
BOOKS_WAIT_S = 0.5
"""The longest that the books of ended runs wait for a herd to be started."""


@dataclass(slots=True, eq=False)
class Release:
    """A slot on its way to a start: the job as it was when the slot was opened, and its state since."""

    job: Job
    state: JobState
    started: bool = False
    """It has its permit or waits for its lane only."""


@dataclass(frozen=True, slots=True)
class Anew:
    """Why a job has to be planned anew: the wall clock was set by `step`; None: the job itself is new or changed."""

    step: Millis | None = None
    lost: bool = False
    """It had a state, which cannot be read."""


class Board:
    """Shared by the parts of the engine. `waiting` holds slots that were decided to fire and have not begun:
    the store still shows them as due, so a crash loses nothing."""

    def __init__(self, states: States, agenda: Agenda, clock: Clock, observer: Observer) -> None:
        self.states = states
        self.agenda = agenda
        self.clock = clock
        self.observer = observer
        self.jobs: dict[str, Job] = {}
        self.waiting: dict[str, Release] = {}
        self.unplanned: dict[str, Anew] = {}
        """Jobs in force whose plan could not be written yet: that comes before anything else of them."""
        self._unsure: dict[str, int] = {}
        """How many changes of a job wait for the store's answer."""
        self._answers: dict[str, asyncio.Event] = {}
        """Of jobs somebody waits to be sure of."""
        self._in_line: set[str] = set()
        """Those of `waiting` that have no permit yet."""
        self.unstarted: set[str] = set()
        """Runs that never began, which the store could not be told yet."""
        self.write_error = ""
        self.wakeup = asyncio.Event()
        self.asleep_until: Millis = 0
        """When the engine looks again by itself; whatever is due before has to wake it."""
        self._calm = asyncio.Event()
        self._books: asyncio.TimerHandle | None = None
        self.patient = True
        """False: an outcome that cannot be written is left to the next start, which finds its run open."""
        self.herding = True
        """False: nothing starts any more, so the books need not wait."""

    def state(self, job_id: str) -> JobState:
        release = self.waiting.get(job_id)
        return release.state if release is not None else self.states.get(job_id) or JobState()

    def told(self, job_id: str) -> JobState:
        """`state`, for people: what never began is not shown as running."""
        state = self.state(job_id)
        for run in state.runs:
            if run.id in self.unstarted:
                state = plan.never_began(state, run, self.clock.now())
        return state

    async def commit(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> bool:
        """Apply at once, return when acknowledged; False = not written, nothing of it may be shown."""
        for change in changes:
            self._unsure[change.job_id] = self._unsure.get(change.job_id, 0) + 1
        try:
            await self.states.apply(changes, durable=durable, soon=soon)
        except StateWriteFailed as error:
            self._failed(str(error))
            return False
        finally:
            for change in changes:
                self._answered(change.job_id)
        self._written(changes)
        return True

    def unsure(self, job_id: str) -> bool:
        """A change of the job waits for its answer, and may be refused. Nothing is decided for it meanwhile: whoever
        made the change puts it on the agenda again."""
        return job_id in self._unsure

    async def sure(self, job_id: str) -> None:
        """Wait until what is known of the job is acknowledged, or taken back."""
        while job_id in self._unsure:
            await self._answers.setdefault(job_id, asyncio.Event()).wait()

    async def steady(self, job_id: str) -> None:
        """`sure`, if a slot of the job waits: its release would go on showing what another change made of it, for a
        moment longer than the store does. The store itself sorts out any number of changes of one job."""
        while job_id in self.waiting and job_id in self._unsure:
            await self.sure(job_id)

    def _answered(self, job_id: str) -> None:
        self._unsure[job_id] -= 1
        if not self._unsure[job_id]:
            del self._unsure[job_id]
            answer = self._answers.pop(job_id, None)
            if answer is not None:
                answer.set()

    async def commit_over(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> bool:
        """`commit`, of changes computed from `state`: a slot that waits for its permit waits on with the new one."""
        before: list[tuple[Release, JobState]] = []
        for change in changes:
            release = self.waiting.get(change.job_id)
            if release is not None and change.state is not None:
                before.append((release, release.state))
                release.state = change.state
        if await self.commit(changes, durable=durable, soon=soon):
            return True
        for release, state in before:
            release.state = state
        return False

    async def reschedule(self, job_id: str) -> None:
        """Put the job on the agenda for the next time it has to be looked at."""
        job = self.jobs.get(job_id)
        if job is None:
            await self.withdraw(job_id)
            return
        if job_id in self.unplanned:
            due: Millis | None = self.clock.now()
        else:
            due = plan.next_due(job, self.state(job_id), queued=job_id in self.waiting)
        if due is not None:
            await self._schedule(job_id, due)

    async def postpone(self, job_id: str) -> None:
        """Nothing can be written now: look again a little later."""
        await self._schedule(job_id, self.clock.now() + WRITE_RETRY)

    async def _schedule(self, job_id: str, due: Millis) -> None:
        await self.agenda.schedule(job_id, due)
        if due < self.asleep_until:
            self.wakeup.set()

    async def release(self, job: Job, state: JobState) -> None:
        """The open slot of `job` waits for a permit from now on."""
        self.waiting[job.id] = Release(job, state)
        self._in_line.add(job.id)
        await self.agenda.release(job.id, state.slot or 0, job.policy.priority, pool=job.pool, share=job.share)

    def start(self, release: Release) -> None:
        """It has its permit, or waits for its lane from now on."""
        release.started = True
        self._left_line(release.job.id)

    async def set_aside(self, release: Release, line: str) -> None:
        """It waits in a line of its own, for its host: no herd that books have to wait for."""
        self._left_line(release.job.id)
        job, slot = release.job, release.state.slot or 0
        await self.agenda.release(job.id, slot, job.policy.priority, pool=line, share=job.share)

    def _left_line(self, job_id: str) -> None:
        self._in_line.discard(job_id)
        if not self._in_line:
            self.keep_books()

    async def calm(self) -> None:
        """Starts come before books: while slots wait for a permit, what has ended waits a little."""
        if not self._in_line or not self.herding:
            return
        if self._books is None:
            self._calm.clear()
            self._books = asyncio.get_running_loop().call_later(BOOKS_WAIT_S, self.keep_books)
        await self._calm.wait()

    def keep_books(self) -> None:
        """Whoever waits in `calm` goes on."""
        if self._books is not None:
            self._books.cancel()
            self._books = None
            self._calm.set()

    def waits(self, release: "Release") -> bool:
        """False: it was withdrawn, and perhaps another release of the same job waits by now."""
        return self.waiting.get(release.job.id) is release

    async def take(self, release: "Release") -> JobState | None:
        """The job has its permit and waits no longer: its state with the open slot; None = withdrawn meanwhile.
        What begins is built on nothing that may still be refused."""
        await self.sure(release.job.id)
        if not self.waits(release):
            return None
        await self.agenda.ack(release.job.id)
        return self.waiting.pop(release.job.id).state

    async def withdraw(self, job_id: str) -> None:
        """The job shall not start after all; what the store says of it holds again."""
        await self.agenda.cancel(job_id)
        await self.agenda.ack(job_id)
        self.waiting.pop(job_id, None)
        self._left_line(job_id)

    def _failed(self, error: str) -> None:
        self.write_error = error
        self.observer(StateFailed(self.clock.now(), error))

    def _written(self, changes: Sequence[Change]) -> None:
        if self.write_error:
            self.write_error = ""
            self.observer(StateRestored(self.clock.now()))
        for change in changes:
            for decision in change.decisions:
                self._tell(decision)

    def _tell(self, decision: Decision) -> None:
        job = self.jobs.get(decision.job_id)
        if job is not None:
            self.observer(Decided(job, decision))
