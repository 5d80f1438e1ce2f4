"""The leader's executor in a cluster: runs go to whichever instance has a permit, and their outcomes come back."""

import asyncio
from collections.abc import Callable, Collection, Mapping

from vmsh_scheduler.domain.codec import outcome_from_json
from vmsh_scheduler.domain.events import Trouble
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Recovery, Run, Status, Trace
from vmsh_scheduler.domain.shape import WRONG, fitting
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.engine.carry import RESOURCES
from vmsh_scheduler.engine.round_trips import at_once
from vmsh_scheduler.errors import NotLeading, StoreDown
from vmsh_scheduler.ports import Clock, Dispatch, Executor, Observer, Place, Task

LOOK: Millis = SECOND
"""The longest between two looks for outcomes, and how often lost claims are looked for."""
MEND: Millis = 20 * SECOND
"""How often it is looked whether the store still has all that it was given, and where."""

_OUTCOME = fitting(Outcome)
BodyOf = Callable[[Job, Run], Mapping[str, object]]
NOT_READ = Outcome(
    Status.FAILED, ErrorClass.VALIDATION, "bad_outcome", "what the worker sent cannot be read: another version wrote it"
)
UNSENT = Outcome(Status.FAILED, code=RESOURCES, message="withdrawn before it was handed over")
"""Of a run that was recalled in time."""


