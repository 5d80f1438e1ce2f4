"""Runs whose end is known though the daemon died meanwhile (crash_exact; decisions 9 and 10).

An exit status of 137 in a record is ambiguous: the command's own `exit 137`, or its death by SIGKILL, which the
shell reports alike. Only a shim that was itself killed leaves no status: such a run is unknown."""

import asyncio
import contextlib
import errno
import os
from dataclasses import dataclass, replace

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Outcome, Recovery, Run, Trace
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.executors.capture import NOTHING, Kept
from vmsh_scheduler.executors.group import Group, Groups
from vmsh_scheduler.executors.outcomes import Ended, Mask, exit_of, lost, outcome_of
from vmsh_scheduler.executors.outputs import OutputFile, Trimmer
from vmsh_scheduler.executors.processes import age, kill_all, marked
from vmsh_scheduler.executors.records import Opened, Phase, Record, Records
from vmsh_scheduler.executors.spawn import NotStarted, Program, Spawner, is_exhausted, through_shim
from vmsh_scheduler.ports import Clock

_SHIM_START_S = 5.0
_SWEPT_S = 0.25
"""What was killed with its group has let go of its output by then."""
_NO_RECORD = 125
_SIGKILL = 9

Outputs = tuple[OutputFile, OutputFile]
"""stdout and stderr."""


