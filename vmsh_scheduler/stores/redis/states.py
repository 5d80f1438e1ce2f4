"""ports.States in Redis: memory for reading, one script for all changes that came while the last one was under way."""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from vmsh_scheduler.domain.codec import state_from_json
from vmsh_scheduler.domain.shape import fitting
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import NotLeading, StateUnreadable, StateWriteFailed, StoreDown, StoreRefuses
from vmsh_scheduler.ports import Change, Clock
from vmsh_scheduler.stores.chain import Link
from vmsh_scheduler.stores.redis.batch import (
    RECENT,
    ROWS,
    Batch,
    Chains,
    Mirroring,
    Prepared,
    fixed_keys,
    parse_link,
    prepare,
)
from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.identity import Stands, always
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scan import read_hash
from vmsh_scheduler.stores.redis.scripts import Script
from vmsh_scheduler.stores.redis.values import ANEW, Unreadable, document, number, read, shown

T = TypeVar("T")
_STATE = fitting(JobState)
APPLY = Script("states_apply")
MOST_CHANGES = 200
"""Of one script: Redis does nothing else meanwhile."""
MOST_BYTES = 1 << 20
YIELD_EVERY = 25
"""States that are read without a pause: some milliseconds."""
LOADS = 5
"""How often a picture that changed while it was taken is taken again."""


@dataclass(slots=True)
class _Entry:
    """One call of `apply`."""

    changes: Sequence[Prepared]
    answer: "asyncio.Future[StateWriteFailed | None]"


@dataclass(slots=True)
class _Doubt:
    """A job with changes that are not acknowledged: how many, and the newest state that is."""

    changes: int
    state: JobState | None


class _Picture(NamedTuple):
    """What Redis held after so many writes."""

    seen: int
    parsed: dict[str, tuple[int, JobState]]
    chains: Chains
    harmed: dict[str, str]
    """By job what of it cannot be read."""
    barred: frozenset[str]
    """Jobs whose chain cannot be read, so nothing can be written of them."""


