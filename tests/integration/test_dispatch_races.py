"""Family D of the fault list, the queue's part: workers that die at any moment."""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tests.support.builders import agent, run_of
from tests.support.daemon import UNMEASURED
from tests.support.dispatch_crew import JOB
from tests.support.dispatching import RedisCluster, redis_cluster
from tests.support.redis_keys import SharedRedis, leftovers
from tests.support.redis_server import serving
from tests.support.world import ScriptedExecutor
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Status
from vmsh_scheduler.engine.errand import body_of
from vmsh_scheduler.engine.handed import Collector, HandedExecutor
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch
from vmsh_scheduler.stores.redis.keys import AGENTS

TASKS = 10_000
PROCESSES, WORKERS = 5, 10
KILLS = 8


class Crowd:
    """Processes of workers, one of which is killed now and then and comes back."""

    def __init__(self, shared: SharedRedis, place: Path) -> None:
        self.log = place / "starts"
        self._words = (shared.server.url, shared.keys.prefix, str(WORKERS), str(self.log))
        self._processes = [self._start() for _ in range(PROCESSES)]
        self.kills = 0

    def _start(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "tests.support.dispatch_crew", *self._words]
        return subprocess.Popen(argv, env={**os.environ, **UNMEASURED})

    def kill_one(self, dice: random.Random) -> None:
        number = dice.randrange(PROCESSES)
        self._processes[number].kill()
        self._processes[number].wait()
        self._processes[number] = self._start()
        self.kills += 1

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def starts(self) -> Counter[str]:
        return Counter(self.log.read_text().split())


@asynccontextmanager
async def collecting(collector: Collector) -> AsyncIterator[None]:
    running = asyncio.ensure_future(collector.run())
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


class Settled:
    """What a leader's states do with outcomes: take them out."""

    def __init__(self, dispatch: RedisDispatch) -> None:
        self._dispatch = dispatch
        self._ids: list[str] = []
        self.done: Counter[str] = Counter()
        self.unknown = 0

    async def one(self, handed: HandedExecutor, number: int) -> None:
        """Tries until somebody saw the end: a run of its own each, as the engine does it."""
        for attempt in range(1, 50):
            run = replace(run_of(JOB, number, attempt=attempt), id=f"{number}.{attempt}")
            outcome = await handed.run(pooled(), run)
            self._ids.append(run.id)
            if len(self._ids) >= 200:
                with suppress(StoreDown):  # Redis is late: they go with the next ones
                    await self.forget()
            if outcome.status is Status.OK:
                self.done[str(number)] += 1
                return
            assert outcome.code in ("lost", "resources")  # the latter: Redis was late, and nobody had begun it
            self.unknown += outcome.code == "lost"
        raise AssertionError(f"{number} never ends")

    async def forget(self) -> None:
        ids, self._ids = self._ids, []
        try:
            await self._dispatch.forget(ids)
        except StoreDown:
            self._ids += ids
            raise


def pooled() -> Job:
    return replace(agent(60), pool=AGENTS)


async def test_d9_50_workers_10_000_tasks_and_kill_9_lose_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "redis") as server:
        shared = SharedRedis(server, "d9")
        crowd = Crowd(shared, tmp_path)
        try:
            async with redis_cluster(shared) as cluster, asyncio.timeout(120):
                settled = await all_of_them(cluster, crowd)
        finally:
            crowd.close()
        starts = crowd.starts()
        with shared.reader() as client:
            held = {shared.keys.leader_lock, shared.keys.leader_fence, shared.keys.agent_lease("u:a"), shared.keys.meta}
            assert {str(key) for key in client.scan_iter()} <= held
            assert leftovers(client, "d9") == []
    assert settled.done == {str(number): 1 for number in range(TASKS)}
    assert max(starts.values()) == 1, "a run was started twice under one attempt"
    print(f"{crowd.kills} kills, {settled.unknown} runs of which nobody saw the end, {sum(starts.values())} starts")  # noqa: T201 - the figures of the row


async def all_of_them(cluster: RedisCluster, crowd: Crowd) -> Settled:
    leader, dice = await cluster.leader("leader"), random.Random(9)
    collector = Collector(leader, SystemClock(), lambda _event: None)
    settled = Settled(leader)
    handed = HandedExecutor(collector, lambda job, run: body_of(job, run, "leader"), ScriptedExecutor())
    async with collecting(collector):
        tasks = [asyncio.ensure_future(settled.one(handed, number)) for number in range(TASKS)]
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, timeout=0.8)
            collector.wake()
            for task in done:
                task.result()
            if crowd.kills < KILLS:
                crowd.kill_one(dice)
        await settled.forget()
    assert await leader.depths(AGENTS) == (0, 0)
    return settled
