"""A private Unix socket in a directory of any length: made aside, then renamed into place.

A path may have 107 bytes (unix(7)); /proc/self/fd/<directory>/<name> always fits, whatever the directory is called."""

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass

from vmsh_scheduler.errors import Busy, CannotCreate, SchedulerError

PROBE_S = 1.0
BACKLOG = 512


@dataclass(frozen=True, slots=True)
class BoundSocket:
    """Listening under `name` in the directory behind `directory_fd`."""

    sock: socket.socket
    name: str
    directory_fd: int
    inode: int

    def release(self) -> None:
        """Take our own name away, nobody else's; the socket is closed by who serves it."""
        try:
            if os.stat(self.name, dir_fd=self.directory_fd, follow_symlinks=False).st_ino == self.inode:
                os.unlink(self.name, dir_fd=self.directory_fd)
        except FileNotFoundError:
            pass
        finally:
            os.close(self.directory_fd)


def bind_private(directory: str, name: str) -> BoundSocket:
    """0600 from its first instant. Raises Busy if a process answers there, CannotCreate if it cannot be."""
    try:
        directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise CannotCreate(f"cannot open {directory}: {error.strerror}") from error
    try:
        check_free(directory, directory_fd, name)
        return _bind(directory_fd, name)
    except OSError as error:
        os.close(directory_fd)
        hint = "the state directory needs a file system that has sockets, and must be ours"
        raise CannotCreate(f"cannot make {directory}/{name}: {error.strerror}", hint=hint) from error
    except SchedulerError:
        os.close(directory_fd)
        raise


def _bind(directory_fd: int, name: str) -> BoundSocket:
    aside = f".{name}.{os.getpid()}"
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _unlink(aside, directory_fd)
        # Linux gives the new inode the mode of the socket itself, less the umask: no instant with more than 0600.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(f"/proc/self/fd/{directory_fd}/{aside}")
        inode = os.stat(aside, dir_fd=directory_fd, follow_symlinks=False).st_ino
        sock.listen(BACKLOG)
        os.rename(aside, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
    except OSError:
        sock.close()
        _unlink(aside, directory_fd)
        raise
    return BoundSocket(sock, name, directory_fd, inode)


def check_free(directory: str, directory_fd: int, name: str) -> None:
    """What a dead daemon left may be replaced; a file that is no socket is not ours to remove."""
    try:
        mode = os.stat(name, dir_fd=directory_fd, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotCreate(f"{directory}/{name} is in the way and no socket", hint="look at it and remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(f"/proc/self/fd/{directory_fd}/{name}")
        except ConnectionRefusedError:
            return
        except TimeoutError:
            pass
    raise Busy(f"a process answers on {directory}/{name}", hint="stop the daemon that runs there")


def _unlink(name: str, directory_fd: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory_fd)
