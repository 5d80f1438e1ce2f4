"""Who may run beside whom: jobs of one lane take turns, in the order they came."""

from collections import deque


class Lanes:
    """A lane is held by one job at a time (however many of its own runs overlap); others wait in line."""

    def __init__(self) -> None:
        self._holders: dict[str, tuple[str, int]] = {}
        self._waiting: dict[str, deque[str]] = {}

    def enter(self, lane: str, job_id: str) -> bool:
        """True: the lane is the job's. False: it stands in line."""
        holder, runs = self._holders.get(lane, (job_id, 0))
        if holder != job_id:
            line = self._waiting.setdefault(lane, deque())
            if job_id not in line:
                line.append(job_id)
            return False
        self._holders[lane] = (job_id, runs + 1)
        return True

    def leave(self, lane: str) -> str | None:
        """A run of the lane is over; the job that is next in line, if the lane is free now."""
        holder, runs = self._holders[lane]
        if runs > 1:
            self._holders[lane] = (holder, runs - 1)
            return None
        del self._holders[lane]
        line = self._waiting.get(lane)
        if not line:
            return None
        following = line.popleft()
        if not line:
            del self._waiting[lane]
        return following
