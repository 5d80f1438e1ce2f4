"""Runs commands: own pidfd supervision, bounded capture, and run records that survive the daemon.

posix_spawn on the loop's thread, never asyncio's subprocess (it waits for pipe EOF, and makes a thread per child
on 3.11), never preexec_fn (it forks). No subreaper: escapees are found by the pipe they hold and by their
environment, and being their reaper would only make their zombies ours."""

import contextlib
import os
import signal
from collections.abc import Collection, Mapping
from pathlib import Path

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Outcome, Recovery, Run
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.errors import Unavailable
from vmsh_scheduler.executors.environment import facts_of, inherited, lasting, stdin_json
from vmsh_scheduler.executors.group import Groups
from vmsh_scheduler.executors.outcomes import Ended, Mask, outcome_of, refused
from vmsh_scheduler.executors.outputs import Punch, Trimmer, punch_hole
from vmsh_scheduler.executors.piped import PipedRuns
from vmsh_scheduler.executors.processes import reap_orphans
from vmsh_scheduler.executors.recorded import RecordedRuns
from vmsh_scheduler.executors.records import Records
from vmsh_scheduler.executors.spawn import NotStarted, Program, Spawner, locate
from vmsh_scheduler.ports import Clock

PROBE_LIMIT: Millis = 30 * SECOND
_KNOWN = 4096
"""Jobs whose environment is kept ready."""


class CommandExecutor:
    """Executor of `Command`. One event loop for its whole life; `prepare` before the first run."""

    def __init__(
        self,
        runs_dir: Path,
        clock: Clock,
        environ: Mapping[str, str],
        boot_id: str,
        *,
        mask: Mask = str,
        punch: Punch = punch_hole,
    ) -> None:
        self._records = Records(runs_dir)
        self._groups = Groups()
        self._spawner = Spawner()
        self._clock = clock
        self._environ = environ
        self._base = inherited(environ)
        self._known: dict[str, tuple[Job, dict[str, str]]] = {}
        self._boot_id = boot_id
        self._mask = mask
        self._piped = PipedRuns(self._groups, self._spawner)
        self._recorded = RecordedRuns(self._records, self._groups, self._spawner, Trimmer(punch), clock, boot_id, mask)

    def prepare(self, fence: int) -> None:
        """Once at daemon start on the main thread, before `recover`: runs/ and its marker; nothing that we
        inherited (descriptors, an ignored SIGCHLD) gets in a child's way. Raises CannotCreate, Unavailable."""
        _guard_descriptors()
        _check_kernel()
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else the kernel throws exit statuses away
        self._records.prepare(self._boot_id, fence)

    async def run(self, job: Job, run: Run) -> Outcome:
        command = _command(job)
        try:
            end = await self._run(job, run, command)
        except NotStarted as error:
            return refused(error)
        return outcome_of(end, command, job.policy.timeout, self._mask)

    async def recover(self, job: Job, run: Run) -> Recovery:
        return self._recorded.recover(job, run, _command(job))

    async def adopt(self, job: Job, run: Run) -> Outcome:
        return await self._recorded.adopt(job, run, _command(job))

    async def probe(self, job: Job, run: Run) -> bool | None:
        command = _command(job)
        if not command.probe:
            return None
        try:
            program, payload = self._prepared(job, run, command.probe)
            limit = min(PROBE_LIMIT, job.policy.timeout)
            end = await self._piped.run(program, command, payload, run, limit)
        except NotStarted:
            return None
        return {0: True, 1: False}.get(-1 if end.exit_code is None or end.stopped else end.exit_code)

    def forget(self, run: Run) -> None:
        self._records.forget(run.id)

    def hurry(self) -> None:
        self._groups.hurry()

    def sweep(self, open_runs: Collection[str]) -> int:
        """Unlink old records of runs that are not open any more; call it after recovery. How many files."""
        return self._records.sweep(open_runs, self._clock.now())

    def reap_orphans(self) -> int:
        """Needed as pid 1 only, once in a while: processes that lost their parents become ours there."""
        return reap_orphans(self._groups.pids())

    def close(self) -> None:
        """Give back the descriptors that are held between runs."""
        self._spawner.close()
        self._groups.close()

    async def _run(self, job: Job, run: Run, command: Command) -> Ended:
        program, payload = self._prepared(job, run, command.argv)
        if job.policy.crash_exact:
            return await self._recorded.run(job, run, command, program, payload)
        return await self._piped.run(program, command, payload, run, job.policy.timeout)

    def _prepared(self, job: Job, run: Run, argv: tuple[str, ...]) -> tuple[Program, bytes]:
        """What to execute and what it finds on its stdin."""
        command, facts = _command(job), facts_of(run)
        env = {**self._lasting(job, command), **facts}
        return locate(argv, env, command.cwd), stdin_json(command, run, facts)

    def _lasting(self, job: Job, command: Command) -> Mapping[str, str]:
        known = self._known.get(job.id)
        if known is None or known[0] is not job:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            known = self._known[job.id] = job, lasting(self._base, self._environ, command, job)
        return known[1]


def _command(job: Job) -> Command:
    if not isinstance(job.action, Command):
        raise TypeError(f"job {job.id}: {type(job.action).__name__} is not a Command")
    return job.action


def _check_kernel() -> None:
    """Without pidfds every start would be noticed to be unwatchable only when the command had begun."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        raise Unavailable(
            f"commands cannot be watched: pidfd_open: {error.strerror}", hint="Linux 5.3 or newer is needed"
        ) from error


def _guard_descriptors() -> None:
    """Fill 0, 1, 2 if they are closed, so that no pipe of ours lands there; what we inherited stops at us."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        pass
    os.close(fd)
    for entry in Path("/proc/self/fd").iterdir():
        if int(entry.name) > 2:
            with contextlib.suppress(OSError):
                os.set_inheritable(int(entry.name), False)
