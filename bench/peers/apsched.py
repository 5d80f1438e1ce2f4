"""APScheduler 3: AsyncIOScheduler in memory; each job an asyncio subprocess with pipes and a
session of its own. argv: workload.json"""

import asyncio
import functools
import json
import sys
from datetime import UTC, datetime, timedelta
from subprocess import DEVNULL, PIPE
from typing import Any

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


async def start(argv: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    await process.communicate()


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        asyncio.run(serve(json.load(file)["jobs"]))


async def serve(jobs: list[dict[str, Any]]) -> None:
    # the defaults (no instance beside another, one second of grace) would lose starts in a herd
    scheduler = AsyncIOScheduler(
        timezone=UTC, job_defaults={"max_instances": 8, "misfire_grace_time": 60, "coalesce": False}
    )
    for job in jobs:
        every = timedelta(milliseconds=job["every_ms"])
        trigger = IntervalTrigger(
            seconds=every.total_seconds(), start_date=EPOCH + timedelta(milliseconds=job["phase_ms"]), timezone=UTC
        )
        scheduler.add_job(functools.partial(start, job["argv"]), trigger, id=job["id"])
    scheduler.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    main()