class Collector:
    """The leader's end of the queue: one for all executors and all terms, with one look at the store for all runs.

    `run` goes beside the engine. What is open when a term ends is the next leader's to adopt, so whoever still waits
    then is cancelled and settles nothing."""

    def __init__(
        self,
        dispatch: Dispatch,
        clock: Clock,
        observer: Observer,
        open_runs: Callable[[], Collection[str] | None] = lambda: None,
    ) -> None:
        """`open_runs`: of all states, acknowledged or not; outcomes of others are left by jobs that are gone. None: not
        known."""
        self.dispatch = dispatch
        self.lost = 0
        """Claims that ran out."""
        self._clock = clock
        self._observer = observer
        self._open_runs = open_runs
        self._to_push: dict[str, Task] = {}
        self._doubtful: set[str] = set()
        """Pushed, perhaps: the store did not answer. Or recalled."""
        self._recalled: set[str] = set()
        """Before anybody waited for them. What no state has open any more goes with a sweep that can read them all."""
        self._waiting: dict[str, asyncio.Future[Outcome]] = {}
        self._asked: dict[str, asyncio.Future[Recovery]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._unsettled: set[str] = set()
        """Ended in a way that no settled state replaces."""
        self._forgotten: list[str] = []
        self._hurried = False
        self._lost_at: Millis = 0
        self._mend_at: Millis = 0
        self._down_until: Millis = 0
        self._wakeup = asyncio.Event()

    async def hand_over(self, task: Task) -> Outcome:
        """Push it and wait for its outcome."""
        if task.id in self._recalled:
            return UNSENT
        self._to_push[task.id] = task
        return await self.outcome(task.id)

    async def outcome(self, run_id: str) -> Outcome:
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting[run_id] = ended
        if run_id in self._recalled:  # while it was asked where it is: the store knows whether anybody has it
            self._recalled.discard(run_id)
            self._doubtful.add(run_id)
        self._wakeup.set()
        try:
            return await ended
        finally:  # cancelled: the term is over, and nothing of it may be pushed in the next
            self._waiting.pop(run_id, None)
            self._to_push.pop(run_id, None)

    async def recovery(self, run_id: str) -> Recovery:
        """Where a run is that was open when another one led; waits for the store, if that does not answer."""
        asked: asyncio.Future[Recovery] = asyncio.get_running_loop().create_future()
        self._asked[run_id] = asked
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask())
        try:
            return await asked
        finally:
            self._asked.pop(run_id, None)

    def forget(self, run_id: str) -> None:
        """Settling has removed the outcome, in the same step; one that was not settled goes now."""
        self._recalled.discard(run_id)
        if run_id in self._unsettled:
            self._unsettled.discard(run_id)
            self._forgotten.append(run_id)
            self._wakeup.set()

    def recall(self, run_ids: Collection[str]) -> None:
        """Their job was paused or removed: those that nobody has claimed never began."""
        self._recalled |= set(run_ids) - self._waiting.keys()
        for run_id in self._waiting.keys() & set(run_ids):
            unsent = self._to_push.pop(run_id, None) is not None
            ended = self._waiting[run_id]
            if not unsent:
                self._doubtful.add(run_id)
            elif not ended.done():  # no store has heard of it, so none is asked
                ended.set_result(UNSENT)
        self._wakeup.set()

    def hurry(self) -> None:
        """What nobody has claimed is withdrawn; what goes on is left to the workers and to the next leader."""
        self._hurried = True
        self._wakeup.set()

    def wake(self) -> None:
        """Something may have ended."""
        self._wakeup.set()

    async def run(self) -> None:
        """For a term; whoever ends it cancels. Raises NotLeading when another instance is seen to lead."""
        self._hurried, self._down_until, self._mend_at = False, 0, 0
        try:
            while True:
                self._wakeup.clear()
                await self.tick()
                await self._nap()
        finally:
            self._let_go()

    async def tick(self) -> None:
        """Push what is new and take what has ended, with one look at the store each. Raises NotLeading."""
        now = self._clock.elapsed()
        try:
            if now >= self._down_until:
                await self._look(now)
        except NotLeading:
            self._let_go()
            raise
        except StoreDown as down:
            self._observer(Trouble(self._clock.now(), "dispatch_down", {"why": str(down)}))
            self._down_until = self._clock.elapsed() + LOOK
        if self._hurried:
            self._let_go()

    async def _look(self, now: Millis) -> None:
        await self._resolve_doubts()
        pushed = [id for id, ended in self._waiting.items() if id not in self._to_push and not ended.done()]
        await at_once(self._push(), self._find_lost(now), self._mend(now, pushed))
        if self._hurried and self._waiting:
            await self.dispatch.withdraw(list(self._waiting))
        await self._collect()
        if self._forgotten:
            gone = list(self._forgotten)
            await self.dispatch.forget(gone)
            del self._forgotten[: len(gone)]

    async def _find_lost(self, now: Millis) -> None:
        if now >= self._lost_at:
            self.lost += len(await self.dispatch.lost())
            self._lost_at = now + LOOK

    async def _mend(self, now: Millis, pushed: list[str]) -> None:
        """A run would be waited for without end whose task was removed by hand, or was forgotten by the store."""
        if now >= self._mend_at:
            found = await self.dispatch.mend(pushed)
            self._mend_at = now + MEND
            if found:
                self._observer(Trouble(self._clock.now(), "tasks_astray", {"count": len(found)}))
            await self._sweep()

    async def _sweep(self) -> None:
        """Outcomes that no state knows and nobody waits for go, and what was recalled as it was settled."""
        there = await self.dispatch.outcomes()  # asked first: what ends meanwhile was open before
        open_runs = self._open_runs() if there or self._recalled else None
        if open_runs is None:
            return
        self._recalled.intersection_update({*self._asked, *open_runs})
        if there:
            await self.dispatch.forget(sorted(set(there).difference(self._waiting, self._asked, open_runs)))

    async def _resolve_doubts(self) -> None:
        """Before anything else: they must not run as well. What is not claimed ends with code `resources`, whether it
        arrived or not; what is claimed is waited for."""
        if self._doubtful:
            doubtful = sorted(self._doubtful)
            await self.dispatch.withdraw(doubtful)
            self._doubtful.difference_update(doubtful)

    async def _push(self) -> None:
        if self._to_push:
            tasks, self._to_push = self._to_push, {}
            try:
                await self.dispatch.push(list(tasks.values()))
            except StoreDown:
                self._doubtful.update(tasks)
                raise

    async def _collect(self) -> None:
        found = await self.dispatch.ended(list(self._waiting)) if self._waiting else {}
        for run_id, document in found.items():
            ended = self._waiting.get(run_id)
            if ended is not None and not ended.done():
                ended.set_result(self._read(run_id, document))

    async def _ask(self) -> None:
        """Until everything that was asked is answered; a second after the store did not."""
        try:
            while self._asked:
                try:
                    await self._answer()
                except StoreDown:
                    await asyncio.sleep(LOOK / SECOND)
        except NotLeading:
            self._let_go()
        finally:
            self._asking = None

    async def _answer(self) -> None:
        ids = list(self._asked)
        await self.dispatch.lost()
        places = await self.dispatch.places(ids)
        absent = {id for id in ids if places.get(id, Place.ABSENT) is Place.ABSENT}
        absent.difference_update(await self.dispatch.doubt(sorted(absent)) if absent else ())
        outcomes = await self.dispatch.ended(ids)
        for run_id in ids:
            asked = self._asked.pop(run_id, None)
            if asked is not None and not asked.done():
                document = outcomes.get(run_id)
                outcome = None if document is None else self._read(run_id, document)
                asked.set_result(_recovery(run_id in absent, outcome))

    def _read(self, run_id: str, document: Mapping[str, object]) -> Outcome:
        outcome = _outcome_of(document)
        if outcome.code == RESOURCES or outcome.status is Status.UNKNOWN:
            self._unsettled.add(run_id)
        return outcome

    def _let_go(self) -> None:
        """Whoever waits is cancelled: the run stays open in its state."""
        for ended in self._waiting.values():
            ended.cancel()
        for asked in self._asked.values():
            asked.cancel()
        self._to_push.clear()
        self._doubtful.clear()
        self._recalled.clear()

    async def _nap(self) -> None:
        """A store that is down is not asked before its time, whatever wakes us; only a hurry is."""
        down = self._down_until - self._clock.elapsed()
        if down > 0 and not self._hurried:
            await asyncio.sleep(down / SECOND)
            return
        try:
            async with asyncio.timeout(LOOK / SECOND):
                await self._wakeup.wait()
        except TimeoutError:
            return


