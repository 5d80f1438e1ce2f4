"""Changes as the keys and arguments of one script: states, journal rows with their hashes, what a run leaves behind."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from vmsh_scheduler.domain.job import AGENT_PREFIX
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, Millis
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.chain import Link, next_row
from vmsh_scheduler.stores.local.text import Fact, change_payload, state_text
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Argument

ROWS = 1000
"""What the journal keeps per job (decision 19)."""
AGENT_ROWS = 100
"""Of an agent: thousands of them are awake every few seconds, and all rows are in memory."""
RECENT = 10_000
"""Of all jobs together, for lists that name no job."""
GONE_FOR: Millis = 30 * DAY
"""How long the rows of a job that is gone are kept."""
GONE = "gone"
"""Behind a head whose job is gone."""


class Mirror(NamedTuple):
    """What a reader of the original's keys sees of an agent."""

    agent: str
    record: str
    """JSON; "" = the agent is gone."""
    next_run_at: Millis | None = None
    """None: not scheduled (paused)."""


Mirroring = Callable[[str, JobState | None], tuple[str, str, Millis | None] | None]
"""The mirror of a job's state, None for no agent. A state of None asks for the mirror of an agent that is gone."""


class Prepared(NamedTuple):
    """One change as text, made when it was applied."""

    job: str
    state: JobState | None
    text: str
    facts: tuple[Fact, ...]
    run: str
    """That was settled."""
    mirror: Mirror | None
    size: int


def prepare(change: Change, mirroring: Mirroring | None) -> Prepared:
    found = mirroring(change.job_id, change.state) if mirroring is not None else None
    mirror = None if found is None else Mirror(*found)
    text = "" if change.state is None else state_text(change.state)
    facts = change_payload(change).facts
    run = "" if change.execution is None else change.execution.run.id
    size = len(text) + sum(len(fact.body) for fact in facts) + (0 if mirror is None else len(mirror.record))
    return Prepared(change.job_id, change.state, text, facts, run, mirror, size)


@dataclass(slots=True)
class Chains:
    """Where every job's chain stands in the one writer's memory."""

    heads: dict[str, Link] = field(default_factory=dict)
    trimmed: dict[str, int] = field(default_factory=dict)
    """By job the newest row that went."""


class Batch:
    """`keys` and `args` of states_apply.lua behind its fixed ones."""

    def __init__(self, names: Keys, chains: Chains, rows: int, fixed: int) -> None:
        self.keys: list[str] = []
        self.args: list[Argument] = []
        self._names = names
        self._chains = chains
        self._rows = rows
        self._fixed = fixed
        self._numbers: dict[str, int] = {}

    def take(self, changes: Iterable[Prepared]) -> None:
        touched: dict[str, None] = {}
        for change in changes:
            for fact in change.facts:
                self._row(fact)
                touched[fact.job] = None
            self._state(change)
            self._run(change)
        for job in touched:
            self._trim(job)

    def _row(self, fact: Fact) -> None:
        row = next_row(self._chains.heads.get(fact.job) or Link(), fact.job, fact.kind, fact.body)
        self._chains.heads[fact.job] = Link(row.seq, row.hash)
        where = (self._number(self._names.journal(fact.job)), fact.job)
        self._step("row", *where, row.seq, fact.kind, fact.at, fact.run, row.body, row.prev, row.hash)

    def _state(self, change: Prepared) -> None:
        mirror = change.mirror
        if change.state is not None:
            self._step("state", change.job, change.text)
        else:
            self._step("drop", change.job)
            self._step("leave", self._number(self._names.journal(change.job)), change.job, GONE_FOR)
        if mirror is not None and mirror.record:
            due = "" if mirror.next_run_at is None else mirror.next_run_at
            self._step("agent", mirror.agent, mirror.record, due)
        elif mirror is not None:
            self._step("gone", mirror.agent)
            self._free(mirror)

    def _run(self, change: Prepared) -> None:
        if change.run:
            self._step("settled", change.run)
            if change.mirror is not None:
                self._free(change.mirror)

    def _free(self, mirror: Mirror) -> None:
        self._step("free", self._number(self._names.agent_lease(mirror.agent)))

    def _trim(self, job: str) -> None:
        last, gone = self._chains.heads[job].seq, self._chains.trimmed.get(job, 0)
        rows = min(self._rows, AGENT_ROWS) if job.startswith(AGENT_PREFIX) else self._rows
        if last - gone >= rows + max(1, rows // 4):
            self._chains.trimmed[job] = last - rows
            self._step("trim", self._number(self._names.journal(job)), job, last - rows)

    def _step(self, name: str, *args: Argument) -> None:
        self.args += [name, *args]

    def _number(self, key: str) -> int:
        """Of a key in KEYS, which begin with the fixed ones."""
        number = self._numbers.get(key)
        if number is None:
            self.keys.append(key)
            number = self._numbers[key] = self._fixed + len(self.keys)
        return number


def parse_link(text: str) -> tuple[Link, bool]:
    """`<seq> <hash>`, and whether the job is gone. Raises ValueError."""
    seq, digest, *rest = text.split(" ")
    if rest not in ([], [GONE]):
        raise ValueError(text)
    return Link(int(seq), digest), bool(rest)


def fixed_keys(keys: Keys) -> Sequence[str]:
    return (
        keys.leader_lock,
        keys.meta,
        keys.states,
        keys.journal_base,
        keys.journal_heads,
        keys.journal_recent,
        keys.outcomes,
        keys.agents,
        keys.agent_schedule,
    )
