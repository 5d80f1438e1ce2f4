"""Who may run beside whom: jobs of one lane take turns, in the order they came."""

from collections import Counter, deque
from collections.abc import Callable

from vmsh_scheduler.engine.board import Release


class Lanes:
    """A lane is held by one job at a time (however many of its own runs overlap); releases of others wait in line."""

    def __init__(self) -> None:
        self._holders: dict[str, Counter[str]] = {}
        self._lines: dict[str, deque[Release]] = {}

    def enter(self, release: Release) -> bool:
        """True: the lane is the job's. False: the release stands in line."""
        lane, job_id = release.job.lane, release.job.id
        holders = self._holders.get(lane)
        if holders and any(holder != job_id for holder in holders):
            self._lines.setdefault(lane, deque()).append(release)
            return False
        self.occupy(lane, job_id)
        return True

    def occupy(self, lane: str, job_id: str) -> None:
        """Without asking: a run that goes on since before a crash has its lane already."""
        self._holders.setdefault(lane, Counter())[job_id] += 1

    def leave(self, lane: str, job_id: str, waits: Callable[[Release], bool]) -> Release | None:
        """A run of the lane is over; who is next in line and still waits, if the lane is free now."""
        holders = self._holders[lane]
        holders[job_id] -= 1
        if not holders[job_id]:
            del holders[job_id]
        if holders:
            return None
        del self._holders[lane]
        return self._next(lane, waits)

    def _next(self, lane: str, waits: Callable[[Release], bool]) -> Release | None:
        line = self._lines.get(lane, deque())
        while line:
            release = line.popleft()
            if waits(release):
                return release
        self._lines.pop(lane, None)
        return None
