"""One process with a stdin payload and two output pipes: the cheap way to run a command."""

import asyncio
import os
from dataclasses import dataclass

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.executors.capture import Stream
from vmsh_scheduler.executors.group import Group, Groups
from vmsh_scheduler.executors.outcomes import Ended, exit_of
from vmsh_scheduler.executors.processes import kill_all, marked
from vmsh_scheduler.executors.spawn import NotStarted, Program, Spawner, not_started, stdin_of, through_shim

_DRAIN_S = 0.25
_UNREAD_S = 0.005
"""A command as short as this needs nobody to watch its pipes: they hold what it can have written."""

Streams = tuple[Stream, Stream]
"""stdout and stderr."""
Eof = asyncio.Future[None]
"""Done when both have ended."""


@dataclass(frozen=True, slots=True)
class PipedRuns:
    """Starts commands with pipes and waits for them."""

    groups: Groups
    spawner: Spawner

    async def run(self, program: Program, command: Command, payload: bytes, run: Run, limit: Millis) -> Ended:
        """Raises NotStarted. Ends within limit + grace + 250 ms, whoever holds the pipes."""
        group, eof, streams = self._start(program, command, payload)
        reading = asyncio.get_running_loop().call_later(_UNREAD_S, _watch, streams)
        try:
            status = await self.groups.wait(group, limit, outlive=command.outlive)
            left = await _rest(streams, eof)
        finally:
            reading.cancel()
            for stream in streams:
                stream.close()
        if left and not command.outlive:
            kill_all(marked(run.id, run.key))
        code, signal = exit_of(status)
        flags = (*group.flags, "left_background") if left else group.flags
        return Ended(code, signal, group.stopped, False, streams[0].kept(), streams[1].kept(), flags)

    def _start(self, program: Program, command: Command, payload: bytes) -> tuple[Group, Eof, Streams]:
        if program.cwd or command.umask is not None or command.limits is not None:
            program = through_shim(program, umask=command.umask, limits=command.limits)
        pid, out, err = self._spawn(program, payload)
        try:
            group = self.groups.watch(pid, command.grace)
        except NotStarted:
            os.close(out)
            os.close(err)
            raise
        return group, *_streams(out, err)

    def _spawn(self, program: Program, payload: bytes) -> tuple[int, int, int]:
        """pid and the reading ends of stdout and stderr; raises NotStarted and then leaves no descriptor open."""
        ends: list[int] = []
        try:
            ends.append(stdin_of(payload))
            ends.extend(os.pipe2(os.O_CLOEXEC))
            ends.extend(os.pipe2(os.O_CLOEXEC))
            stdin, out, out_end, err, err_end = ends
            pid = self.spawner.spawn(program, (stdin, out_end, err_end))
        except (OSError, NotStarted) as error:
            for fd in ends:
                os.close(fd)
            raise error if isinstance(error, NotStarted) else not_started(error) from error
        for fd in (stdin, out_end, err_end):  # frees the descriptor that the pidfd needs, however few there are
            os.close(fd)
        os.set_blocking(out, False)
        os.set_blocking(err, False)
        return pid, out, err


def _streams(out: int, err: int) -> tuple[Eof, Streams]:
    loop = asyncio.get_running_loop()
    eof = loop.create_future()

    def ended() -> None:
        if not (streams[0].open or streams[1].open) and not eof.done():
            eof.set_result(None)

    streams = Stream(loop, out, ended), Stream(loop, err, ended)
    return eof, streams


def _watch(streams: Streams) -> None:
    for stream in streams:
        stream.watch()


async def _rest(streams: Streams, eof: Eof) -> bool:
    """Read the pipes to their end; True when somebody who left the group still holds one after 250 ms."""
    for stream in streams:
        stream.drain()
    if not eof.done():
        _watch(streams)
        await asyncio.wait([eof], timeout=_DRAIN_S)
    return not eof.done()
