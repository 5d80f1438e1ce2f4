"""Agents that were registered over the API: documents in the store, jobs in the engine, one change at a time."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import NoReturn

from vmsh_scheduler.domain import agents
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.agents import PAUSED, Agent, Refused
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.health import is_agent
from vmsh_scheduler.domain.job import Job, Origin
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Interval, Millis
from vmsh_scheduler.engine.engine import Engine
from vmsh_scheduler.errors import NotFound, StateWriteFailed
from vmsh_scheduler.ports import Specs
from vmsh_scheduler.sources.agents import registered_job

KIND = agents.KIND
SLICE = 100
ACTIONS = ("pause", "resume", "remove")
View = dict[str, object]
UrlProblem = Callable[[str], str]
"""Why this program would not call a stranger's URL; "" = it would."""


class Configured(Exception):
    """The agent stands in a file, which alone says what it is."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a registration has to keep to."""

    most: int
    most_per_user: int
    """0: no limit of their own."""
    timeout: Millis
    """Of a cycle: snapshot and callback."""
    url_problem: UrlProblem


class Registry:
    """`changing` is held while the job set changes, by whoever changes it: a reload loses no registration."""

    def __init__(self, specs: Specs, engine: Engine, rules: Rules) -> None:
        self.changing = asyncio.Lock()
        self.recall: Callable[[Sequence[str]], None] = lambda runs: None
        """Told of runs that need not be started any more; only runs that nobody has begun can be."""
        self._specs = specs
        self._engine = engine
        self._board = engine.board
        self._rules = rules
        self._stored_by = Counter(_user_of(id) for id in specs.all(KIND))
        """By user. Counted here, because asking for all of them at each registration would be felt with thousands."""

    @property
    def trouble(self) -> str:
        """Why the last change could not be stored."""
        return self._specs.trouble

    def close(self) -> None:
        """After the last change returned."""
        self._specs.close()

    @property
    def ids(self) -> Set[str]:
        """Of the jobs of every stored document."""
        return self._specs.all(KIND).keys()

    def jobs(self) -> dict[str, Job]:
        """Of every stored document; an agent in a file goes first."""
        found = (agents.stored(spec.document) for spec in self._specs.all(KIND).values())
        return {agent.job_id: registered_job(agent, self._rules.timeout) for agent in found}

    async def register(self, body: Mapping[str, object], user: str, *, by: str) -> tuple[str, View]:
        """A new agent, or another one in place of it, from zero. Raises Refused, Configured, StateWriteFailed."""
        async with self.changing:
            now = self._board.clock.now()
            agent = agents.registered(body, user, now)
            if agent.url and self._rules.url_problem(agent.url):
                raise Refused("callback_url_invalid")
            self._refuse_configured(agent.job_id)
            known = self._specs.get(KIND, agent.job_id)
            if known is None and self._is_full(user):
                raise Refused("max_agents_reached")
            if known is not None:
                agent = replace(agent, created_at=known.created_at)
            await self._store(agent, known, by)
            job = registered_job(agent, self._rules.timeout)
            before = await self._latest(job.id)
            state = agents.first_state(agent, job.revision, before, self._since(now))
            await self._put(job, state, Note("register", now, job.id, {"by": by}), known)
            return agent.key, self._record(agent)

    async def control(self, user: str, id: str, action: str, *, by: str) -> tuple[str, View | None]:
        """Raises NotFound, Refused (`invalid_action`, known only after the agent), Configured, StateWriteFailed."""
        async with self.changing:
            job_id, now = agents.job_id(user, id), self._board.clock.now()
            if job_id not in self._board.jobs:
                raise NotFound(f"{user}:{id}")
            if action not in ACTIONS:
                raise Refused("invalid_action")
            self._refuse_configured(job_id)
            spec = self._specs.get(KIND, job_id)
            if spec is None:
                raise NotFound(f"{user}:{id}")
            agent = agents.stored(spec.document)
            note = Note(action, now, job_id, {"by": by})
            if action == "remove":
                self.recall(await self._remove(spec, note))
                return agent.key, None
            agent = agents.changed(agent, action, now)
            await self._store(agent, spec, by)
            job, state = registered_job(agent, self._rules.timeout), await self._latest(job_id)
            if action == "resume":
                state = agents.resumed(state, self._since(now))
            await self._put(job, state, note, spec)
            if action == "pause":
                self.recall([run.id for run in state.runs])
            return agent.key, self._record(agent)

    async def views(self, user: str | None) -> AsyncIterator[list[View]]:
        """Of one user's agents, or of everybody's: files' first, then in the order of their registration. In slices:
        thousands at once would keep a start waiting."""
        board, every = self._board, (job for job in self._board.jobs.values() if is_agent(job))
        shown = [job for job in every if user is None or job.labels["user"] == user]
        for start in range(0, len(shown), SLICE):
            some = shown[start : start + SLICE]
            yield [agents.view(self._agent(job), board.state(job.id), pending=job.id in board.waiting) for job in some]
            await asyncio.sleep(0)

    def shown(self, job_id: str, state: JobState | None) -> tuple[str, View | None] | None:
        """An agent's key and record as the original keeps them, no record if it is gone; None for other jobs."""
        named = agents.named(job_id)
        if named is None:
            return None
        key, job = ":".join(named), self._board.jobs.get(job_id)
        spec = self._specs.get(KIND, job_id) if job is None or job.origin is Origin.API else None
        if state is not None and spec is not None:  # one that was just taken over is no job yet
            return key, agents.record(agents.stored(spec.document), state, pending=False)
        if state is None or job is None:
            return key, None
        return key, agents.record(_of_file(job, state), state, pending=False)

    def counts(self) -> dict[str, int]:
        every = [job for job in self._board.jobs.values() if is_agent(job)]
        running = sum(job.enabled and self._stored(job.id).pause is None for job in every)
        return {"count": len(every), "running": running, "paused": len(every) - running}

    def _agent(self, job: Job) -> Agent:
        spec = self._specs.get(KIND, job.id) if job.origin is Origin.API else None
        return _of_file(job, self._board.state(job.id)) if spec is None else agents.stored(spec.document)

    def _record(self, agent: Agent) -> View:
        return agents.record(agent, self._board.state(agent.job_id), pending=self._waits(agent))

    def _waits(self, agent: Agent) -> bool:
        return agent.job_id in self._board.waiting

    def _stored(self, job_id: str) -> JobState:
        """Without a slot that only waits for a permit: whoever changes the job takes it out of the queue."""
        return self._board.states.get(job_id) or JobState()

    async def _latest(self, job_id: str) -> JobState:
        """Asked for once the document is stored: meanwhile a run may have begun, ended, or been refused."""
        await self._board.sure(job_id)
        return self._stored(job_id)

    def _since(self, asked: Millis) -> Millis:
        """A change counts from when it was asked for, but from no instant that the clock was set back behind."""
        return min(asked, self._board.clock.now())

    def _is_full(self, user: str) -> bool:
        """One user's agents must not take the places of all others."""
        rules = self._rules
        mine = rules.most_per_user and self._stored_by[user] >= rules.most_per_user
        return bool(mine) or self._stored_by.total() >= rules.most

    def _refuse_configured(self, job_id: str) -> None:
        job = self._board.jobs.get(job_id)
        if job is not None and job.origin is Origin.FILE:
            raise Configured(job_id)

    async def _store(self, agent: Agent, known: Spec | None, by: str) -> None:
        version = 1 if known is None else known.version + 1
        spec = Spec(KIND, agent.job_id, agent.document(), version, agent.created_at, agent.updated_at, by[:120])
        if not await self._specs.save(spec):
            raise StateWriteFailed(f"{agent.key} was changed by somebody else meanwhile", hint="try again")
        self._stored_by[agent.user] += known is None

    async def _put(self, job: Job, state: JobState, note: Note, known: Spec | None) -> None:
        """`known`: the document before, which counts again if the state cannot be written."""
        if await self._engine.put(job, state, note):
            return
        if known is None:
            await self._taken_back(self._delete(job.id))
        else:
            await self._taken_back(self._specs.save(replace(known, version=known.version + 2)))

    async def _remove(self, spec: Spec, note: Note) -> list[str]:
        """The runs that it leaves."""
        await self._delete(spec.id)
        runs = [run.id for run in self._stored(spec.id).runs]
        if not await self._engine.drop(spec.id, note):
            self._stored_by[_user_of(spec.id)] += 1
            await self._taken_back(self._specs.save(replace(spec, version=1)))
        return runs

    async def _delete(self, job_id: str) -> bool:
        gone = await self._specs.delete(KIND, job_id)
        self._stored_by[_user_of(job_id)] -= gone
        return gone

    async def _taken_back(self, undoing: Awaitable[bool]) -> NoReturn:
        """A change whose second half was refused; the first would come into force at the next start."""
        why = self._board.write_error
        try:
            await undoing
        except StateWriteFailed as error:
            why = f"{why}; nor could it be taken back ({error.message}), so that it counts from the next start on"
        raise StateWriteFailed(f"not done: {why}", hint="free the state directory first")


def _user_of(job_id: str) -> str:
    named = agents.named(job_id)
    return "" if named is None else named[0]


def _of_file(job: Job, state: JobState) -> Agent:
    """What agents.yaml says, in the words of the API."""
    about = job.action.payload.get("agent")
    facts = about if isinstance(about, Mapping) else {}
    callback = job.action if isinstance(job.action, Callback) else None
    seen = state.first_seen or 0
    return Agent(
        user=job.labels["user"],
        id=job.labels["agent"],
        name=job.name,
        wallet=callback.wallet if callback else str(facts.get("walletAddress", "")),
        strategy=str(facts.get("strategyLabel", "")),
        interval=job.trigger.every if isinstance(job.trigger, Interval) else 0,
        url=callback.url if callback else "",
        status="RUNNING" if job.enabled else PAUSED,
        created_at=seen,
        updated_at=seen,
    )
