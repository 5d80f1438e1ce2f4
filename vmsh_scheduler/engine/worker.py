"""Works off what the leader hands out: claims as permits are free, carries out, keeps its claims, says how it ended."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from vmsh_scheduler.domain.action import Action
from vmsh_scheduler.domain.codec import outcome_to_json
from vmsh_scheduler.domain.events import Trouble
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Outcome
from vmsh_scheduler.domain.shape import WRONG
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.engine.errand import HANDED_BACK, NOT_UNDERSTOOD, Errand, errand_of
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.ports import Claim, Clock, Dispatch, Executor, Observer

LOOK: Millis = SECOND
"""The longest between two looks at the queue; words that it has something are heard before."""
STAND_BACK: Millis = 3 * LOOK
"""A pool of which the same job, one that we have otherwise, came twice is left to others for so long: its next tries, a
second apart, are theirs. Else whoever is quickest to claim and hand back would keep the job from everybody."""
MOST_UNLIKE = 1_000
"""Jobs that we have otherwise and remember; more are begun to be counted anew."""
CLAIMED_AT_ONCE = 100
GUARD_S = 0.25
"""How late a claim's end may be noticed while the store lets us wait."""

FindJob = Callable[[Claim], Job | None]
"""The job as this instance knows it; None: not at all."""


@dataclass(eq=False, slots=True)
class Held:
    """A claim of ours, from the claim until the store has its outcome or it is lost."""

    claim: Claim
    until: Millis
    task: asyncio.Task[None] | None = None
    lost: bool = False
    outcome: Outcome | None = None
    """It ended so; the store has not taken it yet."""
    posting: bool = False


