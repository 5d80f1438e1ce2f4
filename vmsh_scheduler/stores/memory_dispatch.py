"""ports.Dispatch in memory. Twins that share a `Table` are instances of one cluster."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import NotLeading
from vmsh_scheduler.ports import Claim, Clock, Place, Task
from vmsh_scheduler.stores.stand_ins import LOST, WITHDRAWN, Document


@dataclass
class Held:
    """Who claimed a task, with which claim, and until when."""

    holder: object
    until: Millis


@dataclass
class Table:
    """What the instances share; the order of `ready` is the order of the pushes."""

    leader: str = ""
    fence: int = 0
    ready: dict[str, Task] = field(default_factory=dict)
    claimed: dict[str, tuple[Task, Held]] = field(default_factory=dict)
    outcomes: dict[str, Document] = field(default_factory=dict)


class MemoryDispatch:
    """`on_wake` hears `ready` and `outcome`, as whoever listens to the channel does."""

    def __init__(self, clock: Clock, table: Table | None = None, on_wake: Callable[[str], None] | None = None) -> None:
        self._clock = clock
        self.table = Table() if table is None else table
        self._on_wake = on_wake or (lambda _word: None)
        self._lock = ""

    def lead(self, lock_value: str) -> None:
        """`<holder>|<fence>|<instance>`, as the lock says (forge-os section 9); whoever led before leads no more."""
        self._lock = self.table.leader = lock_value
        self.table.fence = max(self.table.fence, int(lock_value.split("|")[1]))

    def follow(self) -> None:
        self._lock = ""

    async def push(self, tasks: Sequence[Task]) -> None:
        self._must_lead()
        for task in tasks:
            if await self._place(task.id) is Place.ABSENT:
                self.table.ready[task.id] = task
        self._on_wake("ready")

    async def claim(self, pool: str, limit: int, lease: Millis) -> Sequence[Claim]:
        until = self._clock.elapsed() + lease
        tasks = [task for task in self.table.ready.values() if task.pool == pool][:limit]
        for task in tasks:
            del self.table.ready[task.id]
            self.table.claimed[task.id] = (task, Held(self, until))
        return [Claim(task, until, self.table.fence) for task in tasks]

    async def extend(self, claims: Sequence[Claim], lease: Millis) -> Mapping[str, Millis]:
        until = self._clock.elapsed() + lease
        kept: dict[str, Millis] = {}
        for claim in claims:
            held = self._mine(claim)
            if held is not None:
                kept[claim.task.id] = held.until = until
        return kept

    async def finish(self, claim: Claim, outcome: Document) -> bool:
        if self._mine(claim) is None:
            return self.table.outcomes.get(claim.task.id) == outcome
        del self.table.claimed[claim.task.id]
        self.table.outcomes[claim.task.id] = dict(outcome)
        self._on_wake("outcome")
        return True

    async def ended(self, ids: Sequence[str]) -> Mapping[str, Document]:
        return {id: self.table.outcomes[id] for id in ids if id in self.table.outcomes}

    async def lost(self) -> Sequence[str]:
        self._must_lead()
        now = self._clock.elapsed()
        gone = [id for id, (_, held) in self.table.claimed.items() if held.until <= now]
        for id in gone:
            del self.table.claimed[id]
            self.table.outcomes[id] = LOST
        return gone

    async def mend(self, waited: Sequence[str]) -> Sequence[str]:
        """Nobody takes anything out of a table by hand."""
        self._must_lead()
        gone = [id for id in waited if await self._place(id) is Place.ABSENT]
        self.table.outcomes.update(dict.fromkeys(gone, LOST))
        return gone

    async def places(self, ids: Sequence[str]) -> Mapping[str, Place]:
        return {id: await self._place(id) for id in ids}

    async def doubt(self, ids: Sequence[str]) -> Sequence[str]:
        """A table forgets nothing."""
        self._must_lead()
        return ()

    async def recovered(self, open_runs: Collection[str] | None) -> None:
        self._must_lead()

    async def withdraw(self, ids: Sequence[str]) -> Sequence[str]:
        self._must_lead()
        taken = [id for id in ids if self.table.ready.pop(id, None) is not None]
        for id in ids:
            if id not in self.table.claimed:
                self.table.outcomes.setdefault(id, WITHDRAWN)
        return taken

    async def forget(self, ids: Sequence[str]) -> None:
        self._must_lead()
        for id in ids:
            self.table.outcomes.pop(id, None)

    async def outcomes(self) -> Sequence[str]:
        return list(self.table.outcomes)

    async def depths(self, pool: str) -> tuple[int, int]:
        ready = sum(task.pool == pool for task in self.table.ready.values())
        return ready, sum(task.pool == pool for task, _ in self.table.claimed.values())

    def _must_lead(self) -> None:
        if not self._lock or self._lock != self.table.leader:
            raise NotLeading("another instance leads, or none: the lock is not this one's")

    def _mine(self, claim: Claim) -> Held | None:
        """None: its lease ran out, or it is somebody else's."""
        _, held = self.table.claimed.get(claim.task.id, (None, None))
        if held is None or held.holder is not self or held.until <= self._clock.elapsed():
            return None
        return held

    async def _place(self, id: str) -> Place:
        if id in self.table.outcomes:
            return Place.LOST if self.table.outcomes[id] == LOST else Place.ENDED
        if id in self.table.claimed:
            late = self.table.claimed[id][1].until <= self._clock.elapsed()
            return Place.LOST if late else Place.CLAIMED
        return Place.READY if id in self.table.ready else Place.ABSENT
