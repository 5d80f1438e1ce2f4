"""ports.Dispatch in Redis: the execution queue of forge-os section 10, and one of its shape for commands."""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from itertools import chain, count, islice
from typing import Any
from uuid import uuid4

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import NotLeading
from vmsh_scheduler.ports import Claim, Clock, Place, Task
from vmsh_scheduler.stores.redis import refusals
from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.history import History
from vmsh_scheduler.stores.redis.keys import AGENTS, Keys
from vmsh_scheduler.stores.redis.scripts import Argument, Script
from vmsh_scheduler.stores.redis.together import Together
from vmsh_scheduler.stores.redis.values import Junk, Unreadable, document, read, shown
from vmsh_scheduler.stores.stand_ins import LOST, WITHDRAWN, Document

BATCH = 200
"""Tasks that one script handles: a millisecond or two, so that nobody waits long for the server."""
KIND = "agent_cycle"
UNSEEN = 2
"""For dispatch_mend.lua, where a queue would be: of these nothing is seen but that they are waited for, or open."""
DOUBTED: Millis = 20_000
"""The least that what the store may have forgotten counts as claimed: its worker notices meanwhile."""
JOB_LEASE: Millis = 15_000

_LOOK = "dispatch_look"
"""What the others look at before they write."""
_PUSH = Script("dispatch_push", _LOOK)
_CLAIM = Script("dispatch_claim", _LOOK)
_EXTEND = Script("dispatch_extend")
_FINISH = Script("dispatch_finish", _LOOK)
_LOST = Script("dispatch_lost", _LOOK)
_MEND = Script("dispatch_mend", _LOOK)
_PLACES = Script("dispatch_places")
_WITHDRAW = Script("dispatch_withdraw", _LOOK)
_FORGET = Script("dispatch_forget", _LOOK)
_FOREIGN = Script("dispatch_foreign", _LOOK)

Words = Sequence[Argument]
"""Of one task that ended, for the script."""


