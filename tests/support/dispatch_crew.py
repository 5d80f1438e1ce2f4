"""Workers that may be killed: `python -m tests.support.dispatch_crew URL PREFIX WORKERS LOG` claims until it dies.

Every start of a run is one line of LOG, written before anything else happens."""

import asyncio
import os
import random
import sys

from tests.support.builders import agent
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Outcome, Recovery, Run, Status, Trace
from vmsh_scheduler.engine.worker import Worker
from vmsh_scheduler.stores.redis.connect import RedisOptions, connect
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch
from vmsh_scheduler.stores.redis.keys import AGENTS, Keys

JOB = agent(60)
LEASE = 1_500
PERMITS = 4


class Noting:
    """Executor that says what it starts, and takes up to 20 ms."""

    def __init__(self, log: int) -> None:
        self._log = log

    async def run(self, job: Job, run: Run) -> Outcome:
        os.write(self._log, f"{run.id}\n".encode())
        await asyncio.sleep(random.random() * 0.02)
        return Outcome(Status.OK, result={"by": os.getpid()})

    async def recover(self, job: Job, run: Run) -> Recovery:
        return Recovery(Trace.UNKNOWN)

    async def adopt(self, job: Job, run: Run) -> Outcome:
        raise AssertionError("workers adopt nothing")

    async def probe(self, job: Job, run: Run) -> bool | None:
        return None

    def forget(self, run: Run) -> None: ...

    def hurry(self) -> None: ...


async def main(url: str, prefix: str, workers: int, log: str) -> None:
    fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    client, clock, stop = connect(RedisOptions(url, prefix=prefix)), SystemClock(), asyncio.Event()
    crew = [
        Worker(
            RedisDispatch(client, Keys(prefix), clock, f"{os.getpid()}-{number}"),
            {Command: Noting(fd)},
            lambda _claim: JOB,
            clock,
            pools={AGENTS: PERMITS},
            lease=LEASE,
            observer=lambda _event: None,
        )
        for number in range(workers)
    ]
    await asyncio.gather(*(worker.run(stop) for worker in crew))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