@dataclass(frozen=True, slots=True)
class RecordedRuns:
    """Starts, finds again and adopts runs that keep a record."""

    records: Records
    groups: Groups
    spawner: Spawner
    trimmer: Trimmer
    clock: Clock
    boot_id: str
    mask: Mask

    async def run(self, job: Job, run: Run, command: Command, program: Program, payload: bytes) -> Ended:
        """Raises NotStarted."""
        opened = self._open(run, payload)
        try:
            pid = self._spawn(program, command, opened)
            group = self.groups.watch(pid, command.grace)
            with self.trimmer.over(opened.out, opened.err):
                status = await self.groups.wait(group, job.policy.timeout, outlive=command.outlive)
                left = await self._left(run, command, (opened.out, opened.err))
            out, err = opened.out.kept(), opened.err.kept()
        finally:
            opened.close()
        code, signal = exit_of(status)
        self._check_begun(run, code)
        return Ended(code, signal, group.stopped, True, out, err, (*group.flags, *left))

    def recover(self, job: Job, run: Run, command: Command) -> Recovery:
        """By the record alone; when it has a say, what the job's policy says today does not matter."""
        if not run.boot_id or run.boot_id != self.boot_id:
            return _unknown("the machine was started anew since; its run record proves nothing")
        try:
            record = self.records.look(run.id)
        except OSError as error:
            return _unknown(_unreadable(error))
        match record.phase:
            case Phase.LIVE:
                return Recovery(Trace.RUNNING)
            case Phase.ENDED:
                return Recovery(Trace.FINISHED, self._finished(job, run, command, record))
            case Phase.EMPTY:
                return Recovery(Trace.NEVER_BEGAN)
            case Phase.BROKEN:
                return _unknown("it began, and was killed before its end could be recorded")
            case Phase.ABSENT:
                return self._without_record(job, run)

    async def adopt(self, job: Job, run: Run, command: Command) -> Outcome:
        """Wait for it under its deadline; the end comes from the record, never from a wait status."""
        try:
            files = self.records.outputs(run.id)
        except OSError as error:
            return lost(_unreadable(error))
        try:
            with self.trimmer.over(*files):
                group = await self._watch(job, run, command)
                left = await self._left(run, command, files)
            return self._adopted(job, run, command, _kept(files), group, left=left)
        except OSError as error:
            return lost(_unreadable(error))
        finally:
            for file in files:
                file.close()

    def _open(self, run: Run, payload: bytes) -> Opened:
        try:
            return self.records.create(run.id, payload)
        except BlockingIOError as error:
            raise NotStarted(f"run {run.id} is running already") from error
        except OSError as error:
            # A full disk has room again by itself; what else is wrong with runs/ waits for a person, who has to see it.
            why = f"its run record cannot be made in {self.records.directory}: {error.strerror}"
            raise NotStarted(why, "resources" if is_exhausted(error) else "spawn_error") from error

    def _spawn(self, program: Program, command: Command, opened: Opened) -> int:
        try:
            stdin = str(opened.stdin.absolute())
            shim = through_shim(program, umask=command.umask, limits=command.limits, stdin=stdin)
            return self.spawner.spawn(shim, opened.stdio)
        finally:
            for fd in opened.stdio:
                os.close(fd)

    async def _left(self, run: Run, command: Command, files: Outputs) -> tuple[str, ...]:
        """Whoever left the group and still holds an output is killed, unless it may outlive, and told."""
        patience = asyncio.get_running_loop().time() + _SWEPT_S
        while files[0].held() or files[1].held():
            if asyncio.get_running_loop().time() > patience:
                if not command.outlive:
                    kill_all(marked(run.id, run.key))
                return ("left_background",)
            await asyncio.sleep(0.005)
        return ()

    def _check_begun(self, run: Run, exit_code: int | None) -> None:
        """A shim that could not write its first line ran nothing."""
        if exit_code != _NO_RECORD:
            return
        with contextlib.suppress(OSError):
            if self.records.look(run.id).phase is Phase.EMPTY:
                raise NotStarted("its run record cannot be written", "resources")

    def _without_record(self, job: Job, run: Run) -> Recovery:
        if not run.recorded:
            return _unknown("the daemon died while it ran, and it keeps no run record (crash_exact is off)")
        if not self.records.vouched(run.boot_id, run.fence):
            return _unknown("runs/ was emptied since it started, so that its missing record proves nothing")
        return Recovery(Trace.NEVER_BEGAN)

    def _finished(self, job: Job, run: Run, command: Command, record: Record) -> Outcome:
        out = err = NOTHING
        with contextlib.suppress(OSError):
            files = self.records.outputs(run.id)
            out, err = _kept(files)
            for file in files:
                file.close()
        end = Ended(record.exit_code, None, None, True, out, err, ("recovered",))
        return outcome_of(end, command, job.policy.timeout, self.mask)

    async def _watch(self, job: Job, run: Run, command: Command) -> Group | None:
        """Wait by pidfd for the shim that holds the record; None = it had ended already."""
        pid, pidfd = await self._holder(run)
        if pidfd < 0:
            return None
        group = self.groups.adopt(pid, pidfd, command.grace)
        await self.groups.wait(group, self._remaining(job, run, pid), outlive=command.outlive)
        return group

    def _remaining(self, job: Job, run: Run, pid: int) -> Millis:
        """Of its time limit: what the process has lived is known whatever happened to the clock meanwhile."""
        lived = age(pid, self.clock.elapsed())
        left = run.deadline - self.clock.now() if lived is None else run.deadline - run.started_at - lived
        return min(left, job.policy.timeout)

    async def _holder(self, run: Run) -> tuple[int, int]:
        """pid and descriptor of the living shim; (0, -1) when it lives no more. Raises OSError."""
        loop = asyncio.get_running_loop()
        patience = loop.time() + _SHIM_START_S
        while (record := self.records.look(run.id)).phase is Phase.LIVE:
            if record.pid and (pidfd := _pidfd(record.pid)) >= 0:
                # Held before and after: the number meant the shim when the descriptor was made.
                if self.records.look(run.id).phase is Phase.LIVE:
                    return record.pid, pidfd
                os.close(pidfd)
            if loop.time() > patience:
                raise OSError(errno.ETIMEDOUT, "locked, and its shim does not say who it is")
            await asyncio.sleep(0.01)
        return 0, -1

    def _adopted(
        self,
        job: Job,
        run: Run,
        command: Command,
        kept: tuple[Kept, Kept],
        group: Group | None,
        *,
        left: tuple[str, ...],
    ) -> Outcome:
        record = self.records.look(run.id)
        flags = ("adopted", *(group.flags if group else ()), *left)
        stopped = group.stopped if group else None
        if record.phase is Phase.ENDED:
            end = Ended(record.exit_code, None, stopped, True, *kept, flags)
        elif stopped is not None:
            end = Ended(None, _SIGKILL, stopped, True, *kept, flags)
        else:
            return replace(lost("it was killed before its end could be recorded", kept, self.mask), flags=flags)
        return outcome_of(end, command, job.policy.timeout, self.mask)


def _unknown(message: str) -> Recovery:
    return Recovery(Trace.UNKNOWN, lost(message))


def _unreadable(error: OSError) -> str:
    return f"its run record cannot be read: {error.strerror}"


def _kept(files: tuple[OutputFile, OutputFile]) -> tuple[Kept, Kept]:
    return files[0].kept(), files[1].kept()


def _pidfd(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
