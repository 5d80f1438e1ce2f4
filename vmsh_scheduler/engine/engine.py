"""One engine, three ways in: `tick` once, `run` until told to stop, and whoever calls `tick` from outside."""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass

from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.action import Action
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.events import ClockStepped, Queued, Recovered, Synced, Ticked, TurnedAway
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Run, Trace
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SANE_CLOCK, SECOND, Millis
from vmsh_scheduler.engine.board import Board, Release
from vmsh_scheduler.engine.bounds import Bounds
from vmsh_scheduler.engine.carry import Carrier, Identity, Permit
from vmsh_scheduler.engine.lanes import Lanes
from vmsh_scheduler.engine.planner import Planner
from vmsh_scheduler.engine.turnstile import Turnstile
from vmsh_scheduler.engine.upkeep import forgotten
from vmsh_scheduler.ports import Agenda, Change, Clock, Executor, Observer, States, Subjects

DUE_AT_ONCE = 64
STEP_NOTICED: Millis = SECOND


@dataclass(frozen=True, slots=True)
class Stores:
    """What an engine works on; two engines over one set fire each slot once."""

    states: States
    agenda: Agenda


class Engine:
    """Owns the loop. Policy is in domain.plan, one run is carry.Carrier's, writing is board.Board's."""

    def __init__(
        self,
        stores: Stores,
        executors: Mapping[type[Action], Executor],
        subjects: Subjects,
        clock: Clock,
        observer: Observer,
        *,
        identity: Identity,
        bounds: Bounds,
    ) -> None:
        self.board = Board(stores.states, stores.agenda, clock, observer)
        self.planner = Planner(self.board)
        self.carrier = Carrier(self.board, executors, subjects, identity)
        self.executors = executors
        self.clock = clock
        self.observer = observer
        self.bounds = bounds
        self.wakeup = self.board.wakeup
        self.last_tick: Millis = 0
        self.stopping = False
        self._lanes = Lanes(self.board.waits)
        self._tasks: set[asyncio.Task[None]] = set()
        self.turnstile = Turnstile(self.board, bounds, self._start)
        self._progress = asyncio.Event()
        self._inherited = {run.id for state in stores.states.all().values() for run in state.runs}
        self._fault: BaseException | None = None
        self._skew = clock.now() - clock.elapsed()

    @property
    def running(self) -> int:
        """Runs (and looks for something to run about) in progress."""
        return len(self._tasks)

    def load(self, pool: str) -> tuple[int, int]:
        """How many of a pool wait, and how many run."""
        waiting = sum(release.job.pool == pool and not release.started for release in self.board.waiting.values())
        return waiting, self.turnstile.running(pool)

    async def sync(self, jobs: Mapping[str, Job], config_hash: str, *, lost: bool = False) -> Synced:
        """Another job set is in force. Unchanged jobs keep plan and backoff, removed ones start no more."""
        old = self.board.jobs
        removed = tuple(id for id in old if id not in jobs)
        added = tuple(id for id in jobs if id not in old)
        changed = tuple(id for id, job in jobs.items() if id in old and old[id] != job)
        self.carrier.rename(config_hash)
        for job_id in removed:
            await self.board.withdraw(job_id)
            self.board.unplanned.pop(job_id, None)
        self.board.jobs = {id: old[id] if id in old and old[id] == job else job for id, job in jobs.items()}
        self.turnstile.hosts.recount(self.board.jobs.values())
        await self.planner.admit((*added, *changed), lost=lost)
        self.wakeup.set()
        synced = Synced(self.clock.now(), config_hash, added, changed, removed)
        self.observer(synced)
        return synced

    async def put(self, job: Job, state: JobState, note: Note) -> bool:
        """One job more, or another in place of it, which starts from `state`; False: it could not be written."""
        await self.board.withdraw(job.id)
        known, owed = self.board.jobs.get(job.id), self.board.unplanned.get(job.id)
        self.board.jobs[job.id] = job
        written = False
        try:
            written = await self.board.commit([Change(job.id, state, notes=(note,))])
        finally:
            if written:
                self.turnstile.hosts.exchange(known, job)
                # where the clock was set meanwhile, or before, the plan is owed still
                if owed is not None and owed.step is None and self.board.unplanned.get(job.id) is owed:
                    del self.board.unplanned[job.id]
            elif known is None:
                self.board.jobs.pop(job.id, None)
                self.board.unplanned.pop(job.id, None)
            else:
                self.board.jobs[job.id] = known
            await self.board.reschedule(job.id)
        self.wakeup.set()
        if written and any(run.id in self._inherited for run in state.runs):
            await self.recover()
        return written

    async def drop(self, job_id: str, note: Note) -> bool:
        """The job is gone, state and all; a run that goes on settles into the journal only. False: not written."""
        await self.board.withdraw(job_id)
        written = False
        try:
            written = await self.board.commit([Change(job_id, None, notes=(note,))])
        finally:
            if written:
                self.turnstile.hosts.exchange(self.board.jobs.pop(job_id, None), None)
                self.board.unplanned.pop(job_id, None)
            await self.board.reschedule(job_id)
        return written

    async def forget_removed(self) -> None:
        """Drop the states of jobs that were taken out of the configuration long ago."""
        states = self.board.states.all()
        gone = forgotten(states, self.board.jobs, self.clock.now())
        if gone:
            await self.board.commit([Change(job_id, None) for job_id in gone], durable=False)

    async def recover(self) -> Recovered:
        """Settle every run that was open when the last engine over these stores died; running ones are adopted."""
        open_runs = [
            (job, run)
            for job_id, job in self.board.jobs.items()
            for run in self.board.state(job_id).runs
            if run.id in self._inherited
        ]
        known = [self._recover(job, run) for job, run in open_runs]
        if known:
            await asyncio.wait(known, timeout=1.0)
        found = Counter(one.result() if one.done() else None for one in known)
        report = Recovered(
            self.clock.now(),
            finished=found[Trace.FINISHED],
            never_began=found[Trace.NEVER_BEGAN],
            adopted=found[Trace.RUNNING],
            unknown=found[Trace.UNKNOWN],
            pending=found[None],
        )
        if open_runs:
            self.observer(report)
        return report

    def _recover(self, job: Job, run: Run) -> asyncio.Future[Trace | None]:
        """Done when the run is settled, or seen to be running still: nobody else waits for that one."""
        known: asyncio.Future[Trace | None] = asyncio.get_running_loop().create_future()

        def tell(trace: Trace | None) -> None:
            if not known.done():
                known.set_result(trace)

        self._inherited.discard(run.id)
        self._lanes.occupy(job.lane, job.id)
        self.turnstile.take(job)
        task = self._task(self.carrier.recover(job, run, tell), job)
        task.add_done_callback(lambda _: tell(None))  # nobody told, so its state has it open still
        task.add_done_callback(lambda _: self._freed(job))
        return known

    async def run(self, stop: asyncio.Event) -> None:
        """Tick whenever something is due, until `stop`; `drain` afterwards."""
        while not stop.is_set():
            self.wakeup.clear()
            await self.tick()
            if stop.is_set():
                break
            self.board.asleep_until = await self._next_look()
            await self.clock.sleep_until(self.board.asleep_until, self.wakeup)

    async def _next_look(self) -> Millis:
        """When the next job is due, at most a nap from now; a clock that is not set is only waited for."""
        now = self.clock.now()
        due = await self.board.agenda.next_due() if now >= SANE_CLOCK else None
        return now + self.bounds.nap if due is None else min(due, now + self.bounds.nap)

    async def tick(self) -> int:
        """Decide everything that is due, start what fits; returns how many runs were started."""
        if self._fault is not None:
            raise self._fault
        now = self.clock.now()
        started = 0
        if now >= SANE_CLOCK:
            await self._notice_clock_step(now)
            started = await self._decide_all(now)
        self.last_tick = now
        self.observer(Ticked(now, started, len(self.board.waiting), len(self._tasks)))
        return started

    async def until_idle(self) -> None:
        """Wait until nothing runs, and nothing that was due at the last tick is left to start (one-shot ticks)."""
        horizon = self.last_tick
        while self._tasks:
            await self._progress.wait()
            self._progress.clear()
            await self._decide_all(horizon)

    async def drain(self, limit: Millis) -> bool:
        """Start nothing more, wait for what runs up to `limit`, then hurry; True = nothing had to be hurried."""
        self._stop_starting()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=limit / SECOND)
        if not self._tasks:
            return True
        self.hurry()
        await asyncio.wait(self._tasks)
        return False

    def hurry(self) -> None:
        """End every run now, and wait for no disk."""
        self.board.patient = False
        for executor in self.executors.values():
            executor.hurry()

    async def leave(self, limit: Millis) -> None:
        """Another engine goes on from the same stores: wait up to `limit`, then let go of what runs, unsettled."""
        self._stop_starting()
        if self._tasks and limit:
            await asyncio.wait(self._tasks, timeout=limit / SECOND)
        self.board.patient = False
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def resize(self, bounds: Bounds) -> None:
        """Other permits from now on; whoever runs keeps theirs."""
        self.bounds = bounds
        self.turnstile.resize(bounds)
        self.wakeup.set()

    def halt(self) -> None:
        """Start nothing more, end every run (TERM, grace, KILL): one-shot ticks that are told to stop."""
        self._stop_starting()
        self.hurry()

    def _stop_starting(self) -> None:
        self.stopping = True
        self.board.herding = False
        self.board.keep_books()

    def wake(self) -> None:
        self.wakeup.set()

    async def _decide_all(self, now: Millis) -> int:
        """Nothing is decided while stopping: what comes due meanwhile is caught up or missed at the next start."""
        if self.stopping:
            return 0
        started = await self._pump()
        while ids := await self.board.agenda.due(now, DUE_AT_ONCE):
            await self._decide(ids, now)
            started += await self._pump()
            await asyncio.sleep(0)
        return started

    async def _decide(self, ids: Sequence[str], now: Millis) -> None:
        """Where nothing starts only words are written: those of all jobs together, for the store may be far away."""
        quiet: list[str] = []
        for job_id in await self._decidable(ids):
            job = self._planned(job_id)
            if job is None:
                continue
            step = self._step(job, now)
            if step.start and not self.board.unsure(job_id):
                await self._open(job, step, now)
            else:
                quiet.append(job_id)
        if quiet:
            await self._tell(quiet, now)

    async def _decidable(self, ids: Sequence[str]) -> list[str]:
        """First those are planned that could not be before; they come back when they are due."""
        unplanned = [id for id in ids if id in self.board.unplanned]
        if unplanned:
            await self.planner.again(unplanned)
        return [id for id in ids if id not in unplanned]

    def _planned(self, job_id: str) -> Job | None:
        """As it is in force now; None: gone, or the planner's. A reload may pass while others' words are written."""
        return None if job_id in self.board.unplanned else self.board.jobs.get(job_id)

    def _step(self, job: Job, now: Millis) -> plan.Step:
        return plan.decide(job, self.board.state(job.id), now, queued=job.id in self.board.waiting)

    async def _open(self, job: Job, step: plan.Step, now: Millis) -> None:
        """A slot that may start, if there is room for it."""
        before = self.board.state(job.id)
        notes: tuple[Note, ...] = ()
        if await self.turnstile.is_full(job):
            step, notes = plan.turned_away(step, now), (Note("queue_full", now, job.id, {"slot": step.state.slot}),)
        change = Change(job.id, step.state, step.decisions, notes=notes)
        told = step.decisions or notes or step.state.pause is not before.pause
        if told and not await self.board.commit_over([change], durable=False):
            await self.board.postpone(job.id)
            return
        if notes:
            self.observer(TurnedAway(now, job))
        if step.start and self._still(job, step.state if told else before):
            await self.board.release(job, step.state)
            if job.pool:
                self.observer(Queued(now, job))
        await self.board.reschedule(job.id)

    def _still(self, job: Job, state: JobState) -> bool:
        """Nobody has changed the job while a decision of it waited for its answer; else it is decided anew."""
        return self.board.jobs.get(job.id) is job and self.board.state(job.id) == state

    async def _tell(self, ids: Sequence[str], now: Millis) -> None:
        """Decided anew and at one moment: while others opened, a run may have ended, or a slot become one to start."""
        jobs = [job for id in ids if (job := self._planned(id)) is not None]
        sure = [job for job in jobs if not self.board.unsure(job.id)]
        steps = {job.id: (self.board.state(job.id), self._step(job, now)) for job in sure}
        # the end of a pause leaves no decision; unwritten, the agenda would come back to it at once and for ever
        changes = [
            Change(id, step.state, step.decisions)
            for id, (before, step) in steps.items()
            if not step.start and (step.decisions or step.state.pause is not before.pause)
        ]
        written = not changes or await self.board.commit_over(changes, durable=False)
        refused = set() if written else {change.job_id for change in changes}
        for job in jobs:
            if job.id in refused or self.board.unsure(job.id):
                await self.board.postpone(job.id)
            else:
                await self.board.reschedule(job.id)

    async def _pump(self) -> int:
        if self.stopping:
            return 0
        for release in self._lanes.let_in():
            self.turnstile.next_in_turn(release)
        return await self.turnstile.pump()

    def _start(self, release: Release) -> int:
        self.board.start(release)
        if not self._lanes.enter(release):
            return 0
        job = release.job
        self.turnstile.take(job)
        permit = Permit(lambda: self._freed(job))
        task = self._task(self.carrier.carry(release, permit), job)
        task.add_done_callback(lambda _: permit.give_back())
        return 1

    def _freed(self, job: Job) -> None:
        self.turnstile.give_back(job)
        self._progress.set()
        if self.board.waiting:
            self.wakeup.set()

    def _task(self, work: Coroutine[None, None, None], job: Job) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._over(done, job))
        return task

    def _over(self, task: asyncio.Task[None], job: Job) -> None:
        """A lane is free again. An exception here is a defect of ours: the engine stops loudly."""
        self._tasks.discard(task)
        following = self._lanes.leave(job.lane, job.id)
        if following is not None:
            self.turnstile.next_in_turn(following)
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
        self._progress.set()
        if self.board.waiting or self._fault is not None:
            self.wakeup.set()

    async def _notice_clock_step(self, now: Millis) -> None:
        """The wall clock moved against elapsed time: plan every job anew within its own period (decision 2)."""
        skew = now - self.clock.elapsed()
        by, self._skew = skew - self._skew, skew
        if abs(by) < STEP_NOTICED:
            return
        self.observer(ClockStepped(now, by))
        await self.planner.clock_step(by)
