"""A worker with real commands over a Redis that hangs, dies and comes back (reliability D2, D4)."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tests.integration.children.stage import alive
from tests.support.builders import cadence, run_of
from tests.support.dispatching import RedisCluster, redis_cluster
from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import RedisServer, serving
from vmsh_scheduler.clock import SystemClock, boot_id
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.events import Event, Trouble
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.engine.errand import body_of
from vmsh_scheduler.engine.worker import Worker
from vmsh_scheduler.executors.command import CommandExecutor
from vmsh_scheduler.ports import Task
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch

LEASE = 2_000
TIMEOUT = 300


@dataclass
class Site:
    """One worker, one leader, one server."""

    server: RedisServer
    cluster: RedisCluster
    leader: RedisDispatch
    worker: Worker
    events: list[Event]
    jobs: dict[str, Job]

    async def push(self, run_id: str, script: str) -> None:
        job = replace(cadence(60, id=f"ns/{run_id}"), action=Command(("/bin/sh", "-c", script), grace=200))
        self.jobs[job.id] = job
        run = replace(run_of(job, 0), id=run_id)
        await self.leader.push([Task(run_id, "", "", body_of(job, run, "leader"))])
        self.worker.wake()

    async def outcome(self, run_id: str) -> object:
        async with asyncio.timeout(30):
            while not (found := await self.leader.ended([run_id])):  # noqa: ASYNC110 - in another process, without an event
                await asyncio.sleep(0.02)
        return found[run_id]["status"]

    def troubles(self) -> set[str]:
        return {event.what for event in self.events if isinstance(event, Trouble)}


@asynccontextmanager
async def site(place: Path, *options: str, lease: int = LEASE) -> AsyncIterator[Site]:
    with serving(place / "redis", *options) as server:
        shared = SharedRedis(server, "w", command_timeout_ms=TIMEOUT, connect_timeout_ms=TIMEOUT)
        async with redis_cluster(shared) as cluster:
            clock, events, jobs = SystemClock(), list[Event](), dict[str, Job]()
            commands = CommandExecutor(place / "runs", clock, {"PATH": os.environ["PATH"]}, boot_id())
            commands.prepare(1)
            worker = Worker(
                cluster.instance("w"),
                {Command: commands},
                lambda claim: jobs.get(str(claim.task.body["job"])),
                clock,
                pools={"": 4},
                lease=lease,
                observer=events.append,
            )
            working = asyncio.ensure_future(worker.run(asyncio.Event()))
            try:
                yield Site(server, cluster, await cluster.leader("leader"), worker, events, jobs)
            finally:
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working
                await worker.drain(0)
                commands.close()
                clock.close()


async def until(done: Callable[[], bool], within_s: float = 30.0) -> None:
    async with asyncio.timeout(within_s):
        while not done():  # noqa: ASYNC110 - processes and files set no event
            await asyncio.sleep(0.01)


async def test_d4_while_redis_hangs_a_command_ends_with_its_lease_and_work_goes_on_afterwards(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        mark = tmp_path / "began"
        await here.push("r1", f"export MARK={mark}; sleep 60 & touch {mark}; wait")
        await until(mark.exists)
        await until(lambda: len(alive(str(mark))) == 2)  # `touch`, which may be ending yet, names it too
        clock = here.cluster.clock
        here.server.pause()
        began = clock.elapsed()
        try:
            await until(lambda: not alive(str(mark)))
            took = clock.elapsed() - began
            assert LEASE // 3 < took < LEASE + 1_500
            await until(lambda: here.worker.running == 0)
        finally:
            here.server.resume()
        assert here.troubles() == {"claim_lost", "dispatch_down"}
        async with asyncio.timeout(30):
            while "r1" not in await here.leader.lost():  # noqa: ASYNC110 - the server's clock sets no event
                await asyncio.sleep(0.02)
        await here.push("r2", "true")
        assert await here.outcome("r2") == "ok"


async def test_d2_a_command_that_ends_while_redis_is_away_is_posted_when_it_is_back(tmp_path: Path) -> None:
    async with site(tmp_path, "--appendonly", "yes", "--appendfsync", "always", lease=10_000) as here:
        began, ended = tmp_path / "began", tmp_path / "ended"
        await here.push("r1", f"touch {began}; sleep 0.2; touch {ended}")
        await until(began.exists)
        here.server.kill()
        await until(ended.exists)
        await until(lambda: "dispatch_down" in here.troubles())
        assert here.worker.running == 1
        here.server.start()
        assert await here.outcome("r1") == "ok"
        assert "claim_lost" not in here.troubles()


async def test_d3_an_outcome_that_an_emptied_redis_knows_nothing_of_is_dropped(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        began, ended = tmp_path / "began", tmp_path / "ended"
        await here.push("r1", f"touch {began}; sleep 0.2; touch {ended}")
        await until(began.exists)
        here.server.kill()
        await until(ended.exists)
        here.server.start()
        await until(lambda: here.worker.running == 0)
        assert "claim_lost" in here.troubles()
        assert await here.leader.outcomes() == []
