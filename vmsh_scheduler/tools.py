"""Our own anchor programs as the daemon starts them, and what finds subjects when nothing may be anchored."""

import sys
from collections.abc import Mapping

from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job, Policy
from vmsh_scheduler.domain.retry import FlatRetry
from vmsh_scheduler.domain.run import Cause, Found, Nothing, Run, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import MINUTE, SECOND, Manual, Millis
from vmsh_scheduler.executors.command import CommandExecutor
from vmsh_scheduler.settings import Settings
from vmsh_scheduler.sources.subjects import ToolFailed

TOOL_TIMEOUT: Millis = 10 * MINUTE


class Tools:
    """Our own anchor programs, run under the same supervision as every command."""

    def __init__(self, executor: CommandExecutor, clock: SystemClock, settings: Settings) -> None:
        self._executor = executor
        self._clock = clock
        self._settings = settings
        self._count = 0

    async def __call__(self, verb: str, document: Mapping[str, object]) -> Mapping[str, object]:
        """The tool's result. Raises ToolFailed with its last words."""
        self._count += 1
        now = self._clock.now()
        run = Run(f"tool-{self._count:x}", f"_system/{verb}", now, Cause.MANUAL, 1, 0, now, now + TOOL_TIMEOUT)
        outcome = await self._executor.run(self._job(verb, document), run)
        if outcome.status is not Status.OK:
            raise ToolFailed(outcome.message or f"{verb} failed")
        return outcome.result

    def _job(self, verb: str, document: Mapping[str, object]) -> Job:
        argv = (sys.executable, "-P", "-m", "vmsh_scheduler.anchors", verb)
        policy = Policy(retry=FlatRetry(SECOND), timeout=TOOL_TIMEOUT, misfire_grace=0)
        payload = {"root": str(self._settings.root), "keys": str(self._settings.keys_dir), **document}
        action = Command(argv, payload=payload)
        return Job(f"_system/{verb}", verb, verb, Manual(), action, policy, revision="")


class KillSwitch:
    """ANCHOR_WRITE_ENABLED=0: every slot is skipped, with that reason."""

    async def find(self, job: Job, state: JobState) -> Found | Nothing:
        return Nothing("kill_switch")
