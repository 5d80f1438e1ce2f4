"""Who may run beside whom: jobs of one lane take turns, in the order they came."""

from collections import Counter, deque
from collections.abc import Callable
from itertools import chain

from vmsh_scheduler.engine.board import Release


class Lanes:
    """A lane is held by one job at a time, whose runs may overlap until another job waits; that one stands in line."""

    def __init__(self, waits: Callable[[Release], bool]) -> None:
        self._waits = waits
        self._holders: dict[str, Counter[str]] = {}
        self._lines: dict[str, deque[Release]] = {}
        self._held_back: set[str] = set()
        """Lanes in whose line a slot of their own holder stood."""

    def enter(self, release: Release) -> bool:
        """True: the lane is the job's. False: the release stands in line."""
        lane, job_id = release.job.lane, release.job.id
        if self._is_kept_from(lane, job_id):
            self._lines.setdefault(lane, deque()).append(release)
            if job_id in self._holders[lane]:
                self._held_back.add(lane)
            return False
        self.occupy(lane, job_id)
        return True

    def _is_kept_from(self, lane: str, job_id: str) -> bool:
        """By those in line even from a lane that it holds: runs that overlap without end would keep them out."""
        holders = self._holders.get(lane)
        if not holders:
            return False
        in_line = (release.job.id for release in self._lines.get(lane, ()) if self._waits(release))
        return any(other != job_id for other in chain(holders, in_line))

    def occupy(self, lane: str, job_id: str) -> None:
        """Without asking: a run that goes on since before a crash has its lane already."""
        self._holders.setdefault(lane, Counter())[job_id] += 1

    def leave(self, lane: str, job_id: str) -> Release | None:
        """A run of the lane is over; who is next in line and still waits, if the lane is free now."""
        holders = self._holders[lane]
        holders[job_id] -= 1
        if not holders[job_id]:
            del holders[job_id]
        if holders:
            return None
        del self._holders[lane]
        return self._next(lane)

    def let_in(self) -> list[Release]:
        """Slots of holders that stood behind others, who were withdrawn: nobody keeps them out any more."""
        return [self._lines[lane].popleft() for lane in tuple(self._held_back) if self._is_its_holders_turn(lane)]

    def _is_its_holders_turn(self, lane: str) -> bool:
        """Only of those that `enter` takes, or they would lose their place in line."""
        first = self._first(lane)
        return first is not None and lane in self._holders and not self._is_kept_from(lane, first.job.id)

    def _next(self, lane: str) -> Release | None:
        return None if self._first(lane) is None else self._lines[lane].popleft()

    def _first(self, lane: str) -> Release | None:
        """Of the line, who still waits; those before it were withdrawn."""
        line = self._lines.get(lane, deque())
        while line and not self._waits(line[0]):
            line.popleft()
        if line:
            return line[0]
        self._lines.pop(lane, None)
        self._held_back.discard(lane)
        return None
