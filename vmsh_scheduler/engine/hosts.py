"""Where runs go: one slow place leaves a few permits to all others."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import count

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.engine.bounds import Bounds

Place = tuple[str, str]
"""Pool and host."""


class Hosts:
    """While a pool has enabled jobs of several hosts, none of them gets the pool's last permits (`Pool.to_one_host`).

    Whoever comes for a host that has all it may have waits in a line of its own, so that nobody waits behind it."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._running: Counter[Place] = Counter()
        self._jobs: Counter[Place] = Counter()
        self._lines: dict[Place, str] = {}
        """Names of lines in the agenda; used again, because an agenda forgets none."""

    def resize(self, bounds: Bounds) -> None:
        self._bounds = bounds

    def recount(self, jobs: Iterable[Job]) -> None:
        """Another job set is in force."""
        self._jobs = Counter(_place(job) for job in jobs if _counts(job))

    def exchange(self, before: Job | None, after: Job | None) -> None:
        """One job went, came, or became another."""
        if before is not None and _counts(before):
            _less(self._jobs, _place(before))
        if after is not None and _counts(after):
            self._jobs[_place(after)] += 1

    def enter(self, job: Job) -> None:
        self._running[_place(job)] += 1

    def leave(self, job: Job) -> None:
        _less(self._running, _place(job))

    def room(self, job: Job) -> int:
        """How many more may run where the job does; permits are counted by others."""
        return self._room(_place(job))

    def line(self, job: Job) -> str:
        """Where to wait for the job's host."""
        place = _place(job)
        if place not in self._lines:
            taken = set(self._lines.values())
            self._lines[place] = next(name for n in count(1) if (name := f"{job.pool}#{n}") not in taken)
        return self._lines[place]

    def lines(self, pool: str) -> Sequence[tuple[Place, str, int]]:
        """Of the pool: which there are, and how many of each may start."""
        return [(place, line, self._room(place)) for place, line in self._lines.items() if place[0] == pool]

    def close(self, place: Place) -> None:
        """Nobody waits in its line any more."""
        del self._lines[place]

    def _room(self, place: Place) -> int:
        name, host = place
        pool = self._bounds.pools.get(name)
        if pool is None:
            return 1
        if not host or not self._has_others(place):
            return pool.concurrency
        return pool.to_one_host - self._running[place]

    def _has_others(self, place: Place) -> bool:
        return any(other[0] == place[0] and other != place for other in self._jobs)


def _less(counter: Counter[Place], place: Place) -> None:
    counter[place] -= 1
    if counter[place] <= 0:
        del counter[place]


def _place(job: Job) -> Place:
    return job.pool, job.host


def _counts(job: Job) -> bool:
    return job.enabled and bool(job.host)
