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

SANE_CLOCK: Millis = 1_577_836_800_000
"""2020-01-01: before that the clock is not set, and no instant that it gives is a slot."""

JITTER: Millis = SECOND
"""A clock that is back by less was corrected, not set: grids stay as they are."""


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
        if n == 0:
            return self
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

    def a_period_later(self, now: Millis) -> Next:
        """The first slot at which one whole period has been waited."""
        if self.since is Since.FINISH:
            return Next(now + self.every, now + self.every)
        slot = self._grid_before(now + 2 * self.every - 1)
        return Next(slot, slot)

    def following(self, newest: Millis | None, now: Millis) -> Next:
        """The first slot after both `now` and `newest`; behind the newest slot, elapsed time paces (decision 2)."""
        slot = now + self.every if self.since is Since.FINISH else self._grid_before(now) + self.every
        if newest is None or slot > newest:
            return Next(slot, slot)
        return Next(newest + self.every, now + self.every)

    def anew(self, upcoming: Next | None, newest: Millis | None, now: Millis) -> Next:
        """Planned as this trigger where another one, or an earlier configuration, had planned `upcoming`.

        Grid slots below it have their decisions; those that have passed since still get theirs."""
        if upcoming is None or upcoming.slot < SANE_CLOCK:
            return self._first_above(newest, now)
        if upcoming.due < upcoming.slot and now < upcoming.slot:
            return Next(upcoming.slot, min(upcoming.due, now + self.every))
        if self.since is Since.FINISH:
            return self._first_above(newest, now)
        if self._on_grid(upcoming.slot) and upcoming.slot <= now + self.every + JITTER:
            return upcoming
        if now < upcoming.slot:
            return self.following(newest, now)
        return self._first_above(max(upcoming.slot - 1, newest or 0), now)

    def _first_above(self, newest: Millis | None, now: Millis) -> Next:
        first = self.first(now)
        return first if newest is None or first.slot > newest else self.following(newest, now)

    def clamped(self, upcoming: Next, now: Millis, slack: Millis) -> Next:
        """Due within one period: a label that lies ahead of the clock by less is waited for."""
        latest = now + self.every
        return Next(upcoming.slot, upcoming.slot if upcoming.slot <= latest + slack else min(upcoming.due, latest))

    def sane(self, upcoming: Next, first_seen: Millis | None, now: Millis) -> Next:
        """In place of what was planned before the clock was set: due at once, unless it was to wait a period."""
        waits = first_seen is not None and upcoming.due > first_seen
        return self.following(None, now) if waits else self.first(now)

    def after(self, slot: Millis) -> Next:
        """The very next grid slot after `slot`, passed or not."""
        return Next(slot + self.every, slot + self.every)

    def passed(self, upcoming: Next, now: Millis) -> Passed | None:
        """What has come due since `upcoming` was planned, by arithmetic, never by a loop.

        A label that is ahead of the clock comes alone and is never late: periods between two wrong clocks are no
        slots, and counting them would push the labels ever further ahead."""
        if now < upcoming.due:
            return None
        if self.since is Since.FINISH:
            return Passed(upcoming.slot, upcoming.slot, 1, 0, now - upcoming.due)
        if now < upcoming.slot:
            return Passed(upcoming.slot, upcoming.slot, 1, 0, 0)
        extra, late = divmod(now - upcoming.slot, self.every)
        return Passed(upcoming.slot, now - late, extra + 1, self.every, late)

    def takes(self, label: Millis, upcoming: Next | None) -> bool:
        """True if `label` is, or was, one of the slots that lead to `upcoming`, or is on the grid."""
        return self._on_grid(label) or (upcoming is not None and (upcoming.slot - label) % self.every == 0)

    def _on_grid(self, slot: Millis) -> bool:
        return self.since is Since.SLOT and (slot - self.phase) % self.every == 0

    def _grid_before(self, now: Millis) -> Millis:
        return (now - self.phase) // self.every * self.every + self.phase


@dataclass(frozen=True, slots=True)
class Manual:
    """Only when somebody asks."""

    def first(self, now: Millis) -> Next | None:
        return None

    def following(self, newest: Millis | None, now: Millis) -> Next | None:
        return None

    def anew(self, upcoming: Next | None, newest: Millis | None, now: Millis) -> Next | None:
        return None

    def after(self, slot: Millis) -> Next | None:
        return None

    def takes(self, label: Millis, upcoming: Next | None) -> bool:
        return False

    def passed(self, upcoming: Next, now: Millis) -> Passed | None:
        return None


Trigger = Interval | Manual


def stable_phase(job_id: str, splay: Millis) -> Millis:
    """A phase in 0..splay-1 that depends on the id alone, so that restarts and instances agree."""
    if splay <= 0:
        return 0
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:8]) % splay
