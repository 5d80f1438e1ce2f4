"""One instance of several over a shared Redis: leading or following, and working in either case."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import islice

from vmsh_scheduler.app import App
from vmsh_scheduler.domain import agents
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.events import Event, LeaderChanged, StateFailed
from vmsh_scheduler.domain.job import Job, Origin
from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.engine.control import Control
from vmsh_scheduler.engine.errand import body_of
from vmsh_scheduler.engine.handed import Collector, HandedExecutor
from vmsh_scheduler.engine.leadership import Leadership, Timing
from vmsh_scheduler.engine.worker import Worker
from vmsh_scheduler.errors import StateWriteFailed, StoreDown
from vmsh_scheduler.executors.callback import CallbackExecutor
from vmsh_scheduler.executors.deduped import DedupedCallbacks
from vmsh_scheduler.facts import OneOfSeveral
from vmsh_scheduler.forwarding import ANSWERED_WITHIN, FarControl, FarRegistry, answer
from vmsh_scheduler.members import Members
from vmsh_scheduler.originals import import_agents, restored
from vmsh_scheduler.ports import Claim, Lease
from vmsh_scheduler.redis_settings import exec_lease, renew_every
from vmsh_scheduler.registered import cycle_timeout
from vmsh_scheduler.registry import KIND
from vmsh_scheduler.sources.agents import registered_job
from vmsh_scheduler.stores.redis.scan import read_hash
from vmsh_scheduler.stores.redis.store import RedisStore
from vmsh_scheduler.stores.redis.values import MOST_TOLD
from vmsh_scheduler.troubles import Troubles

BEAT_S = 1.0
LAST_WORDS: Millis = 2 * SECOND
"""After its last run ended, how long a leader that stops waits to settle it."""
FRESH: Millis = SECOND
"""How old the picture that a follower shows may be."""
STALE: Millis = 10 * SECOND
"""How old the picture is at most of a follower that nobody asks: what is known of a store that loses everything."""

Document = Mapping[str, object]


def open_cluster(app: App, store: RedisStore) -> "Cluster":
    """Over an App whose store this is; nothing is asked of the server yet."""
    sections, bounds = app.settings.sections, app.engine.bounds
    timing = Timing(
        sections["redis.lock_ttl_ms"],
        renew_every(sections),
        sections["redis.backoff_min_ms"],
        sections["redis.backoff_max_ms"],
    )
    timeout = cycle_timeout(sections)

    def find_job(claim: Claim) -> Job | None:
        """A document's job is compiled from what the leader sent; everything else stands in this instance's files."""
        document = claim.task.body.get("agent")
        if "foreign" in claim.task.body:
            known = (agents.stored(spec.document) for spec in store.specs.all(KIND).values())
            document = next((agent.document() for agent in known if agent.key == claim.task.owner), None)
        if isinstance(document, Mapping):
            return registered_job(agents.stored(document), timeout)
        return None if app.jobs is None else app.jobs.jobs.get(str(claim.task.body.get("job")))

    callbacks = app.local[Callback]
    assert isinstance(callbacks, CallbackExecutor)  # noqa: S101  the only one
    skipped = app.cycles.metrics.deduped
    deduped = DedupedCallbacks(callbacks, store.dedupe, app.cycles.instance, skipped)
    worker = Worker(
        store.dispatch,
        {**app.local, Callback: deduped},
        find_job,
        app.clock,
        pools=bounds.permits(),
        lease=exec_lease(sections),
        observer=app.observers,
        start_after=app.clock.elapsed() + sections["agents.tick_ms"],
    )
    return Cluster(app, store, worker, timing)


class Cluster:
    """Implements app.Work. Its parts run until the process ends; what fails loudly in one ends all."""

    def __init__(self, app: App, store: RedisStore, worker: Worker, timing: Timing) -> None:
        self.app = app
        self.store = store
        self.worker = worker
        self.members = Members(app, store, worker)
        self.terms = 0
        self.recovered = 0
        """Runs that the original had claimed and not finished."""
        self.collector = Collector(store.dispatch, app.clock, app.observers, self._open_runs)
        self.leadership = Leadership(store.leases, app.clock, timing, self._term, store.leases.pttl)
        self._retire = asyncio.Event()
        """Lead no more: the last run of this instance is over."""
        self._broken = asyncio.Event()
        self._reign: asyncio.Future[None] | None = None
        self._looked_at: Millis = 0
        self._shown_at: Millis = -FRESH
        self._looking: asyncio.Future[None] | None = None
        self._known: tuple[Mapping[str, Spec], Mapping[str, JobState]] | None = None
        """Agents and states before a term looked for them, until all of them are known to stand in the store."""
        self._losses = 0
        """Of the store, as far as the worker was told."""
        self.troubles = Troubles(app, store, self.members, lambda: self.leadership.trouble)
        app.observers.observers.append(self._watch)

    @property
    def leads(self) -> bool:
        return self.app.fence > 0

    @property
    def running(self) -> int:
        return self.worker.running

    @property
    def last_tick(self) -> Millis:
        """Of the engine while it works, else of the look at who leads."""
        return self.app.engine.last_tick or self._looked_at

    async def run(self, stop: asyncio.Event) -> None:
        """For ever; whoever stops it drains first, and cancels."""
        self._follow()
        self._reign = asyncio.ensure_future(self.leadership.run(self._retire))
        parts = (self.store.wakes.listen(self._heard), self._beat(), self.worker.run(stop))
        tasks = [self._reign, *map(asyncio.ensure_future, parts)]
        try:
            while True:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                tasks = [task for task in tasks if not task.done()]
                if not tasks:
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def wake(self) -> None:
        self.worker.wake()
        self.app.engine.wake()

    async def drain(self, limit: Millis) -> bool:
        """The runs that this instance carries out; as the leader it settles them and gives the lock away."""
        orderly = await self.worker.drain(limit)
        self._retire.set()
        if self._reign is not None:
            await asyncio.wait({self._reign}, timeout=(LAST_WORDS + SECOND) / SECOND)
        with suppress(StoreDown):
            await self.store.instances.leave(self.app.cycles.instance)
        return orderly

    def hurry(self) -> None:
        self.worker.hurry()

    async def fresh(self) -> None:
        """What a follower shows is at most a second old afterwards, if Redis answers; never of an emptied one."""
        if self.leads:
            return
        if self._looking is None or self._looking.done():
            if self.app.clock.elapsed() - self._shown_at < FRESH:
                return
            self._shown_at = self.app.clock.elapsed()
            self._looking = asyncio.ensure_future(self._look())
        await asyncio.shield(self._looking)  # whoever comes meanwhile waits for the same picture

    async def _look(self) -> None:
        """Elected meanwhile: what was seen is older than what the leader has read."""
        with suppress(StoreDown):
            if await self.store.refresh() and not self.leads:
                self._known = None
                self._show()

    def condition(self) -> Document:
        return self.members.condition(self.troubles.problems())

    def details(self) -> Document:
        more: dict[str, object] = {"redis": self.store.options.address}
        more |= {"trouble": self.troubles.text, "junk": self.store.junk.count}
        more |= {"unreadable": dict(islice(self.store.harmed.items(), MOST_TOLD))}
        return {**self.condition(), **more, "queues": self.members.queues(), "members": self.members.rows()}

    @property
    def facts(self) -> OneOfSeveral:
        return OneOfSeveral(self)

    @property
    def connected(self) -> bool:
        return not self.troubles.down

    async def _term(self, lease: Lease, over: asyncio.Event) -> None:
        """Everything that is known is read anew; whatever cannot be written ends the term, and the next one reads."""
        lock = self.store.lead(lease)
        self._broken.clear()
        started: list[asyncio.Future[None]] = []
        try:
            await self._inherit()
            collecting = asyncio.ensure_future(self.collector.run())
            started.append(collecting)
            await self._take_over(lease)
            await self._govern(over, lock, collecting)
        except (StateWriteFailed, StoreDown) as error:
            self.troubles.term_ended(error)
        finally:
            self.store.follow()
            await self.app.engine.leave(0)
            for task in started:
                task.cancel()
            await asyncio.gather(*started, return_exceptions=True)
            self._follow()

    async def _inherit(self) -> None:
        """What stands in Redis, also what the original scheduler left there; before the collector looks for what was
        lost, so that its tasks are counted as what they are."""
        await self._read()
        records = await read_hash(self.store.client, self.store.keys.agents)
        specs, states = self.store.specs, self.store.states
        timeout = cycle_timeout(self.app.settings.sections)
        found = await import_agents(
            records.values(), specs, states.all(), timeout, self.app.clock.now(), barred=self.store.harmed
        )
        await states.apply(found)
        self.recovered += await self.store.dispatch.recover_foreign()
        await self.store.dispatch.recovered(self._open_runs())

    def _open_runs(self) -> set[str] | None:
        """None while a state cannot be read, since it may come back with runs of its own."""
        states = self.store.states
        return None if states.harmed else states.open_runs()

    async def _take_over(self, lease: Lease) -> None:
        handed = {kind: HandedExecutor(self.collector, self._body, here) for kind, here in self.app.local.items()}
        self.app.begin_term(lease.fence, handed)
        if self.app.registry is not None:
            self.app.registry.recall = self.collector.recall
        self.terms += 1
        self.app.observers(LeaderChanged(self.app.clock.now(), self.app.cycles.instance, lease.fence))
        self.members.resize()
        if self.app.jobs is not None:
            await self.app.put_in_force(self.app.jobs, first=self.terms == 1)
        self.troubles.term_began()

    async def _read(self) -> None:
        """A store that lost everything gets back what this instance knew of it; its journal begins anew."""
        specs, states = self._known = self._known or (self.store.specs.all(KIND), self.store.states.all())
        await self.store.specs.refresh()
        await self.store.states.load()
        if not await self.store.identity.stands():  # asked last: it may be emptied while we read
            await self._restore(specs, states)
        await self.store.identity.settle()
        self._known = None

    async def _restore(self, specs: Mapping[str, Spec], states: Mapping[str, JobState]) -> None:
        """What runs on claims that are gone is ended at the next beat of whoever runs it; nothing starts before."""
        self.troubles.tell(
            "state_lost", f"{len(specs)} agents and {len(states)} states were known here and are restored"
        )
        for spec in specs.values():
            await self.store.specs.save(replace(spec, version=1))
        changes = restored(states, self.store.states.all(), self.app.clock.now())
        again = {run.id for change in changes if change.state is not None for run in change.state.runs}
        # before the states: whoever leads next, if we die between, must not take these for never begun
        await self.store.dispatch.presume_lost(sorted(again | self.store.states.open_runs()))
        await self.store.states.apply(changes)
        await asyncio.sleep(2 * BEAT_S)

    async def _govern(self, over: asyncio.Event, lock: str, collecting: "asyncio.Future[None]") -> None:
        """Ends in order when `over` is set, at once when something could not be written or the lock is lost."""
        engine = self.app.engine
        parts = (engine.run(over), self.store.requests.serve(lock, self._answer), _until(self._broken))
        tasks = [*map(asyncio.ensure_future, parts), collecting]
        ending = asyncio.ensure_future(self._wake_at(over))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if over.is_set() and not self._broken.is_set():
                await engine.leave(LAST_WORDS)
            for task in done:
                task.result()
        finally:
            for task in (*tasks, ending):
                task.cancel()
            await asyncio.gather(*tasks, ending, return_exceptions=True)

    async def _wake_at(self, over: asyncio.Event) -> None:
        await over.wait()
        self.app.engine.wake()

    def _body(self, job: Job, run: Run) -> Document:
        """What a worker is sent: never a command, those come from its own files."""
        spec = self.store.specs.get(KIND, job.id) if job.origin is Origin.API else None
        return body_of(job, run, self.app.cycles.instance, None if spec is None else spec.document)

    def _follow(self) -> None:
        self.app.begin_term(0)
        self._show()

    def _show(self) -> None:
        """A follower's engine does nothing; its board is the picture that views are made of."""
        app = self.app
        app.control = FarControl(self._ask)
        if isinstance(app.registry, FarRegistry):
            app.registry.ask_with(self._ask)
        if app.jobs is not None:
            app.engine.board.jobs = app.everything(app.jobs)

    async def _ask(self, verb: str, document: Document) -> Document:
        if self.leads:  # it became the leader meanwhile
            return await self._answer(verb, document)
        answered = await self.store.requests.ask(verb, document, ANSWERED_WITHIN)
        self._shown_at, self._looking = -FRESH, None  # a look that began before shows nothing of it
        return answered

    async def _answer(self, verb: str, document: Document) -> Document:
        control = self.app.control
        if not isinstance(control, Control):
            return {"error": "not_leading", "message": "this instance does not lead any more", "hint": "try again"}
        return await answer(control, self.app.registry, verb, document)

    async def _beat(self) -> None:
        """Says that we are there, and sees who else is, until this instance takes its leave."""
        while not self._retire.is_set():
            try:
                await self._beat_once()
                self.troubles.beat_done()
            except StoreDown as down:
                self.troubles.beat_failed(down)
            self.troubles.say()
            self._looked_at = self.app.clock.now()
            await asyncio.sleep(BEAT_S)

    async def _beat_once(self) -> None:
        await self.members.beat()
        stands, losses = await self.store.identity.stands(), self.store.identity.losses
        if losses != self._losses:
            self._losses = losses
            self.worker.doubt()
        if not stands:
            return
        if self.leads:
            self.members.resize()
            await self._notice_specs()
        elif self.app.clock.elapsed() - self._shown_at > STALE:
            await self.fresh()

    async def _notice_specs(self) -> None:
        """Documents that somebody wrote by hand (docs/redis.md)."""
        if await self.store.specs.refresh(self.store.identity.stands) and self.app.jobs is not None:
            await self.app.put_in_force(self.app.jobs)

    def _heard(self, word: str) -> None:
        """A word of another instance, or of this one; "" after a time without hearing."""
        self.store.requests.heard(word)
        kind = word.partition(" ")[0]
        if kind in ("", "ready"):
            self.worker.wake()
        if kind in ("", "outcome"):
            self.collector.wake()

    def _watch(self, event: Event) -> None:
        if isinstance(event, StateFailed):
            self._broken.set()


async def _until(event: asyncio.Event) -> None:
    await event.wait()
