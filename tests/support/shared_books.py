"""The journal of instances that share a Redis, gathered while they work, and what must not be found in it.

The rows of an agent are trimmed after about a minute, so whoever wants them all follows the streams.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.judging import Call
from tests.support.ledger import Entry, slots_of
from tests.support.redis_server import RedisServer
from vmsh_scheduler.domain.codec import decision_from_json, execution_from_json
from vmsh_scheduler.domain.decision import Verdict
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.stores.chain import START, Link, Row, Segment, check
from vmsh_scheduler.stores.redis.batch import parse_link
from vmsh_scheduler.stores.redis.journal import RedisJournal
from vmsh_scheduler.stores.redis.keys import AGENTS as POOL
from vmsh_scheduler.stores.redis.keys import Keys

AGENTS = "_agents/"


class Decided(NamedTuple):
    """One slot, one decision; a row about several is several of these."""

    slot: Millis
    verdict: Verdict
    reason: str
    run: str
    at: Millis = 0


class Ended(NamedTuple):
    """What counts of an execution."""

    run: str
    slot: Millis
    status: Status
    code: str
    fence: int
    finished_at: Millis


@dataclass
class Story:
    """Everything that was written about one job."""

    decided: list[Decided] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    never: set[str] = field(default_factory=set)
    """Runs that are said to have never begun."""

    @property
    def fired(self) -> set[Millis]:
        return {each.slot for each in self.decided if each.verdict is Verdict.FIRED}

    @property
    def done(self) -> set[Millis]:
        return {each.slot for each in self.ended if each.status is Status.OK}

    @property
    def newest(self) -> Millis:
        """Slot of the newest success."""
        return max((each.slot for each in reversed(self.ended[-20:]) if each.status is Status.OK), default=0)


Stories = Mapping[str, Story]


@dataclass
class Gathering:
    """Follows the streams from the first row on; `findings` are rows that are missing, edited or out of line."""

    redis: RedisServer
    keys: Keys = field(default_factory=lambda: Keys("forgeos:scheduler"))
    stories: defaultdict[str, Story] = field(default_factory=lambda: defaultdict(Story))
    links: dict[str, Link] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def gather(self) -> None:
        """Raises redis.RedisError when it does not answer; what was read until then is kept."""
        with self.redis.client(socket_timeout=10.0, retry=Retry(NoBackoff(), 0)) as client:
            jobs = list(client.hkeys(self.keys.journal_heads))
            pipe = client.pipeline(transaction=False)
            for job in jobs:
                pipe.xrange(self.keys.journal(job), f"{self.links.get(job, Link()).seq + 1}-0", "+")
            for job, entries in zip(jobs, pipe.execute(), strict=True):
                if entries:
                    self._take(job, [_row(job, id, fields) for id, fields in entries])

    def finish(self) -> None:
        """Nobody writes any more: the rows end where the store says they do, and what it kept verifies."""
        self.gather()
        with self.redis.client() as client:
            heads = client.hgetall(self.keys.journal_heads)
            self.findings += RedisJournal(client, self.keys).verify()
        for job, text in heads.items():
            if parse_link(text)[0] != self.links.get(job):
                self.findings.append(f"{job}: the store says {text}, the last row is {self.links.get(job)}")

    def open_runs(self) -> list[str]:
        """Those that nobody has claimed wait for whoever comes next: all have stopped, and that is as it should be."""
        with self.redis.client() as client:
            states = client.hgetall(self.keys.states)
            queues = [self.keys.queue(pool).ready for pool in (POOL, "")]
            ready = {id for queue in queues for id in client.lrange(queue, 0, -1)}
        runs = [(job, run["id"]) for job, text in states.items() for run in json.loads(text).get("runs", ())]
        return [f"{job}: {id}" for job, id in runs if id not in ready]

    def _take(self, job: str, rows: Sequence[Row]) -> None:
        before, last = self.links.get(job), rows[-1]
        read = [Segment(job, 1, before.seq, START, before.hash)] if before else []
        self.findings += check(job, read, rows, Link(last.seq, last.hash))
        self.links[job] = Link(last.seq, last.hash)
        for row in rows:
            tell(self.stories[job], row.kind, json.loads(row.body))


def tell(story: Story, kind: str, body: Mapping[str, Any]) -> None:
    """One row more."""
    if kind == "decision":
        decision = decision_from_json(body)
        run, why = decision.run_id, decision.reason.value
        at = decision.at
        story.decided += [Decided(slot, decision.verdict, why, run, at) for slot in slots_of(decision)]
    elif kind == "execution":
        it = execution_from_json(body)
        run_id, outcome = it.run.id, it.outcome
        story.ended.append(Ended(run_id, it.run.slot, outcome.status, outcome.code, it.run.fence, it.finished_at))
    elif body["kind"] == "never_began":
        story.never.add(str(body["details"]["run"]))


def _row(job: str, id: str, fields: Mapping[str, str]) -> Row:
    return Row(job, int(id.partition("-")[0]), fields["kind"], fields["body"], fields["prev"], fields["hash"])


def unexplained(stories: Stories, until: Millis) -> list[str]:
    """Fired slots up to `until` that never succeeded. A job that always can, and whose retries never end, gives no
    other explanation: whatever is skipped is not fired."""
    return [
        f"{job}/{slot} was fired and never succeeded: {_told(story, slot)}"
        for job, story in stories.items()
        for slot in sorted(story.fired - story.done)
        if slot <= until
    ]


def acknowledged_twice(stories: Stories) -> list[str]:
    return [
        f"{job}/{slot} succeeded {count} times: {_told(story, slot)}"
        for job, story in stories.items()
        for slot, count in Counter(each.slot for each in story.ended if each.status is Status.OK).items()
        if count > 1
    ]


def misbooked(stories: Stories) -> list[str]:
    """Executions that nobody decided, runs with two ends, slots with two decisions."""
    return [finding for job, story in stories.items() for finding in _misbooked(job, story)]


def _misbooked(job: str, story: Story) -> Iterator[str]:
    fired = story.fired
    yield from (f"{job}/{each.slot}: no decision fired {each}" for each in story.ended if each.slot not in fired)
    runs = Counter(each.run for each in story.ended)
    yield from (f"{job}: run {run} ended {count} times" for run, count in runs.items() if count > 1)
    yield from (f"{job}: run {run} never began, and ended" for run in story.never & set(runs))
    slots = Counter(each.slot for each in story.decided)
    yield from (f"{job}/{slot} has {count} decisions" for slot, count in slots.items() if count > 1)


def undecided(stories: Stories, every: Millis) -> list[str]:
    """Slots without a row: the grid of a cadence has no hole, each cycle of an agent is one interval after the last."""
    return [
        finding
        for job, story in stories.items()
        for finding in (_missing_cycles if job.startswith(AGENTS) else _holes)(job, story, every)
    ]


def _holes(job: str, story: Story, every: Millis) -> Iterator[str]:
    slots = {each.slot for each in story.decided}
    for slot in range(min(slots, default=0), max(slots, default=-1) + 1, every):
        if slot not in slots:
            yield f"{job}/{slot} has no decision"


def _missing_cycles(job: str, story: Story, every: Millis) -> Iterator[str]:
    """A slot that was passed over while the end of a run waited for the store has a row, and moves the next one."""
    ended = {each.slot: each.finished_at for each in story.ended if each.status is Status.OK}
    passed_over = sorted((row.slot, row.at) for row in story.decided if row.verdict is not Verdict.FIRED)
    for slot, following in pairwise(sorted(story.fired)):
        if slot in ended:
            passed = max((at for label, at in passed_over if slot < label < following), default=0)
            due = ended[slot] + every
            if following != (due if due > passed else passed + every):
                yield f"{job}: {following} follows {slot}, which ended at {ended[slot]}"


def against_ledger(stories: Stories, entries: Sequence[Entry]) -> list[str]:
    """What commands wrote themselves: no start without a row, no success that nobody had, none left out."""
    ended = {entry.run for entry in entries if entry.kind == "end"}
    return [*_unknown_starts(stories, entries), *_unseen_ends(stories, ended)]


def _unknown_starts(stories: Stories, entries: Iterable[Entry]) -> Iterator[str]:
    written = {job: {each.run for each in story.ended} for job, story in stories.items()}
    for entry in entries:
        if entry.kind == "start" and entry.run not in written.get(entry.job, ()):
            yield f"no execution of {entry}"
        if entry.kind == "start" and entry.job in stories and entry.run in stories[entry.job].never:
            yield f"said to have never begun: {entry}"


def _unseen_ends(stories: Stories, ended: set[str]) -> Iterator[str]:
    for job, story in stories.items():
        if not job.startswith(AGENTS):
            yield from (
                f"{job}: a success that the command did not have: {each}"
                for each in story.ended
                if each.status is Status.OK and each.run not in ended
            )


def against_consumer(stories: Stories, calls: Sequence[Call]) -> list[str]:
    """What a consumer accepted that checks key and fence: each cycle once, under fences that only rise."""
    accepted = {(call.job, call.slot) for call in calls if call.accepted}
    fired = {job: story.fired for job, story in stories.items()}
    return [
        *_accepted_twice(calls),
        *_stale(calls),
        *(f"nobody decided {call}" for call in calls if call.slot not in fired.get(call.job, ())),
        *(
            f"{job}/{slot} succeeded and was never accepted"
            for job, story in stories.items()
            if job.startswith(AGENTS)
            for slot in sorted(story.done)
            if (job, slot) not in accepted
        ),
    ]


def _accepted_twice(calls: Iterable[Call]) -> Iterator[str]:
    counted = Counter((call.job, call.slot) for call in calls if call.accepted)
    yield from (f"{job}/{slot} was accepted {count} times" for (job, slot), count in counted.items() if count > 1)


def _stale(calls: Iterable[Call]) -> Iterator[str]:
    newest: dict[str, int] = {}
    for call in calls:
        if call.accepted and call.fence < newest.get(call.job, 0):
            yield f"accepted after fence {newest[call.job]}: {call}"
        if call.accepted:
            newest[call.job] = max(call.fence, newest.get(call.job, 0))


def _told(story: Story, slot: Millis) -> str:
    rows = [*(row for row in story.decided if row.slot == slot), *(row for row in story.ended if row.slot == slot)]
    return "; ".join(map(str, rows))
