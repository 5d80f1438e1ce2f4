"""What the guarantees say a job does, slot by slot and without arithmetic: the model that the engine is held against.

Written from docs/guarantees.md; shares no code with domain/plan.py and domain/trigger.py."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from vmsh_scheduler.domain.job import CatchUp, Job, OnUnknown, Overlap
from vmsh_scheduler.domain.run import Outcome, Run, Status
from vmsh_scheduler.domain.trigger import Interval, Millis, Since

WAITS = {"network": (5, 8, 13, 21, 34, 55, 90, 145), "auth": (10, 16, 26, 42, 69, 111, 179, 290)}
"""Seconds after the k-th failure in a row."""
NOT_A_STEP: Millis = 1_000
AT_MOST = 10


class Told(NamedTuple):
    """The one decision of a slot."""

    job: str
    slot: Millis
    verdict: str
    reason: str


class Saved(NamedTuple):
    """What a crash leaves: a slot that only waits for a permit was never written."""

    label: Millis
    due: Millis
    open: Millis | None
    ready: Millis
    cause: str
    fired: bool
    attempt: int
    tried: str


@dataclass
class Model:
    """One job. `label`, `due`: the next undecided slot; `open`: the slot that is being tried."""

    job: Job
    now: Millis
    label: Millis = 0
    due: Millis = 0
    open: Millis | None = None
    ready: Millis = 0
    cause: str = ""
    fired: bool = False
    attempt: int = 0
    level: int = 0
    kind: str = ""
    """Of the last run that did not succeed."""
    closed: Millis = 0
    """The newest slot that was closed."""
    runs: list[Run] = field(default_factory=list)
    queued: bool = False
    paused: bool = False
    held: Run | None = None
    root: str = ""
    """What there is to run about; `tried`, `covered`: by the open slot's last attempt, by the last success."""
    tried: str = ""
    covered: str = ""
    strayed: bool = False
    """Its labels have left the grid (a label of a person's, then a clock set back), or its grid was changed."""
    told: list[Told] = field(default_factory=list)
    saved: Saved = field(init=False)

    def __post_init__(self) -> None:
        self.label = self.due = self.now if self.delay else self.now - self.now % self.every
        self.save()

    @property
    def every(self) -> Millis:
        assert isinstance(self.job.trigger, Interval)
        return self.job.trigger.every

    @property
    def delay(self) -> bool:
        assert isinstance(self.job.trigger, Interval)
        return self.job.trigger.since is Since.FINISH

    @property
    def used(self) -> Millis:
        return max(self.closed, self.open or 0)

    @property
    def running(self) -> Run | None:
        """The newest of its runs."""
        return self.runs[-1] if self.runs else None

    @property
    def allow(self) -> bool:
        return self.job.policy.overlap is Overlap.ALLOW

    @property
    def trying(self) -> bool:
        """The open slot itself runs."""
        return self.open in [run.slot for run in self.runs]

    def save(self) -> None:
        self.saved = Saved(
            self.label, self.due, self.open, self.ready, self.cause, self.fired, self.attempt, self.tried
        )

    def restore(self) -> None:
        self.label, self.due, self.open, self.ready, self.cause, self.fired, self.attempt, self.tried = self.saved
        self.queued = False

    def look(self, now: Millis) -> bool:
        """Decide every slot that has come due; True: the open slot is to start."""
        self.now = now
        if self.delay and not self.job.enabled:
            return False
        passed = [] if self.waits() else list(self.passed(now))
        if passed and (why := self.blame()):
            self.tell(passed, *why)
            self.plan(passed[-1])
            self.save()
        elif passed:
            self.choose(passed)
        return self.job.enabled and now >= self.ready and self.free()

    def free(self) -> bool:
        busy = self.trying if self.allow else bool(self.runs)
        return self.open is not None and not (busy or self.queued or self.paused or self.held)

    def passed(self, now: Millis) -> Iterator[Millis]:
        if now < self.due:
            return
        yield self.label
        slot = self.label + self.every
        while slot <= now and not self.delay:
            yield slot
            slot += self.every

    def waits(self) -> bool:
        """True: what has passed is decided when the run or the queue before it is over."""
        if not self.queued and (self.allow or not self.running):
            return False
        if self.job.policy.overlap is Overlap.WAIT:
            return True
        began = self.ready if self.queued or self.running is None else self.running.started_at
        return self.job.policy.catch_up is CatchUp.ALL and self.label <= began

    def blame(self) -> tuple[str, str] | None:
        """Why nothing fires now."""
        reasons = (
            (not self.job.enabled, ("skipped", "disabled")),
            (self.paused, ("skipped", "paused")),
            (self.held is not None, ("deferred", "held")),
            (self.queued, ("skipped", "capacity")),
            (self.running is not None and not self.allow, ("skipped", "overlap")),
            (self.open is not None and not self.trying, ("deferred", "backoff")),
        )
        return next((why for holds, why in reasons if holds), None)

    def choose(self, passed: list[Millis]) -> None:
        """One slot is opened by the catch-up policy, the others are accounted for."""
        policy, before = self.job.policy, len(self.told)
        young = [slot for slot in passed if self.now - slot <= policy.misfire_grace]
        everyone = policy.catch_up is CatchUp.ALL
        left = young[-AT_MOST:] if everyone else young
        self.tell([slot for slot in passed if slot not in set(left)], "missed", "limit" if everyone else "window")
        if not left:
            self.plan(passed[-1])
            self.save()
            return
        chosen = left[0] if everyone else left[-1]
        if everyone and len(left) > 1:
            self.label = self.due = left[1]
        else:
            self.tell(left[:-1], "superseded", "coalesced")
            self.plan(passed[-1])
        self.open, self.ready, self.fired = chosen, self.now, False
        self.attempt, self.tried = 0, ""
        self.cause = "catch_up" if len(self.told) > before else "due"
        if self.cause == "catch_up":
            self.save()

    def tell(self, slots: list[Millis], verdict: str, reason: str) -> None:
        self.told += [Told(self.job.id, slot, verdict, reason) for slot in slots]

    def plan(self, decided: Millis = 0) -> None:
        """The first slot after now; behind the newest label, elapsed time paces."""
        after = self.now + self.every if self.delay else self.now - self.now % self.every + self.every
        newest = max(decided, self.closed)
        self.label = self.due = after
        if after <= newest:
            self.label, self.due = newest + self.every, self.now + self.every
            self.strayed |= self.label % self.every != 0

    def clamp(self, now: Millis, slack: Millis = 0) -> None:
        """Nothing waits for longer than its own period, or its present backoff."""
        self.now, latest = now, now + self.every
        self.due = self.label if self.label <= latest + slack else min(self.due, latest)
        self.ready = min(self.ready, now + self.backoff())

    def backoff(self) -> Millis:
        return WAITS["auth" if self.kind == "auth" else "network"][min(self.level, 7)] * 1_000

    def step(self, now: Millis) -> None:
        """The clock was seen to step."""
        before = (self.due, self.ready)
        self.clamp(now)
        if before != (self.due, self.ready):
            self.save()

    def reload(self, job: Job, now: Millis) -> None:
        """Another configuration: what had passed is still decided, an open slot is tried at once."""
        if self.queued:
            self.restore()
        changed, self.job, self.now = job.revision != self.job.revision, job, now
        if not changed:
            self.clamp(now, NOT_A_STEP)
            self.save()
            return
        self.level = 0
        if self.open is not None and not self.held:
            self.ready = now
        self.replan()
        self.strayed = True
        self.save()

    def replan(self) -> None:
        """What was decided stays decided: nothing below `label` is planned again."""
        newest = self.now if self.delay else self.now - self.now % self.every
        if self.due < self.label and self.now < self.label:
            self.due = min(self.due, self.now + self.every)
        elif self.delay and newest > self.used:
            self.label = self.due = newest
        elif not self.delay and self.label % self.every == 0 and self.label <= self.now + self.every + NOT_A_STEP:
            pass
        elif self.delay or self.now < self.label:
            self.plan(self.used)
        else:
            fresh = newest > self.used and newest >= self.label
            self.label = self.due = newest
            if not fresh:
                self.plan(self.used)

    def nothing_to_do(self) -> str | None:
        if self.job.subject is None:
            return None
        return "no_batch" if not self.root else "unchanged" if self.root == self.covered else None

    def supersede(self) -> None:
        """A retry that finds another root gives its slot up."""
        if self.attempt and self.tried and self.root and self.tried != self.root:
            self.open = self.own_label()
            self.attempt, self.fired, self.cause = 0, False, "new_root"

    def begin(self, run: Run) -> None:
        self.runs.append(run)
        self.queued, self.tried = False, self.root if self.job.subject else ""
        self.attempt += 1
        if not self.fired:
            self.tell([run.slot], "fired", self.cause)
        self.fired = True
        self.save()

    def close(self, reason: str) -> None:
        assert self.open is not None
        if not self.fired:
            self.tell([self.open], "skipped", reason)
        self.queued = False
        self.shut()

    def shut(self) -> None:
        self.closed, self.level = self.used, 0
        self.open, self.attempt, self.held, self.tried, self.fired = None, 0, None, "", False
        if self.delay:
            self.plan(self.label - self.every)
        self.save()

    def end(self, run: Run, outcome: Outcome, now: Millis) -> None:
        self.now, mine = now, run.slot == self.open
        self.runs.remove(run)
        self.kind = outcome.error.value if outcome.error else ""
        if outcome.status is Status.OK:
            self.covered = run.found.digest if run.found else ""
            self.closed = max(self.closed, run.slot)
            self.shut() if mine else None
        elif not mine:
            pass  # its slot was given up when a newer one was opened beside it
        elif outcome.status is Status.UNKNOWN:
            self.held = run if self.job.policy.on_unknown is OnUnknown.HOLD else None
            self.ready = now
        else:
            self.failed(outcome, now)
        self.save()

    def failed(self, outcome: Outcome, now: Millis) -> None:
        self.level += 1
        self.kind = outcome.error.value if outcome.error else ""
        self.ready = now + self.backoff()

    def never_began(self, run: Run, now: Millis) -> None:
        self.runs.remove(run)
        if run.slot == self.open:
            self.ready = now
            self.attempt -= 1
        self.save()

    def trigger(self, now: Millis) -> None:
        """A person wants it now."""
        self.now = now
        if self.open is None or self.trying:
            self.open, self.cause, self.fired = self.own_label(), "manual", False
            self.attempt, self.tried = 0, ""
        self.ready = now
        self.save()

    def own_label(self) -> Millis:
        """Above every label used, and none that the grid will use or has used."""
        label = max(self.now, self.used + 1)
        taken = (label - self.label) % self.every == 0 or (not self.delay and label % self.every == 0)
        return label + 1 if taken else label
