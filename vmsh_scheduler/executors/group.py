"""Watching one process group to its end: pidfd for the exit, TERM, grace, KILL, sweep, reap."""

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Callable
from enum import Enum

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.executors.processes import kill_all, members
from vmsh_scheduler.executors.spawn import not_started


class Exits:
    """One epoll for the pidfds of all groups: a system call each, where a reader of the loop's costs ten times that."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[int, Callable[[], None]] = {}
        self._closing = False

    def watch(self, pidfd: int, ended: Callable[[], None]) -> None:
        """Call `ended` once, when the process has ended. Raises OSError."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            self._loop.add_reader(self._epoll.fileno(), self._ready)
        self._epoll.register(pidfd, select.EPOLLIN)
        self._waiting[pidfd] = ended

    def forget(self, pidfd: int) -> None:
        if self._waiting.pop(pidfd, None) is not None:
            self._epoll.unregister(pidfd)
            if self._closing:
                self.close()

    def close(self) -> None:
        """Once the last process that is watched has ended."""
        self._closing = True
        if self._waiting or self._epoll.closed:
            return
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def _ready(self) -> None:
        for pidfd, _ in self._epoll.poll(0):
            ended = self._waiting[pidfd]
            self.forget(pidfd)
            ended()


class Stop(Enum):
    """Why a group was told to end."""

    TIMEOUT = "timeout"
    HURRY = "hurry"


class Group:
    """A session that we started (`ours`) or that an earlier daemon started; its leader is `pid`."""

    __slots__ = ("_exited", "_exits", "_grace_s", "_loop", "_pidfd", "_timer", "killed", "ours", "pid", "stopped")

    def __init__(self, exits: Exits, pid: int, pidfd: int, *, grace_ms: int, ours: bool = True) -> None:
        """Raises OSError, `pidfd` still open, when it cannot be watched."""
        exits.watch(pidfd, self._on_exit)
        loop = asyncio.get_running_loop()
        self.pid = pid
        self.stopped: Stop | None = None
        self.killed = False
        self._loop = loop
        self._pidfd = pidfd
        self._grace_s = grace_ms / 1000
        self.ours = ours
        self._timer: asyncio.TimerHandle | None = None
        self._exited = loop.create_future()
        self._exits = exits

    async def wait(self, timeout_ms: int) -> None:
        """Return when the leader has ended, by itself or by us; its pid stays reserved until `finish`."""
        self._timer = self._loop.call_later(max(0, timeout_ms) / 1000, self.stop, Stop.TIMEOUT)
        try:
            await self._exited
        except asyncio.CancelledError:
            if self.ours:
                await self._cancelled()
            else:
                self._let_go()
            raise

    def stop(self, why: Stop) -> None:
        """TERM now, KILL after the grace; the first reason stays."""
        if self.stopped is not None or self._exited.done():
            return
        self.stopped = why
        self._cancel_timer()
        self._signal(signal.SIGTERM)
        self._timer = self._loop.call_later(self._grace_s, self.kill)

    def kill(self) -> None:
        self.killed = True
        self._signal(signal.SIGKILL)

    def finish(self, *, sweep: bool) -> int:
        """KILL what is left of the group, reap the leader, close; the wait status (0 when it was not our child)."""
        self._cancel_timer()
        if sweep:
            self._sweep()
        status = os.waitpid(self.pid, 0)[1] if self.ours else 0
        os.close(self._pidfd)
        return status

    def _let_go(self) -> None:
        """An adopted run goes on without us, as it did before: the next start finds it again."""
        self._cancel_timer()
        self._exits.forget(self._pidfd)
        os.close(self._pidfd)

    async def _cancelled(self) -> None:
        """KILL, and a second for the kernel; a leader that is stuck in it is reaped whenever it lets go."""
        self._cancel_timer()
        self.kill()
        if self._exited.cancelled():
            self._exited = self._loop.create_future()
        await asyncio.wait([self._exited], timeout=1)

    @property
    def ended(self) -> bool:
        return self._exited.done() and not self._exited.cancelled()

    def finish_later(self) -> None:
        """For a leader that outlived its KILL."""
        self._exited.add_done_callback(lambda _: self.finish(sweep=True))

    @property
    def flags(self) -> tuple[str, ...]:
        """`killed`: TERM was not enough."""
        return ("killed",) if self.killed else ()

    def _on_exit(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)

    def _signal(self, number: signal.Signals) -> None:
        # The leader is not reaped before `finish`, so the number still means this group.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def _sweep(self) -> None:
        if self.ours:
            self._signal(signal.SIGKILL)  # the leader is a zombie now and keeps the number from being reused
        else:
            kill_all(members(self.pid))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Groups:
    """Every group that lives now."""

    def __init__(self) -> None:
        self._live: set[Group] = set()
        self._exits = Exits()

    def watch(self, pid: int, grace: Millis) -> Group:
        """A child just spawned. Raises NotStarted, the child being dead and reaped, when it cannot be watched."""
        try:
            return self._add(pid, os.pidfd_open(pid), grace, ours=True)
        except OSError as error:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise not_started(error) from error

    def adopt(self, pid: int, pidfd: int, grace: Millis) -> Group:
        """Somebody else's child; `pidfd` is ours to close from here on."""
        return self._add(pid, pidfd, grace, ours=False)

    async def wait(self, group: Group, limit: Millis, *, outlive: bool) -> int:
        """The wait status; whatever happens here, the group ends and its leader is reaped."""
        try:
            await group.wait(limit)
        except asyncio.CancelledError:
            if group.ours:
                group.finish(sweep=True) if group.ended else group.finish_later()
            raise
        finally:
            self._live.discard(group)
        return group.finish(sweep=not outlive or group.stopped is not None)

    def hurry(self) -> None:
        for group in tuple(self._live):
            group.stop(Stop.HURRY)

    def close(self) -> None:
        """Give back the descriptor that is held between runs."""
        self._exits.close()

    def pids(self) -> frozenset[int]:
        return frozenset(group.pid for group in self._live)

    def _add(self, pid: int, pidfd: int, grace: Millis, *, ours: bool) -> Group:
        try:
            group = Group(self._exits, pid, pidfd, grace_ms=grace, ours=ours)
        except OSError:
            os.close(pidfd)
            raise
        self._live.add(group)
        return group