class HandedExecutor:
    """Executor of one kind of action while this instance leads; `local`, which could do it here, answers probes."""

    def __init__(self, collector: Collector, body_of: BodyOf, local: Executor) -> None:
        self._collector = collector
        self._body_of = body_of
        self._local = local

    async def run(self, job: Job, run: Run) -> Outcome:
        return await self._collector.hand_over(Task(run.id, job.pool, _owner(job), self._body_of(job, run)))

    async def recover(self, job: Job, run: Run) -> Recovery:
        return await self._collector.recovery(run.id)

    async def adopt(self, job: Job, run: Run) -> Outcome:
        return await self._collector.outcome(run.id)

    async def probe(self, job: Job, run: Run) -> bool | None:
        return await self._local.probe(job, run)

    def forget(self, run: Run) -> None:
        self._collector.forget(run.id)

    def hurry(self) -> None:
        self._collector.hurry()


def _recovery(absent: bool, outcome: Outcome | None) -> Recovery:
    """A claim that ran out since `lost` was asked counts as running: it is taken out with the next look."""
    if outcome is not None:
        if outcome.code == RESOURCES:
            return Recovery(Trace.NEVER_BEGAN)
        unseen = outcome.status is Status.UNKNOWN
        return Recovery(Trace.UNKNOWN if unseen else Trace.FINISHED, outcome)
    return Recovery(Trace.NEVER_BEGAN if absent else Trace.RUNNING)


def _outcome_of(document: Mapping[str, object]) -> Outcome:
    try:
        found: Outcome = _OUTCOME(outcome_from_json(document))
    except WRONG:
        return NOT_READ
    return found


def _owner(job: Job) -> str:
    """Key of the agent as it is shown (forge-os section 10); "" for anything else."""
    user, agent = job.labels.get("user", ""), job.labels.get("agent", "")
    return f"{user}:{agent}" if agent else ""
