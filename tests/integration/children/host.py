"""A daemon in miniature, to be killed: `host DIRECTORY RUN_ID STARTED_AT COMMAND [OPTIONS]`.

Prepares, runs one crash_exact command and waits for it; prints the outcome's status."""

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from tests.integration.children.stage import BOOT, executor, job_of, shell
from tests.support.builders import NOON, run_of
from vmsh_scheduler.clock import SystemClock


async def main(directory: str, run_id: str, started_at: str, text: str) -> None:
    host = executor(Path(directory), SystemClock())
    host.prepare(1)
    job = job_of(shell(text), crash_exact=True)
    run = replace(run_of(job, NOON, at=int(started_at)), id=run_id, boot_id=BOOT)
    print("prepared", flush=True)  # noqa: T201 - the test waits for this line
    outcome = await host.run(job, run)
    print(outcome.status.value, flush=True)  # noqa: T201 - as above


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
