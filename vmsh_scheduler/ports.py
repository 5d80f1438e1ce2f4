"""Every seam of the program. Each has a local twin and, with its issue, a Redis one; one contract suite holds both."""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from vmsh_scheduler.domain.decision import Decision, Note
from vmsh_scheduler.domain.events import Event
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Execution, Found, Nothing, Outcome, Recovery, Run
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis

Observer = Callable[[Event], None]
"""Takes events as they happen; must not block and must not raise."""


class Clock(Protocol):
    """The only source of time."""

    def now(self) -> Millis:
        """Wall clock, UTC ms."""
        ...

    def elapsed(self) -> Millis:
        """Time since boot in ms, sleep included (CLOCK_BOOTTIME); never steps."""
        ...

    async def sleep_until(self, when: Millis, wakeup: asyncio.Event) -> None:
        """Return at wall instant `when`, when `wakeup` is set, or when the wall clock was stepped."""
        ...


class Executor(Protocol):
    """Carries out one kind of action. Never raises for what the action does: a failure is an Outcome."""

    async def run(self, job: Job, run: Run) -> Outcome:
        """Start and wait; `job.policy.timeout` and cancellation both end the whole process group."""
        ...

    async def recover(self, job: Job, run: Run) -> Recovery:
        """What is left of a run whose daemon died; never waits for it."""
        ...

    async def adopt(self, job: Job, run: Run) -> Outcome:
        """Wait for a run that `recover` found RUNNING, under its original deadline."""
        ...

    async def probe(self, job: Job, run: Run) -> bool | None:
        """Did an unknown run land? None = cannot say (no probe, or it would not answer)."""
        ...

    def forget(self, run: Run) -> None:
        """The run is settled durably: its record may go."""
        ...

    def hurry(self) -> None:
        """TERM everything now; the usual grace, then KILL."""
        ...


class Subjects(Protocol):
    """Finds what a run is about. One seam for every source of roots."""

    async def find(self, job: Job, state: JobState) -> Found | Nothing:
        """Never raises; `Nothing(failed=True)` if looking failed."""
        ...


@dataclass(frozen=True, slots=True)
class Change:
    """One atomic step of a job: its state after, and the journal rows that belong to it."""

    job_id: str
    state: JobState | None
    """None: the job is gone, drop its state."""
    decisions: tuple[Decision, ...] = ()
    execution: Execution | None = None
    notes: tuple[Note, ...] = ()


class States(Protocol):
    """Job states. A change is all or nothing, and acknowledged only when durable."""

    def get(self, job_id: str) -> JobState | None:
        """The newest state, acknowledged or not."""
        ...

    def all(self) -> Mapping[str, JobState]: ...

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        """`get` shows the new states before this first yields to the loop; it returns with the acknowledgement
        (on disk, with `soon` by a sync that others share; `durable=False`: handed to the kernel, and if an earlier
        change of one of the jobs is not acknowledged yet, together with that one).

        Raises StateWriteFailed: nothing of it may be acknowledged, `get` shows the last acknowledged states again,
        and every change applied after it fails too."""
        ...

    async def close(self) -> None:
        """Everything durable, a last snapshot written."""
        ...


class Journal(Protocol):
    """Decisions, executions and notes, newest first; derived from applied changes, at most 1 s late."""

    def decisions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Decision]: ...

    def executions(self, job_id: str = "", *, before: Millis | None = None, limit: int = 50) -> list[Execution]: ...

    def execution(self, run_id: str) -> Execution | None: ...

    def notes(self, *, limit: int = 50) -> list[Note]: ...

    def verify(self, job_id: str = "") -> list[str]:
        """Re-derives every hash chain; one line per finding, empty = intact."""
        ...


class Specs(Protocol):
    """Documents that arrived by API."""

    @property
    def trouble(self) -> str:
        """Why the last change could not be stored; "" = it could."""
        ...

    def get(self, kind: str, id: str) -> Spec | None: ...

    def all(self, kind: str) -> Mapping[str, Spec]:
        """By id, oldest first."""
        ...

    async def save(self, spec: Spec) -> bool:
        """Durable on return; version 1 is a new one. False: somebody else changed it meanwhile, nothing is stored.
        Raises StateWriteFailed."""
        ...

    async def delete(self, kind: str, id: str) -> bool:
        """False: there was none. Raises StateWriteFailed."""
        ...

    def close(self) -> None: ...


class Agenda(Protocol):
    """What comes due when, and what is ready to start."""

    async def schedule(self, job_id: str, due: Millis) -> None:
        """Look at the job at `due`; replaces an earlier entry of the same job."""
        ...

    async def cancel(self, job_id: str) -> None:
        """Neither due nor ready any more."""
        ...

    async def next_due(self) -> Millis | None: ...

    async def due(self, now: Millis, limit: int) -> Sequence[str]:
        """Take out the jobs whose time has come, in due order."""
        ...

    async def release(self, job_id: str, slot: Millis, priority: int, *, pool: str = "", share: str = "") -> None:
        """The job's open slot is ready; it waits for a permit. Shares take turns; within one the lower priority
        number goes first, then the older slot."""
        ...

    async def claim(self, limit: int, pool: str = "") -> Sequence[str]:
        """Take out up to `limit` ready jobs; each is this engine's until `ack`."""
        ...

    async def ack(self, job_id: str) -> None: ...

    async def depth(self, pool: str = "") -> int:
        """How many wait for a permit."""
        ...