class RedisDispatch:
    """One instance's end of the queue; `job_lease` is how long the original would see an agent as under way.

    `exec_lease:<id>` and not the processing list says whose a task is: it names the claim. The processing list holds
    what is claimed at the moment, as many as all instances have permits, so LREM on it costs next to nothing."""

    def __init__(
        self,
        client: Client,
        keys: Keys,
        clock: Clock,
        instance: str,
        *,
        job_lease: Millis = JOB_LEASE,
        doubted: Millis = DOUBTED,
        junk: Junk | None = None,
    ) -> None:
        self._junk = junk or Junk()
        self._client = client
        self._keys = keys
        self._clock = clock
        self._instance = instance
        self._job_lease = job_lease
        self._doubted = doubted
        self._history = History(client, keys)
        self._lock = ""
        self._token = uuid4().hex
        self._numbers = count(1)
        self._steps = count(1)
        """Pushes and withdrawals, in the order in which they are to be heard."""
        self._unanswered: dict[str, str] = {}
        """Pool -> token of a claim whose answer was lost: what it took is asked for again."""
        self._endings: Together[Words, bool] = Together(self._end, BATCH)
        agents, commands = keys.queue(AGENTS), keys.queue("")
        self._queues = [
            name for q in (agents, commands) for name in (q.ready, q.processing, q.inflight, q.payloads, q.task_owners)
        ]
        self._exec_lease = keys.exec_lease("")
        self._agent_tasks = keys.agent_tasks("")

    def lead(self, lock_value: str) -> None:
        """What only the leader may do is done under this lock."""
        self._lock = lock_value

    def follow(self) -> None:
        self._lock = ""

    async def push(self, tasks: Sequence[Task]) -> None:
        lock = self._must_lead()
        keys = [*self._queues, self._keys.outcomes, self._keys.leader_lock]
        keys += [self._agent_tasks, self._keys.agent_lease(""), self._keys.wake, self._keys.meta]
        lease = _json({"instanceId": self._instance, "leaderFenceToken": _fence(lock), "ts": self._clock.now()})
        for batch in _batches(tasks):
            args: list[Argument] = [lock, self._job_lease, lease, next(self._steps)]
            for task in batch:
                args += [_queue(task.pool), task.id, task.owner, _json(self._payload(task, lock))]
            self._woken(await _PUSH.run(self._client, keys, args))

    async def claim(self, pool: str, limit: int, lease: Millis) -> Sequence[Claim]:
        again = self._unanswered.get(pool, "")
        token = again or f"{self._token}-{next(self._numbers):x}"
        keys = [*self._queue_keys(pool), self._keys.leader_fence, self._exec_lease, self._agent_tasks]
        until = self._clock.elapsed() + lease
        self._unanswered[pool] = token  # a cancelled caller gets no answer either
        args: list[Argument] = [limit, lease, self._head(token), "1" if again else "0"]
        fence, *found = await _CLAIM.run(self._client, keys, args)
        del self._unanswered[pool]
        return [
            Claim(self._task(pool, id, payload), until, int(fence), token)
            for id, payload in zip(found[::2], found[1::2], strict=True)
        ]

    async def extend(self, claims: Sequence[Claim], lease: Millis) -> Mapping[str, Millis]:
        kept: dict[str, Millis] = {}
        keys = [self._queues[2], self._queues[7], self._exec_lease]
        for batch in _batches(claims):
            args: list[Argument] = [lease]
            for claim in batch:
                args += [_queue(claim.task.pool), claim.task.id, self._head(claim.token)]
            until = self._clock.elapsed() + lease
            mine = await _EXTEND.run(self._client, keys, args)
            kept |= {claim.task.id: until for claim, ours in zip(batch, mine, strict=True) if ours}
        return kept

    async def finish(self, claim: Claim, outcome: Document) -> bool:
        """Those that end together share a script. For the outcome of a task that was not ours nobody waits."""
        text = "" if _is_foreign(claim.task) else _json(outcome)
        return await self._endings.ask((_queue(claim.task.pool), claim.task.id, self._head(claim.token), text))

    async def ended(self, ids: Sequence[str]) -> Mapping[str, Document]:
        """Few wait to be settled at any time, so of many ids those are asked for first."""
        there = set(await self.outcomes()) if len(ids) > BATCH else set(ids)
        found: dict[str, Document] = {}
        for batch in _batches([id for id in ids if id in there]):
            texts = await guarded(_awaitable(self._client.hmget(self._keys.outcomes, list(batch))))
            some = [(id, text) for id, text in zip(batch, texts, strict=True) if text is not None]
            found |= {id: self._document(text, f"the outcome of {shown(id)}") for id, text in some}
        return found

    async def lost(self) -> Sequence[str]:
        lock = self._must_lead()
        keys = [*self._queues, self._keys.outcomes, self._keys.leader_lock]
        keys += [self._exec_lease, self._agent_tasks, self._keys.wake]
        gone: list[str] = []
        while True:
            looked, *ids = await _LOST.run(self._client, keys, [lock, BATCH, _json(LOST)])
            gone += ids
            if int(looked) < BATCH:
                return gone

    async def mend(self, waited: Sequence[str]) -> Sequence[str]:
        """See dispatch_mend.lua. The lists are read after the payloads, so what is on its way stands in one or is
        looked at again there."""
        self._must_lead()
        astray = [words for queue in (0, 1) for words in await self._astray(queue)]
        return await self._mended([*astray, *((UNSEEN, id) for id in waited)])

    async def places(self, ids: Sequence[str]) -> Mapping[str, Place]:
        queues = self._queues
        keys = [queues[2], queues[3], queues[7], queues[8], self._keys.outcomes, self._exec_lease]
        found: dict[str, Place] = {}
        for batch in _batches(ids):
            words = await _PLACES.run(self._client, keys, [_json(LOST), *batch])
            found |= {id: Place(word) for id, word in zip(batch, words, strict=True)}
        return found

    async def doubt(self, ids: Sequence[str]) -> Sequence[str]:
        self._must_lead()
        _, another = await self._history.look()
        return await self._mended([(UNSEEN, id) for id in ids]) if another else ()

    async def recovered(self, open_runs: Collection[str] | None) -> None:
        lock = self._must_lead()
        name, another = await self._history.look()
        if another:
            if open_runs is None:  # a history waits for a term that can read them all, the first one does not
                return
            await self._mended([(UNSEEN, id) for id in open_runs])
        await self._history.settle(lock, name)

    async def withdraw(self, ids: Sequence[str]) -> Sequence[str]:
        lock = self._must_lead()
        await self.doubt(ids)  # a push that was claimed and then forgotten is no push that never came
        keys = [*self._queues, self._keys.outcomes, self._keys.leader_lock]
        keys += [self._agent_tasks, self._keys.agent_lease(""), self._exec_lease, self._keys.meta]
        taken: list[str] = []
        for batch in _batches(ids):
            args: list[Argument] = [lock, _json(WITHDRAWN), next(self._steps), *batch]
            taken += await _WITHDRAW.run(self._client, keys, args)
        return taken

    async def forget(self, ids: Sequence[str]) -> None:
        lock = self._must_lead()
        for batch in _batches(ids):
            await _FORGET.run(self._client, [self._keys.outcomes, self._keys.leader_lock], [lock, *batch])

    async def presume_lost(self, ids: Sequence[str]) -> None:
        """After a store lost everything: of those that it does not hold any more nobody knows whether they began."""
        self._must_lead()
        gone = [id for id, place in (await self.places(ids)).items() if place is Place.ABSENT]
        if gone:
            await guarded(self._client.hset(self._keys.outcomes, mapping=dict.fromkeys(gone, _json(LOST))))

    async def outcomes(self) -> Sequence[str]:
        ids: list[str] = await guarded(_awaitable(self._client.hkeys(self._keys.outcomes)))
        return ids

    async def depths(self, pool: str) -> tuple[int, int]:
        queue = self._keys.queue(pool)
        pipe = self._client.pipeline(transaction=False)
        pipe.llen(queue.ready)
        pipe.llen(queue.processing)
        ready, claimed = await guarded(pipe.execute())
        return int(ready), int(claimed)

    async def recover_foreign(self) -> int:
        """What the original left in the agents' queue goes on: see dispatch_foreign.lua. How many went back to ready.

        Claims of ours that ran out are `lost`'s, and stay."""
        lock = self._must_lead()
        keys = [*self._queue_keys(AGENTS), self._keys.leader_lock, self._exec_lease, self._agent_tasks]
        standing = set(await guarded(_awaitable(self._client.lrange(keys[1], 0, -1))))
        back = 0
        async for batch in self._foreign(keys[3], standing):
            back += int(await _FOREIGN.run(self._client, keys, [lock, *batch]))
        return back

    async def _mended(self, words: Sequence[tuple[int, str]]) -> list[str]:
        lock = self._must_lead()
        keys = [*self._queues, self._keys.outcomes, self._keys.leader_lock, self._exec_lease, self._keys.wake]
        done: list[str] = []
        for batch in _batches(words):
            args: list[Argument] = [lock, self._doubted, *chain(*batch)]
            done += await _MEND.run(self._client, keys, args)
        return done

    async def _astray(self, queue: int) -> list[tuple[int, str]]:
        """(queue, id) of each that is neither ready nor claimed, as it seems."""
        ready, _, inflight, payloads, _ = self._queues[queue * 5 : queue * 5 + 5]
        known = await guarded(_awaitable(self._client.hkeys(payloads)))
        if not known:
            return []
        waiting = await guarded(_awaitable(self._client.lrange(ready, 0, -1)))
        claimed = await guarded(_awaitable(self._client.zrangebyscore(inflight, "-inf", "+inf")))
        return [(queue, id) for id in sorted({*known}.difference(waiting, claimed))]

    async def _foreign(self, payloads: str, standing: set[str]) -> AsyncIterator[list[Argument]]:
        """(id, owner, "1" if it stood in processing and is not ours), in batches; those without a payload last."""
        cursor = 0
        while True:
            cursor, rows = await guarded(_awaitable(self._client.hscan(payloads, cursor, count=BATCH)))
            batch: list[Argument] = []
            for id, text in rows.items():
                task = self._task(AGENTS, id, text)
                batch += [id, task.owner, "1" if id in standing and _is_foreign(task) else "0"]
                standing.discard(id)
            if batch:
                yield batch
            if int(cursor) == 0:
                break
        for some in _batches(sorted(standing)):
            yield [word for id in some for word in (id, "", "1")]

    async def _end(self, batch: Sequence[Words]) -> Sequence[bool]:
        keys = [*self._queues, self._keys.outcomes, self._exec_lease, self._agent_tasks, self._keys.wake]
        mine = await _FINISH.run(self._client, keys, [word for words in batch for word in words])
        self._woken(mine[-1] if len(mine) > len(batch) else "")
        return [bool(ours) for ours in mine[: len(batch)]]

    def _woken(self, refused: str) -> None:
        """What was done is done without a word to others, who look once a second."""
        if refused:
            why = f"the Redis user may not PUBLISH to {self._keys.wake}, so all is found up to a second late (NOPERM)"
            refusals.refused(self._client, "wake", why)
        else:
            refusals.done(self._client, "wake")

    def _task(self, pool: str, id: str, payload: str) -> Task:
        """Of a foreign one the body is the payload under `foreign`: {} if it is no document."""
        found = self._document(payload, f"the task {shown(id)}")
        body, owner = found.get("vmsh"), found.get("queueKey")
        owner = owner if isinstance(owner, str) else ""
        return Task(id, pool, owner, body if isinstance(body, dict) else {"foreign": found})

    def _document(self, text: str, where: str) -> Document:
        try:
            return read(text, document)
        except Unreadable as why:
            self._junk.found(where, why)
            return {}

    def _must_lead(self) -> str:
        if not self._lock:
            raise NotLeading("another instance leads, or none: the lock is not this one's")
        return self._lock

    def _queue_keys(self, pool: str) -> list[str]:
        first = _queue(pool) * 5
        return self._queues[first : first + 5]

    def _head(self, token: str) -> str:
        """How the lease of a claim of ours begins; the script adds the rest."""
        return _json({"instanceId": self._instance, "claim": token})[:-1]

    def _payload(self, task: Task, lock: str) -> Document:
        return {
            "id": task.id,
            "kind": KIND if task.pool == AGENTS else "command",
            "queueKey": task.owner,
            "enqueuedAt": self._clock.now(),
            "leaderFenceToken": _fence(lock),
            "instanceId": self._instance,
            "vmsh": task.body,
        }


def _queue(pool: str) -> int:
    """Which of the two, as the scripts count them."""
    return 0 if pool == AGENTS else 1


def _fence(lock_value: str) -> int:
    return int(lock_value.split("|")[1])


def _is_foreign(task: Task) -> bool:
    return "foreign" in task.body


def _json(document: Document) -> str:
    return json.dumps(document, separators=(",", ":"))


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    """At most BATCH each; none of nothing."""
    return [list(islice(items, start, start + BATCH)) for start in range(0, len(items), BATCH)]


async def _awaitable(reply: Any) -> Any:
    """The library's types say that an answer may be there at once."""
    return await reply
