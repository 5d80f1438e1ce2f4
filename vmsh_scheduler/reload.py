"""The configuration while the daemon runs: noticed, read, compiled, put in force; refused, the last good one stays."""

import asyncio
import logging
from collections.abc import Mapping

from vmsh_scheduler.app import App
from vmsh_scheduler.domain.events import ConfigRejected, Trouble
from vmsh_scheduler.domain.job import Origin
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.observe.logs import LOGGER, say
from vmsh_scheduler.sources.compiled import JobSet
from vmsh_scheduler.sources.watch import Reading, Unstable
from vmsh_scheduler.sources.watch import Trouble as Unreadable

MASS = 4
"""With fewer jobs, losing half of them is no accident worth asking about."""
CONFIRMATIONS = 2
"""Further looks at the same file before a mass removal is believed (reliability C10)."""
DOUBTED_FOR: Millis = 1_900
"""At least: the first of those looks may follow at once, because the files were compiled beside the loop."""
MOST_PASSED_OVER = 3
"""In a row: files that were written again while they were compiled. The next counts, be it old as well."""

_LOG = logging.getLogger(LOGGER)


class Reloader:
    """One reload at a time; `poll` once a second, `now` when somebody asks."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = asyncio.Lock()
        self._doubted: JobSet | None = None
        self._looks = 0
        self._doubted_at: Millis = 0
        self._passed_over = 0

    async def first(self, *, recover: bool = True) -> JobSet:
        """At start: raises ConfigError, for there is no last good configuration yet."""
        jobs = await self._app.compile(self._app.watch.read_now())
        await self._app.put_in_force(jobs, first=True, recover=recover)
        return jobs

    async def poll(self) -> None:
        """One cheap look; never raises for what is in the files."""
        async with self._lock:
            try:
                await self._noticed(await self._look())
            except ConfigError as error:
                self._refuse(error)
            if self._app.pins is not None:
                await self._app.pins.poll()

    async def _look(self) -> Reading | Unreadable | Unstable | None:
        """Files that changed are read beside the loop: ten megabytes take longer than a slot may wait."""
        watch, now = self._app.watch, self._app.clock.elapsed()
        return None if watch.is_quiet() else await asyncio.to_thread(watch.poll, now)

    async def _noticed(self, found: Reading | Unreadable | Unstable | None) -> None:
        match found:
            case Reading():
                await self._take(found, sure=False)
            case Unreadable():
                self._refuse(ConfigError("the configuration cannot be read", problems=found.problems))
            case Unstable():
                say(_LOG, logging.DEBUG, "config not stable yet")
            case None if self._doubted is not None:
                await self._look_again()
            case _:
                pass

    async def now(self) -> JobSet:
        """Read at once and believe it; raises ConfigError with every problem if it is refused."""
        async with self._lock:
            try:
                jobs = await self._take(await asyncio.to_thread(self._app.watch.read_now), sure=True)
            except ConfigError as error:
                self._refuse(error)
                raise
            if self._app.pins is not None:
                await self._app.pins.now()
            return jobs

    async def _take(self, reading: Reading, *, sure: bool) -> JobSet:
        jobs = await self._app.compile(reading)
        self._doubted = None
        if not sure and self._passed_over < MOST_PASSED_OVER and self._app.watch.gives_up_superseded():
            self._passed_over += 1
            say(_LOG, logging.INFO, "config changed again")
            return jobs
        self._passed_over = 0
        if not sure and self._is_mass_removal(jobs.jobs):
            self._doubted, self._looks, self._doubted_at = jobs, 0, self._app.clock.elapsed()
            self._say("config_mass_removal", jobs)
        else:
            await self._app.put_in_force(jobs)
        return jobs

    async def _look_again(self) -> None:
        self._looks += 1
        long_enough = self._app.clock.elapsed() >= self._doubted_at + DOUBTED_FOR
        if self._looks >= CONFIRMATIONS and long_enough and self._doubted is not None:
            jobs, self._doubted = self._doubted, None
            await self._app.put_in_force(jobs)

    def _is_mass_removal(self, jobs: Mapping[str, object]) -> bool:
        known = [job.id for job in self._app.engine.board.jobs.values() if job.origin is Origin.FILE]
        gone = sum(job_id not in jobs for job_id in known)
        return len(known) >= MASS and gone * 2 > len(known)

    def _say(self, what: str, jobs: JobSet) -> None:
        known = len(self._app.engine.board.jobs)
        self._app.observers(Trouble(self._app.clock.now(), what, {"before": known, "after": len(jobs.jobs)}))

    def _refuse(self, error: ConfigError) -> None:
        self._doubted = None
        self._app.config.problems = error.problems
        self._app.observers(ConfigRejected(self._app.clock.now(), error.problems))
