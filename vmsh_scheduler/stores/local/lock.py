"""One daemon per state directory: flock on the directory itself, which nobody can unlink; a lock file for people."""

import errno
import fcntl
import os
import socket
import stat
import time
from contextlib import suppress
from dataclasses import dataclass

from filelock import FileLock, Timeout

from vmsh_scheduler.errors import Busy, CannotCreate, Denied, SchedulerError, StateWriteFailed
from vmsh_scheduler.ports import Clock, Lease
from vmsh_scheduler.stores.local.directory import StateDirectory, identity
from vmsh_scheduler.stores.local.states import LocalStates

_TEXT_CAP = 4096
_TEXT_WAIT_S = 0.5
_NO_FLOCK = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the state directory, as it says itself."""

    pid: int
    text: str
    """pid, host, since and command in one printable line."""


class StateLock:
    """Held by whoever writes the state; counted, so that a lease may end before the last snapshot is written."""

    def __init__(self, directory: StateDirectory, clock: Clock, command: str = "vmsh-scheduler") -> None:
        self._directory = directory
        self._clock = clock
        self._command = command
        self._holds = 0
        self._fd = -1
        self._file: FileLock | None = None
        self._file_identity = (0, 0)

    @property
    def held(self) -> bool:
        return self._holds > 0

    def acquire(self) -> None:
        """Raises Busy (naming the holder, within 1 s), Denied, CannotCreate. Every one needs its release."""
        if not self.held:
            self._take()
        self._holds += 1

    def mend(self) -> bool:
        """A lock file that somebody deleted is made anew; False: not the only holder any more. Raises Busy when
        somebody else has locked a file of that name."""
        problem = self.check()
        if problem and self._identities_differ():
            return False
        if problem:
            self._drop_file()
            with suppress(StateWriteFailed, Denied):  # the directory is ours still; the file is tried again later
                self._lock_file()
        return True

    def check(self) -> str:
        """Is it still the only one? "" = yes, else what happened to the directory or the lock file."""
        if not self.held:
            return "the state directory is not locked"
        if self._identities_differ():
            return f"the state directory {self._directory.path} was moved or replaced"
        path = self._directory.path / self._directory.lock
        if identity(path) != self._file_identity:
            return f"the lock file {path} was deleted or replaced"
        return ""

    def release(self) -> None:
        self._holds = max(0, self._holds - 1)
        if self._holds == 0:
            self.close()

    def close(self) -> None:
        """Released, however many still hold it."""
        self._holds = 0
        if self._fd >= 0:
            self._drop_file()
            os.close(self._fd)
            self._fd = -1

    def _take(self) -> None:
        fd = os.open(self._directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._lock_directory(fd)
            self._lock_file()
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _drop_file(self) -> None:
        if self._file is not None:
            self._file.release()
            self._file = None

    def _identities_differ(self) -> bool:
        return identity(self._directory.path) != identity(self._fd)

    def _lock_directory(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise self._refused(error) from error

    def _lock_file(self) -> None:
        path = self._directory.path / self._directory.lock
        self._directory.check(self._directory.lock)
        lock = FileLock(path, timeout=0, mode=0o600, thread_local=False, fallback_to_soft=False, on_acquired=self._sign)
        try:
            with self._directory.explained(self._directory.lock):
                lock.acquire()
        except Timeout as error:
            raise self._busy() from error
        except OSError as error:
            raise self._refused(error) from error
        self._file = lock

    def _sign(self, fd: int) -> None:
        self._file_identity = identity(fd)
        self._directory.adopt(fd, os.fstat(self._directory.fd))
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._clock.now() / 1000))
        text = f"pid {os.getpid()}\nhost {socket.gethostname()}\nsince {since}\ncommand {self._command}\n"
        with suppress(OSError):  # a full disk must not cost the lock: the text is only for people
            os.ftruncate(fd, 0)
            os.pwrite(fd, text.encode("utf-8", "backslashreplace")[:_TEXT_CAP], 0)

    def _refused(self, error: OSError) -> SchedulerError:
        if error.errno == errno.EWOULDBLOCK:
            return self._busy()
        path = self._directory.path
        if error.errno in _NO_FLOCK:
            return CannotCreate(f"the file system of {path} has no flock", hint="put the state on a local disk")
        if error.errno in (errno.EACCES, errno.ELOOP):
            return Denied(
                f"{path / self._directory.lock}: {error.strerror}", hint=f"run: chown -R {os.geteuid()} {path}"
            )
        return StateWriteFailed(f"{path / self._directory.lock}: {error.strerror}", hint="see df, mount and lsattr")

    def _busy(self) -> Busy:
        deadline = time.monotonic() + _TEXT_WAIT_S
        while (who := holder(self._directory)) is None and time.monotonic() < deadline:
            time.sleep(0.02)  # the winner has the lock and is about to sign it
        text = who.text if who is not None else "a process that left no name"
        return Busy(f"{self._directory.path} is in use by {text}", hint="one daemon per state directory")


def holder(directory: StateDirectory) -> Holder | None:
    """What the lock file says; None: nothing readable. Only who holds the lock is believed: ask `acquire` first."""
    try:
        fd = os.open(directory.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory.fd)
    except OSError:
        return None
    try:
        raw = os.read(fd, _TEXT_CAP) if stat.S_ISREG(os.fstat(fd).st_mode) else b""
    finally:
        os.close(fd)
    text = "".join(c if c.isprintable() else " " for c in raw.decode("utf-8", "replace").strip().replace("\n", ", "))
    pid = text.removeprefix("pid ").partition(",")[0]
    return Holder(int(pid), text) if text.startswith("pid ") and pid.isascii() and pid.isdigit() else None


class LocalLeases:
    """ports.Leases: the directory's lock is the lease, the fence lives in the states."""

    def __init__(self, lock: StateLock, states: LocalStates, clock: Clock) -> None:
        self._lock = lock
        self._states = states
        self._clock = clock
        self._held: dict[str, Lease] = {}

    async def acquire(self, name: str) -> Lease | None:
        """Raises StateWriteFailed when the fence cannot be made durable."""
        if name in self._held or not self._locked():
            return None
        fence = max(self._states.fence + 1, self._clock.now())
        try:
            await self._states.raise_fence(fence)
        except BaseException:
            self._lock.release()
            raise
        self._held[name] = Lease(name, fence)
        return self._held[name]

    async def renew(self, lease: Lease) -> bool:
        return self._held.get(lease.name) == lease and self._lock.check() == ""

    async def release(self, lease: Lease) -> None:
        if self._held.get(lease.name) == lease:
            del self._held[lease.name]
            self._lock.release()

    def _locked(self) -> bool:
        try:
            self._lock.acquire()
        except Busy:
            return False
        try:
            ours = self._lock.mend()
        except Busy:
            ours = False
        if not ours:
            self._lock.release()
        return ours
