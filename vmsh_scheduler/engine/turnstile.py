"""Who of those that wait may start: permits of their pool, and room at their host."""

from collections import deque
from collections.abc import Callable, Sequence

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.engine.board import Board, Release
from vmsh_scheduler.engine.bounds import Bounds
from vmsh_scheduler.engine.hosts import Hosts


class Turnstile:
    """Holds the permits. `start` is given each release whose turn it is, and says how many runs that began."""

    def __init__(self, board: Board, bounds: Bounds, start: Callable[[Release], int]) -> None:
        self.hosts = Hosts(bounds)
        self._board = board
        self._bounds = bounds
        self._start = start
        self._permits = bounds.permits()
        self._in_turn: deque[Release] = deque()
        """Their lane is free; they wait for a permit before all others."""

    def running(self, pool: str) -> int:
        return self._bounds.permits()[pool] - self._permits[pool]

    def resize(self, bounds: Bounds) -> None:
        """Fewer than run now: nobody starts until some have ended."""
        before, after = self._bounds.permits(), bounds.permits()
        self._permits = {pool: self._permits[pool] + after[pool] - before[pool] for pool in after}
        self._bounds = bounds
        self.hosts.resize(bounds)

    def take(self, job: Job) -> None:
        self._permits[job.pool] -= 1
        self.hosts.enter(job)

    def give_back(self, job: Job) -> None:
        self._permits[job.pool] += 1
        self.hosts.leave(job)

    def next_in_turn(self, release: Release) -> None:
        self._in_turn.append(release)

    async def pump(self) -> int:
        """Give free permits to what is ready; returns how many runs began."""
        started = self._pump_in_turn()
        for pool, free in list(self._permits.items()):
            if free > 0 and self._board.waiting:
                started += await self._pump_set_aside(pool)
                while (left := self._permits[pool]) > 0 and (ids := await self._board.agenda.claim(left, pool)):
                    started += await self._pass(ids)
        return started

    async def is_full(self, job: Job) -> bool:
        """As many of its pool wait as may; those with a free permit are on their way."""
        pool = self._bounds.pools.get(job.pool)
        if pool is None:
            return False
        waiting = await self._board.agenda.depth(job.pool)
        for _, line, _ in self.hosts.lines(job.pool):
            waiting += await self._board.agenda.depth(line)
        free = self._permits[job.pool] if self.hosts.room(job) > 0 else 0
        return waiting >= pool.capacity + max(0, free)

    def _pump_in_turn(self) -> int:
        started = 0
        for _ in range(len(self._in_turn)):
            release = self._in_turn.popleft()
            if self._permits[release.job.pool] > 0 and self.hosts.room(release.job) > 0:
                started += self._start(release)
            else:
                self._in_turn.append(release)
        return started

    async def _pump_set_aside(self, pool: str) -> int:
        """Whoever waits for a host came before all who wait for a permit only."""
        started = 0
        for place, line, room in self.hosts.lines(pool):
            started += await self._pass(await self._board.agenda.claim(max(0, min(room, self._permits[pool])), line))
            if not await self._board.agenda.depth(line):
                self.hosts.close(place)
        return started

    async def _pass(self, ids: Sequence[str]) -> int:
        started = 0
        for job_id in ids:
            release = self._board.waiting.get(job_id)
            if release is None or release.started:
                await self._board.agenda.ack(job_id)
            elif self.hosts.room(release.job) > 0:
                started += self._start(release)
            else:
                await self._board.set_aside(release, self.hosts.line(release.job))
        return started