@dataclass(frozen=True, slots=True)
class Lease:
    """Who leads, and the token that proves it: strictly rising over all holders, for ever."""

    name: str
    fence: int
    until: Millis | None = None


class Leases(Protocol):
    """Exclusive right to schedule. Local: the state directory's flock."""

    async def acquire(self, name: str) -> Lease | None:
        """None: somebody else has it. The fence is max(previous + 1, now in ms), persisted (decision 33)."""
        ...

    async def renew(self, lease: Lease) -> bool: ...

    async def release(self, lease: Lease) -> None: ...


class Counters(Protocol):
    """Attempts by key in fixed windows, shared by whoever shares the store."""

    async def hit(self, key: str, window: int, length: Millis) -> int:
        """Attempts in this window so far, this one included. Raises StoreDown."""
        ...


class Known(Enum):
    """What is known of an idempotency key that is about to be sent."""

    NEW = "new"
    DONE = "done"
    BUSY = "busy"


class Dedupe(Protocol):
    """Life of an idempotency key: leased while it is sent, done once it was taken (forge-os section 8)."""

    async def begin(self, key: str, owner: str) -> Known:
        """NEW: the key is leased to `owner`. Raises StoreDown: the receiver has to tell."""
        ...

    async def done(self, key: str, owner: str) -> None: ...

    async def failed(self, key: str, owner: str) -> None:
        """The lease ends, if it still is `owner`'s."""
        ...


@dataclass(frozen=True, slots=True)
class Task:
    """One run that any instance with a free permit may carry out."""

    id: str
    """The run's."""
    pool: str
    owner: str
    """Key of the agent, "" for none."""
    body: Mapping[str, object]
    """JSON: what a worker needs to know."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A task that is this worker's until `until`, a time of Clock.elapsed() taken before it was asked for."""

    task: Task
    until: Millis
    fence: int
    """The newest that was ever given, so at least the task's own."""
    token: str = ""
    """Tells this claim from every other claim of the same task."""


class Place(Enum):
    """Where a task is."""

    READY = "ready"
    CLAIMED = "claimed"
    ENDED = "ended"
    LOST = "lost"
    """Claimed once, and its lease ran out."""
    ABSENT = "absent"


class Dispatch(Protocol):
    """Runs on their way from the leader to a worker and back. Whatever fails raises StoreDown or NotLeading, and may
    have happened all the same: every step can be asked for again."""

    async def push(self, tasks: Sequence[Task]) -> None:
        """Ready, in this order. Leader only."""
        ...

    async def claim(self, pool: str, limit: int, lease: Millis) -> Sequence[Claim]: ...

    async def extend(self, claims: Sequence[Claim], lease: Millis) -> Mapping[str, Millis]:
        """Their new `until` by task id; one that is missing is this worker's no longer."""
        ...

    async def finish(self, claim: Claim, outcome: Mapping[str, object]) -> bool:
        """The outcome waits for the leader. False: the task is this worker's no longer, nothing is kept."""
        ...

    async def ended(self, ids: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        """Outcomes of those that ended; they stay until the settled state replaces them."""
        ...

    async def lost(self) -> Sequence[str]:
        """Take out the tasks whose lease ran out; `ended` says of them, too, that nobody saw the end. Leader only."""
        ...

    async def mend(self, waited: Sequence[str]) -> Sequence[str]:
        """Tasks that were taken out of the store's lists by hand are ready again, or lost if they may have begun; those
        of `waited`, pushed and not seen to end, that it does not know are lost, perhaps after a while in doubt. Returns
        all these. Leader only."""
        ...

    async def places(self, ids: Sequence[str]) -> Mapping[str, Place]: ...

    async def doubt(self, ids: Sequence[str]) -> Sequence[str]:
        """Those of `ids`, which `places` did not find, that the store may have forgotten: they count as claimed for a
        while, and are lost then. Leader only."""
        ...

    async def recovered(self, open_runs: Collection[str] | None) -> None:
        """When a term begins: `doubt` of all that are open and not found, whoever has their jobs; afterwards only a
        later loss makes doubt. None: not all of them are known, so that what was in doubt stays so. Leader only."""
        ...

    async def withdraw(self, ids: Sequence[str]) -> Sequence[str]:
        """Take out those that nobody has claimed; returns them. Leader only.

        All but the claimed end with code `resources`, so that a push that comes late changes nothing."""
        ...

    async def forget(self, ids: Sequence[str]) -> None:
        """Their outcomes may go: no settled state replaces them. Leader only."""
        ...

    async def outcomes(self) -> Sequence[str]:
        """Ids of all that ended and were neither settled nor forgotten."""
        ...

    async def depths(self, pool: str) -> tuple[int, int]:
        """How many are ready, and how many claimed."""
        ...
