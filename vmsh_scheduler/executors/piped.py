"""One process with a stdin payload and two output pipes: the cheap way to run a command."""

import asyncio
import os
from collections import deque
from dataclasses import dataclass, field

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.executors.capture import Stream
from vmsh_scheduler.executors.group import Group, Groups
from vmsh_scheduler.executors.outcomes import Ended, exit_of
from vmsh_scheduler.executors.processes import kill_all, marked
from vmsh_scheduler.executors.spawn import NotStarted, Program, Spawner, not_started, stdin_of, through_shim

_DRAIN_S = 0.25
_UNREAD_S = 0.02
"""A command as short as this needs nobody to watch its pipes: they hold what it can have written."""

_TIMER_SLACK_S = 0.001
"""The loop's timers may come that early."""

Streams = tuple[Stream, Stream]
"""stdout and stderr."""
Eof = asyncio.Future[None]
"""Done when both have ended."""


@dataclass(frozen=True, slots=True)
class PipedRuns:
    """Starts commands with pipes and waits for them."""

    groups: Groups
    spawner: Spawner
    unread: "Unread" = field(default_factory=lambda: Unread())

    async def run(self, program: Program, command: Command, payload: bytes, run: Run, limit: Millis) -> Ended:
        """Raises NotStarted. Ends within limit + grace + 250 ms, whoever holds the pipes."""
        group, eof, streams = self._start(program, command, payload)
        self.unread.watch_soon(streams)
        try:
            status = await self.groups.wait(group, limit, outlive=command.outlive)
            left = await _rest(streams, eof)
        finally:
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


class Unread:
    """One timer for the pipes of all commands that have just begun: most end before it, and each its own would cost
    more than reading."""

    __slots__ = ("_line", "_waiting")

    def __init__(self) -> None:
        self._line: deque[tuple[float, Streams]] = deque()
        self._waiting = False

    def watch_soon(self, streams: Streams) -> None:
        """Read from `_UNREAD_S` on, unless they are closed by then."""
        loop = asyncio.get_running_loop()
        self._line.append((loop.time() + _UNREAD_S, streams))
        if not self._waiting:
            self._waiting = True
            loop.call_later(_UNREAD_S, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time() + _TIMER_SLACK_S
        while self._line and self._line[0][0] <= now:
            _watch(self._line.popleft()[1])
        self._waiting = bool(self._line)
        if self._line:
            loop.call_at(self._line[0][0], self._look)


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
