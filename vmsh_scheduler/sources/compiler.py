"""Compiles in a child process, beside the loop: it takes over one small frame at a time (decision 21)."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.catalog import Defaults, Request
from vmsh_scheduler.sources.child import Child, opened
from vmsh_scheduler.sources.compiled import JobSet, Readable, Wanted

DEADLINE_S = 120.0
NICENESS = 10
"""A reload may take longer; the daemon beside it may not."""


class ChildCompiler:
    """A child for each reading; the first one waits already."""

    def __init__(self, first: Child) -> None:
        self._waiting: Child | None = first
        self.in_force: Callable[[], Mapping[str, Job]] = dict
        """Jobs that did not change stay the very objects they are: no memory for both, no comparing later on."""

    async def __call__(self, reading: Readable, wanted: Wanted, environ: Mapping[str, str]) -> JobSet:
        child, self._waiting = self._waiting, None
        return await compile_in_child(reading, wanted, environ, child=child, known=self.in_force())

    def close(self) -> None:
        """The waiting one is ended if it was never given work."""
        if self._waiting is not None:
            self._waiting.end()


async def compile_in_child(
    reading: Readable,
    wanted: Wanted,
    environ: Mapping[str, str],
    *,
    known: Mapping[str, Job] | None = None,
    child: Child | None = None,
    deadline_s: float = DEADLINE_S,
) -> JobSet:
    """Raises ConfigError with all problems of all files; cancelling kills the child. `known`: jobs to give back
    where they are equal. `child`: one that waits for work and has the machine to itself; it is ended all the same."""
    files = dict(reading.raw), dict(reading.names), reading.sha256
    request = Request(*files, Defaults.of(wanted), dict(environ), NICENESS if child is None else 0)
    # a thread of its own: it waits for the child's answer, and those of the loop have other work
    pool = ThreadPoolExecutor(1, "compile")
    try:
        asked = child or await _started(pool)
        async with _ended(pool, asked), asyncio.timeout(deadline_s):
            await asyncio.wrap_future(pool.submit(asked.ask, request, last=True))
            return await _received(pool, asked, known or {})
    except TimeoutError:
        raise ConfigError(f"compiling the configuration took longer than {deadline_s:g} s") from None
    finally:
        pool.shutdown(wait=False)


@asynccontextmanager
async def _ended(pool: Executor, child: Child) -> AsyncIterator[None]:
    try:
        yield
    finally:
        child.kill()
        await asyncio.shield(asyncio.wrap_future(pool.submit(child.reap)))


async def _started(pool: Executor) -> Child:
    """Starting takes milliseconds, so it is off the loop; cancelled meanwhile, the child is ended all the same."""
    start = pool.submit(Child)
    try:
        return await asyncio.wrap_future(start)
    except asyncio.CancelledError:
        start.add_done_callback(_abandoned)
        raise


def _abandoned(start: Future[Child]) -> None:
    if not start.cancelled() and start.exception() is None:
        start.result().end()


async def _received(pool: Executor, child: Child, known: Mapping[str, Job]) -> JobSet:
    jobs: dict[str, Job] = {}
    while True:
        kind, body = opened(await asyncio.wrap_future(pool.submit(child.frame)))
        if kind == "end":
            return JobSet(jobs, *body)
        for job in body:
            before = known.get(job.id)
            jobs[job.id] = before if before is not None and before == job else job
        await asyncio.sleep(0)
