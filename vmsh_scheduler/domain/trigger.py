"""When a job is due: slots, and which of them have passed."""

import hashlib
from dataclasses import dataclass
from enum import Enum

Millis = int
"""Either an instant (UTC, since the epoch) or a length of time; the name says which."""

SECOND: Millis = 1_000
MINUTE: Millis = 60 * SECOND
HOUR: Millis = 60 * MINUTE
DAY: Millis = 24 * HOUR


class Since(Enum):
    """What an interval counts from."""

    SLOT = "slot"
    """A fixed grid: never drifts, whatever runs take."""
    FINISH = "finish"
    """Fixed delay after the end of the last run."""


@dataclass(frozen=True, slots=True)
class Next:
    """The next undecided slot: its label, and the wall instant at which it comes due.

    They differ only while the clock stands behind the newest slot (decision 2)."""

    slot: Millis
    due: Millis


@dataclass(frozen=True, slots=True)
class Passed:
    """Slots that came due and are not decided yet, oldest to newest, `step` apart (one slot: step 0)."""

    oldest: Millis
    newest: Millis
    count: int
    step: Millis
    late: Millis
    """How long ago the newest one was due."""

    def drop_oldest(self, n: int) -> "Passed":
        """The same without its `n` oldest slots; n < count."""
        return Passed(self.oldest + n * self.step, self.newest, self.count - n, self.step, self.late)


@dataclass(frozen=True, slots=True)
class Interval:
    """Every `every` ms; on the epoch grid shifted by `phase`, or after the end of the last run."""

    every: Millis
    since: Since = Since.SLOT
    phase: Millis = 0

    def first(self, now: Millis) -> Next:
        """Due at once: the newest grid slot that has passed, or now."""
        if self.since is Since.FINISH:
            return Next(now, now)
        slot = self._grid_before(now)
        return Next(slot, slot)

    def following(self, newest: Millis | None, now: Millis) -> Next:
        """The first slot after both `now` and `newest`; behind the newest slot, elapsed time paces (decision 2)."""
        slot = now + self.every if self.since is Since.FINISH else self._grid_before(now) + self.every
        if newest is None or slot > newest:
            return Next(slot, slot)
        return Next(newest + self.every, now + self.every)

    def after(self, slot: Millis, offset: Millis) -> Next:
        """The very next grid slot after `slot`, passed or not; `offset` = due - label."""
        return Next(slot + self.every, slot + self.every + offset)

    def passed(self, upcoming: Next, now: Millis) -> Passed | None:
        """What has come due since `upcoming` was planned, by arithmetic, never by a loop."""
        if now < upcoming.due:
            return None
        if self.since is Since.FINISH:
            return Passed(upcoming.slot, upcoming.slot, 1, 0, now - upcoming.due)
        extra = (now - upcoming.due) // self.every
        newest = upcoming.slot + extra * self.every
        late = now - upcoming.due - extra * self.every
        return Passed(upcoming.slot, newest, extra + 1, self.every, late)

    def _grid_before(self, now: Millis) -> Millis:
        return (now - self.phase) // self.every * self.every + self.phase


@dataclass(frozen=True, slots=True)
class Manual:
    """Only when somebody asks."""

    def first(self, now: Millis) -> Next | None:
        return None

    def following(self, newest: Millis | None, now: Millis) -> Next | None:
        return None

    def after(self, slot: Millis, offset: Millis) -> Next | None:
        return None

    def passed(self, upcoming: Next, now: Millis) -> Passed | None:
        return None


Trigger = Interval | Manual


def stable_phase(job_id: str, splay: Millis) -> Millis:
    """A phase in 0..splay-1 that depends on the id alone, so that restarts and instances agree."""
    if splay <= 0:
        return 0
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8]) % splay