class RedisStates:
    """Written by the leader alone: `load`, then `lead`. After a failure nothing is written until it loads again."""

    def __init__(
        self, client: Client, keys: Keys, clock: Clock, mirror: Mirroring | None = None, *, rows: int = ROWS
    ) -> None:
        self._client = client
        self._keys = keys
        self._clock = clock
        self._mirror = mirror
        self._rows = rows
        self._fixed = fixed_keys(keys)
        self._current: dict[str, JobState] = {}
        self._doubts: dict[str, _Doubt] = {}
        self._parsed: dict[str, tuple[int, JobState]] = {}
        self._chains = Chains()
        self.harmed: dict[str, str] = {}
        """By job what of it cannot be read: it has no state here, must not start, and its text stays as it is."""
        self.barred: frozenset[str] = frozenset()
        """Those of them of which nothing can be written, because their journal cannot be continued."""
        self._lock = ""
        self._broken: StateWriteFailed | None = StateWriteFailed("the states were not loaded yet")
        self._seen = 0
        """Writes of all leaders so far, as far as is known here."""
        self._queue: deque[_Entry] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._sent, self._took_ms = 0, 0

    @property
    def writes(self) -> tuple[int, float]:
        """Scripts acknowledged so far, and the seconds they took."""
        return self._sent, self._took_ms / 1000

    def get(self, job_id: str) -> JobState | None:
        return self._current.get(job_id)

    def all(self) -> Mapping[str, JobState]:
        return dict(self._current)

    def open_runs(self) -> set[str]:
        """Also those whose settled state is not acknowledged: it may be refused."""
        refused = (doubt.state for doubt in self._doubts.values() if doubt.state is not None)
        return {run.id for state in (*self._current.values(), *refused) for run in state.runs}

    async def load(self) -> None:
        """Memory shows what Redis holds, and changes may be applied again. Raises StoreDown, StateUnreadable."""
        await self._idle()
        await self._check_types()
        self._adopt(await self._picture(LOADS))
        self._broken = None

    async def refresh(self, stands: Stands = always) -> bool:
        """For a follower: False if nothing was written since the last look, or the store does not stand any more: then
        what is known here is worth more. Raises StoreDown, StateUnreadable."""
        if self._lock or await self._writes_so_far() == self._seen:
            return False
        picture = await self._picture(1)
        if not await stands() or self._lock:  # elected meanwhile: the leader has read more
            return False
        self._adopt(picture)
        return True

    def lead(self, lock_value: str) -> None:
        """Changes are written as long as the lock's key holds this value."""
        self._lock = lock_value
        self._parsed = {}

    def follow(self) -> None:
        """What was not sent yet fails, as does every later change."""
        self._lock = ""
        self._broken = NotLeading("this instance does not lead any more")

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        """Redis has no weaker acknowledgement than its answer: `durable` and `soon` make no difference."""
        if not changes:
            return
        self._check()
        prepared = [prepare(change, self._mirror) for change in changes]
        for change in prepared:
            self._doubt(change.job)
            self._show(change.job, change.state)
        entry = _Entry(prepared, asyncio.get_running_loop().create_future())
        self._queue.append(entry)
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_all())
        failed = await entry.answer
        if failed is not None:
            raise type(failed)(failed.message, hint=failed.hint)

    async def close(self) -> None:
        """What was applied is in Redis, or has failed."""
        await self._idle()

    async def _idle(self) -> None:
        while self._sender is not None:
            await asyncio.wait({self._sender})

    def _check(self) -> None:
        if not self._lock:
            raise NotLeading("this instance does not lead", hint="only the leader writes states")
        if self._broken is not None:
            raise type(self._broken)(self._broken.message, hint=self._broken.hint)

    def _doubt(self, job: str) -> None:
        doubt = self._doubts.get(job)
        if doubt is None:
            self._doubts[job] = _Doubt(1, self._current.get(job))
        else:
            doubt.changes += 1

    def _show(self, job: str, state: JobState | None) -> None:
        if state is None:
            self._current.pop(job, None)
        else:
            self._current[job] = state
            if job not in self.barred:
                self.harmed.pop(job, None)

    async def _send_all(self) -> None:
        """Everything that waits, batch by batch. A failure is one of everything: what follows was built on it."""
        try:
            while self._queue:
                entries = self._next_entries()
                try:
                    await self._send(entries)
                except StateWriteFailed as error:
                    self._fail(entries, error)
                except StoreDown as error:
                    self._fail(entries, StateWriteFailed(error.message, hint=error.hint))
                else:
                    self._settle(entries)
        finally:
            self._sender = None

    def _next_entries(self) -> list[_Entry]:
        """At least one, however large: a call of `apply` is never parted."""
        entries: list[_Entry] = []
        count = size = 0
        while self._queue:
            count += len(self._queue[0].changes)
            size += sum(change.size for change in self._queue[0].changes)
            if entries and (count > MOST_CHANGES or size > MOST_BYTES):
                break
            entries.append(self._queue.popleft())
        return entries

    async def _send(self, entries: Sequence[_Entry]) -> None:
        self._check()
        batch = Batch(self._keys, self._chains, self._rows, len(self._fixed))
        batch.take(change for entry in entries for change in entry.changes)
        began = self._clock.elapsed()
        args = [self._lock, self._seen, uuid.uuid4().hex, RECENT, *batch.args]
        self._seen = int(await APPLY.run(self._client, [*self._fixed, *batch.keys], args))
        self._sent += 1
        self._took_ms += self._clock.elapsed() - began

    def _settle(self, entries: Sequence[_Entry]) -> None:
        for change in (change for entry in entries for change in entry.changes):
            doubt = self._doubts[change.job]
            doubt.state, doubt.changes = change.state, doubt.changes - 1
            if not doubt.changes:
                del self._doubts[change.job]
        _answer(entries, None)

    def _fail(self, entries: Sequence[_Entry], error: StateWriteFailed) -> None:
        self._broken = error
        for job, doubt in self._doubts.items():
            self._show(job, doubt.state)
        self._doubts.clear()
        _answer([*entries, *self._queue], error)
        self._queue.clear()

    async def _check_types(self) -> None:
        """Raises StoreDown naming the first key that somebody else uses for something else."""
        pipe = self._client.pipeline(transaction=False)
        for key in self._fixed:
            pipe.type(key)
        types = self._keys.types()
        for key, found in zip(self._fixed, await guarded(pipe.execute()), strict=True):
            ours = types[key]
            if found not in (ours, "none"):
                hint = "another program uses the prefix: see redis.prefix"
                raise StoreRefuses(f"{key} holds a {found}, not a {ours} of ours (WRONGTYPE)", hint=hint)

    async def _picture(self, times: int) -> _Picture:
        """A picture that is not of one moment is told by its number: no change can be written upon it."""
        for _ in range(times):
            seen = await self._writes_so_far()
            states = await read_hash(self._client, self._keys.states)
            heads = await read_hash(self._client, self._keys.journal_heads)
            bases = await read_hash(self._client, self._keys.journal_base)
            if await self._writes_so_far() == seen:
                break
        harmed: dict[str, str] = {}
        parsed = await self._parse(states, harmed)
        unreadable: dict[str, str] = {}
        ends = {job: _read(parse_head, text, job, self._keys.journal_heads, unreadable) for job, text in heads.items()}
        begins = {job: _read(parse_head, text, job, self._keys.journal_base, unreadable) for job, text in bases.items()}
        if "" in unreadable:
            raise StateUnreadable(unreadable[""], hint="vmsh-scheduler history --verify shows what is left of it")
        chains = Chains(
            {job: link for job, link in ends.items() if link is not None},
            {job: link.seq for job, link in begins.items() if link is not None},
        )
        for job in unreadable:
            parsed.pop(job, None)
        return _Picture(seen, parsed, chains, harmed | unreadable, frozenset(unreadable))

    def _adopt(self, picture: _Picture) -> None:
        self._chains, self.harmed, self.barred = picture.chains, picture.harmed, picture.barred
        self._current = {job: state for job, (_, state) in picture.parsed.items()}
        self._parsed = {} if self._lock else picture.parsed
        self._seen = picture.seen
        self._doubts.clear()

    async def _parse(self, states: Mapping[str, str], harmed: dict[str, str]) -> dict[str, tuple[int, JobState]]:
        """With their texts' hashes, so that a follower reads only what changed. Lets others work in between: the lock
        is renewed on the same loop."""
        parsed: dict[str, tuple[int, JobState]] = {}
        for n, (job, text) in enumerate(states.items()):
            known, digest = self._parsed.get(job), hash(text)
            if known is not None and known[0] == digest:
                parsed[job] = known
            elif (state := _read(parse_state, text, job, self._keys.states, harmed)) is not None:
                parsed[job] = digest, state
            if n % YIELD_EVERY == 0:
                await asyncio.sleep(0)
        return parsed

    async def _writes_so_far(self) -> int:
        text = await guarded(self._client.hget(self._keys.meta, "writes"))
        return number_of_writes(None if text is None else str(text), self._keys)


def _answer(entries: Sequence[_Entry], error: StateWriteFailed | None) -> None:
    """Whoever still waits."""
    for entry in entries:
        if not entry.answer.done():
            entry.answer.set_result(error)


def number_of_writes(text: str | None, keys: Keys) -> int:
    """Raises StoreDown: nothing can be compared with what is no count."""
    return number(text, f"field writes of {keys.meta}", f"{ANEW}: redis-cli HSET {keys.meta} writes $(date +%s)")


def parse_state(text: str) -> JobState:
    """Raises Unreadable."""
    state: JobState = read(text, lambda data: _STATE(state_from_json(document(data))))
    return state


def parse_head(text: str) -> Link:
    """Raises Unreadable."""
    try:
        return parse_link(text)[0]
    except ValueError as error:
        raise Unreadable("it is not a row's number and hash") from error


def _read(parse: Callable[[str], T], text: str, job: str, key: str, harmed: dict[str, str]) -> T | None:
    try:
        return parse(text)
    except Unreadable as why:
        harmed[job] = f"the field {shown(job)} of {key} cannot be read: {why}"
        return None