class Worker:
    """`pools` are this instance's permits. Nothing is claimed before `start_after` (Clock.elapsed): one tick of the
    agents after the start (forge-os section 17)."""

    def __init__(
        self,
        dispatch: Dispatch,
        executors: Mapping[type[Action], Executor],
        find_job: FindJob,
        clock: Clock,
        *,
        pools: Mapping[str, int],
        lease: Millis,
        observer: Observer,
        start_after: Millis = 0,
    ) -> None:
        self.dispatch = dispatch
        self.executors = executors
        self.pools = pools
        self.start_after = start_after
        self.stopping = False
        self.claimed = 0
        self.acked = 0
        self._find_job = find_job
        self._clock = clock
        self._lease = lease
        self._observer = observer
        self._held: dict[str, Held] = {}
        self._empty: set[str] = set()
        """Pools that had less than was asked for: they are asked again when somebody says so, or after `LOOK`."""
        self._unlike: set[str] = set()
        """Job and revision of what was handed back."""
        self._back_at: dict[str, Millis] = {}
        """When a pool is claimed of again that was left to others."""
        self._look_at: Millis = 0
        self._extend_at: Millis = 0
        self._down_until: Millis = 0
        """The store did not answer: it is left alone until then."""
        self._turn = asyncio.Lock()
        self._wakeup = asyncio.Event()
        self._progress = asyncio.Event()
        self._patient = True
        self._fault: BaseException | None = None

    @property
    def running(self) -> int:
        """Claims in progress, those included whose outcome the store has not taken yet."""
        return len(self._held)

    @property
    def offers(self) -> Mapping[str, int]:
        """Permits by pool that the leader may count on."""
        return dict.fromkeys(self.pools, 0) if self.stopping else self.pools

    def load(self, pool: str) -> tuple[int, int]:
        """Nothing waits here, and how many of the pool run."""
        return 0, sum(held.claim.task.pool == pool for held in self._held.values())

    def wake(self) -> None:
        """Something may be ready."""
        self._empty.clear()
        self._wakeup.set()

    def doubt(self) -> None:
        """The store may have lost our claims: they are extended now, or over."""
        self._extend_at = 0
        self._wakeup.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, of which `wake` tells at once; `drain` afterwards."""
        guard = asyncio.get_running_loop().create_task(self._guard())
        try:
            while not stop.is_set():
                self._wakeup.clear()
                await self.tick()
                await self._nap()
        finally:
            guard.cancel()

    async def tick(self) -> None:
        """One look at everything: claims that are over or have to be extended, outcomes to post, tasks to claim."""
        if self._fault is not None:
            raise self._fault
        self._drop_overdue()
        async with self._turn:  # `drain` may begin while `run` still waits for a claim, which is to be drained as well
            if self._clock.elapsed() >= self._down_until:
                await self._look()

    async def _look(self) -> None:
        now = self._clock.elapsed()
        try:
            if now >= self._extend_at:
                await self._extend()
            for held in [held for held in self._held.values() if held.outcome is not None]:
                await self._post(held)
            if not self.stopping:
                await self._claim()
        except StoreDown as down:
            self._is_down(down)

    async def drain(self, limit: Millis) -> bool:
        """Claim nothing more, wait for what runs up to `limit`, then hurry; True = nothing had to be hurried."""
        self.stopping = True
        until = self._clock.elapsed() + limit
        await self.tick()
        while self._held and self._clock.elapsed() < until:
            await self.tick()
            await self._step(until)
        if not self._held:
            return True
        self.hurry()
        while self._held:
            await self.tick()
            await self._step(None)
        return False

    def hurry(self) -> None:
        """End every run now; an outcome that the store does not take is left to the leader, who sees the claim end."""
        self._patient = False
        for executor in self.executors.values():
            executor.hurry()
        for held in list(self._held.values()):
            if held.outcome is not None and not held.posting:
                self._over(held)

    def _is_down(self, down: StoreDown) -> None:
        """Asked again after a second; what runs goes on until its claim is over."""
        now = self._clock.elapsed()
        if now >= self._down_until + LOOK:
            self._observer(Trouble(self._clock.now(), "dispatch_down", {"why": str(down)}))
        self._down_until = now + LOOK
        self._extend_at = 0
        self._empty.clear()

    async def _nap(self) -> None:
        await _wait(self._wakeup, self._until_next(LOOK))

    async def _step(self, until: Millis | None) -> None:
        """While draining: until something ended, or has to be extended."""
        self._progress.clear()
        if self._held:
            most = LOOK if until is None else min(LOOK, until - self._clock.elapsed())
            await _wait(self._progress, self._until_next(most))

    def _until_next(self, most: Millis) -> Millis:
        """A second at most, less if claims have to be extended before."""
        left = self._extend_at - self._clock.elapsed() if self._held else most
        if self._clock.elapsed() < self._down_until:
            left = self._down_until - self._clock.elapsed()
        return max(1, min(most, left))

    async def _guard(self) -> None:
        """The end of a claim is seen in time although the store keeps `tick` waiting."""
        while True:
            await asyncio.sleep(GUARD_S if self._held else LOOK / SECOND)
            self._drop_overdue()

    def _drop_overdue(self) -> None:
        now = self._clock.elapsed()
        for held in list(self._held.values()):
            if held.until <= now:
                self._lose(held)

    def _lose(self, held: Held) -> None:
        """It may be somebody else's by now: its run is ended, its outcome is nobody's any more."""
        if held.lost:
            return
        held.lost = True
        run = held.claim.task.id
        self._observer(Trouble(self._clock.now(), "claim_lost", {"run": run, "pool": held.claim.task.pool}))
        if held.task is not None and not held.task.done():
            held.task.cancel()
        elif not held.posting:
            self._over(held)

    async def _extend(self) -> None:
        """Every third of a lease, all claims in one call; one that came between has most of its time before it."""
        held = [held for held in self._held.values() if not held.lost]
        self._extend_at = self._clock.elapsed() + self._lease // 3  # before asking: a doubt that comes meanwhile stays
        if held:
            kept = await self.dispatch.extend([one.claim for one in held], self._lease)
            for one in held:
                until = kept.get(one.claim.task.id)
                if until is not None:
                    one.until = until
                elif not one.posting and self._held.get(one.claim.task.id) is one:
                    self._lose(one)

    async def _claim(self) -> None:
        now = self._clock.elapsed()
        if now < self.start_after:
            return
        if now >= self._look_at:
            self._look_at = now + LOOK
            self._empty.clear()
        while not self.stopping and (wanted := self._wanted()):
            self._empty.update(wanted)  # before asking: a word that comes meanwhile takes it out again
            asked = [self.dispatch.claim(pool, limit, self._lease) for pool, limit in wanted.items()]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            self._took(wanted, answers)

    def _wanted(self) -> dict[str, int]:
        """How many each pool would take now, of those that may have some."""
        now = self._clock.elapsed()
        asked = [pool for pool in self.pools if pool not in self._empty and self._back_at.get(pool, 0) <= now]
        free = {pool: self._free(pool) for pool in asked}
        return {pool: min(count, CLAIMED_AT_ONCE) for pool, count in free.items() if count > 0}

    def _took(self, wanted: Mapping[str, int], answers: Iterable[Sequence[Claim] | BaseException]) -> None:
        """What one pool was given is kept, whatever another one raised; then that is raised."""
        failed: BaseException | None = None
        for (pool, limit), claims in zip(wanted.items(), answers, strict=True):
            if isinstance(claims, BaseException):
                failed = claims
                continue
            if len(claims) >= limit:
                self._empty.discard(pool)
            for claim in claims:
                self._take(claim)
        if failed is not None:
            raise failed

    def _free(self, pool: str) -> int:
        return self.pools[pool] - self.load(pool)[1]

    def _take(self, claim: Claim) -> None:
        if not self._held:
            self._extend_at = self._clock.elapsed() + self._lease // 3
        self.claimed += 1
        held = self._held[claim.task.id] = Held(claim, claim.until)
        held.task = asyncio.get_running_loop().create_task(self._carry(held))
        held.task.add_done_callback(lambda task: self._ended(held, task))

    def _stand_back(self, claim: Claim) -> None:
        """The first time may be a change of configuration that is under way: the next try comes with the new one."""
        task = claim.task
        unlike = f"{task.owner} {task.body.get('job')} {task.body.get('revision')}"  # the original's name no job
        if unlike in self._unlike:
            self._back_at[claim.task.pool] = self._clock.elapsed() + STAND_BACK
        elif len(self._unlike) >= MOST_UNLIKE:
            self._unlike.clear()
        self._unlike.add(unlike)

    async def _carry(self, held: Held) -> None:
        errand = self._errand(held.claim)
        if errand is HANDED_BACK:
            self._stand_back(held.claim)
        if isinstance(errand, Outcome):
            held.outcome = errand
            await self._try_to_post(held)
        elif self._clock.elapsed() < held.until:  # else we were paused since the claim: nothing is started
            await self._execute(held, errand)

    def _errand(self, claim: Claim) -> Errand | Outcome:
        try:
            job = self._find_job(claim)
        except WRONG:  # what came with it is of another version, or nobody's: no reason to stop working
            return NOT_UNDERSTOOD
        errand = errand_of(claim, job, self._clock.now())
        unable = isinstance(errand, Errand) and type(errand.job.action) not in self.executors
        return HANDED_BACK if unable else errand

    async def _execute(self, held: Held, errand: Errand) -> None:
        executor = self.executors[type(errand.job.action)]
        try:
            held.outcome = await executor.run(errand.job, errand.run)
            await self._try_to_post(held)
        finally:
            executor.forget(errand.run)

    async def _try_to_post(self, held: Held) -> None:
        if self._clock.elapsed() < self._down_until:
            return
        try:
            await self._post(held)
        except StoreDown as down:
            self._is_down(down)

    async def _post(self, held: Held) -> None:
        """The outcome goes to the leader. Refused: it was lost meanwhile, and the outcome is nobody's."""
        if held.posting or held.outcome is None or held.lost:
            return
        held.posting = True
        try:
            kept = await self.dispatch.finish(held.claim, outcome_to_json(held.outcome))
        finally:
            held.posting = False
            self._drop_if_lost(held)
        self.acked += kept
        if not kept:
            self._observer(Trouble(self._clock.now(), "claim_lost", {"run": held.claim.task.id, "ended": True}))
        self._over(held)

    def _drop_if_lost(self, held: Held) -> None:
        """Its claim ran out while its outcome was on its way."""
        if held.lost:
            self._over(held)

    def _ended(self, held: Held, task: asyncio.Task[None]) -> None:
        """An exception here is a defect of ours: the worker stops loudly."""
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
        waits = held.outcome is not None and not held.lost and self._patient and self._fault is None
        if not waits:
            self._over(held)

    def _over(self, held: Held) -> None:
        if self._held.get(held.claim.task.id) is held:
            del self._held[held.claim.task.id]
        self._progress.set()
        self._wakeup.set()


async def _wait(event: asyncio.Event, most: Millis) -> None:
    try:
        async with asyncio.timeout(most / SECOND):
            await event.wait()
    except TimeoutError:
        return
