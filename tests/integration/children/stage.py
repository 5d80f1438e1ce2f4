"""A CommandExecutor over a temporary directory, and a check that a test left nothing behind."""

import asyncio
import os
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.builders import NOON, cadence, run_of
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Outcome, Run
from vmsh_scheduler.executors.command import CommandExecutor

BOOT = "boot-1"
ENVIRON = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nowhere", "CANARY_TOKEN": "canary-0451"}


def eventually(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """Poll until it holds; AssertionError after the deadline."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.005)


async def eventually_async(condition: Callable[[], object], within_s: float = 30.0) -> None:
    """The same without stopping the loop."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.005)


def alive(mark: str) -> list[str]:
    """Command lines of living processes with `mark` in their environment or arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in text:
            found.append(text[-200:].decode("utf-8", "replace"))
    return found


def fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def job_of(command: Command, *, timeout: int = 20_000, crash_exact: bool = False, **policy: Any) -> Job:
    return replace(cadence(timeout=timeout, crash_exact=crash_exact, **policy), action=command)


def shell(text: str, **fields: Any) -> Command:
    """`text` for sh, with a grace of half a second."""
    return Command(("/bin/sh", "-c", text), **{"grace": 500, **fields})


def script(path: Path, text: str, mode: int = 0o755) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


@dataclass
class Stage:
    """One executor and the runs started on it."""

    executor: CommandExecutor
    clock: SystemClock
    directory: Path
    mark: str
    fence: int = 1
    count: int = 0
    took: float = 0.0

    def start(self, job: Job, **fields: Any) -> Run:
        """A run that starts now."""
        self.count += 1
        now = self.clock.now()
        run = replace(run_of(job, NOON, at=now), id=f"{self.mark}-{self.count}", fence=self.fence, boot_id=BOOT)
        return replace(run, **fields)

    async def run(self, command: Command, *, limit: int = 20_000, crash_exact: bool = False) -> Outcome:
        """Carry out one run; `took` is its seconds."""
        job = job_of(command, timeout=limit, crash_exact=crash_exact)
        begun = time.monotonic()
        try:
            return await self.executor.run(job, self.start(job))
        finally:
            self.took = time.monotonic() - begun


def executor(directory: Path, clock: SystemClock, *, boot: str = BOOT, **options: Any) -> CommandExecutor:
    return CommandExecutor(directory / "runs", clock, ENVIRON, boot, **options)


@asynccontextmanager
async def on_stage(directory: Path, *, fence: int = 1, **options: Any) -> AsyncIterator[Stage]:
    """Afterwards: descriptors and threads as before, no process of it alive. `fence`: of its daemon and its runs."""
    before = fds(), threading.active_count()
    mark = f"run-{uuid.uuid4().hex[:12]}"
    clock = SystemClock()
    stage = Stage(executor(directory, clock, **options), clock, directory, mark, fence)
    try:
        stage.executor.prepare(fence)
        yield stage
    finally:
        stage.executor.close()
        clock.close()
    await eventually_async(lambda: not alive(mark), 15)
    await eventually_async(lambda: (fds(), threading.active_count()) == before, 15)
