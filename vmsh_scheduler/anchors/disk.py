"""Files as the anchors need them: whole or not at all, durable, locked, never larger than expected."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.errors import Busy, Denied

BATCH_LIMIT = 256 << 20
"""Bytes of a batch file; about a million sealed files."""
SMALL_LIMIT = 4 << 20
"""Bytes of a receipt, key, checkpoint or tail."""


def open_regular(path: Path, flags: int = os.O_RDONLY, *, mode: int = 0o644, otherwise: type[Invalid] = Invalid) -> int:
    """A descriptor to be closed. `otherwise`: what a FIFO, a device or a directory is, at once: nothing here ever waits
    for the other end of a FIFO."""
    try:
        handle = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, mode)
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise otherwise(f"{path} is a directory") from None
        if error.errno == errno.ENXIO:  # a FIFO to be written that nobody reads, a socket
            raise otherwise(f"{path} is no regular file") from None
        raise
    found = os.fstat(handle).st_mode
    if stat.S_ISREG(found):
        return handle
    os.close(handle)
    raise otherwise(f"{path} is {'a directory' if stat.S_ISDIR(found) else 'no regular file'}")


def read(path: Path, limit: int) -> bytes:
    """Whole file; Invalid when larger than `limit` or no regular file."""
    with _naming(path), open(open_regular(path), "rb") as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise Invalid(f"{path} is larger than {limit} bytes")
    return raw


def read_if_there(path: Path, limit: int) -> bytes | None:
    try:
        return read(path, limit)
    except FileNotFoundError:
        return None


def check_private(path: Path, *, group: bool = False) -> None:
    """Denied unless only its owner (`group`: and its group) may read it, and that is who runs this, or root."""
    found = path.stat()
    if found.st_mode & (0o007 if group else 0o077):
        who, how = ("everybody", "o-rwx") if group else ("others", "600")
        raise Denied(f"{path} can be read by {who}", hint=f"chmod {how} {path}")
    if found.st_uid not in (0, os.geteuid()):
        raise Denied(f"{path} belongs to another user", hint="chown it to the one that runs this, or to root")


def write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def temporary(path: Path) -> Path:
    """Where `replace` writes first."""
    return path.with_name(f".{path.name}.tmp")


def replace(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Old or new content, never a mixture; `durable`: the name is on disk too. The caller holds the lock."""
    beside = temporary(path)
    with _naming(path):
        _clear(beside)
        handle = open_regular(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=mode)
        try:
            with open(handle, "wb", buffering=0):
                write_all(handle, data)
                os.fsync(handle)
            beside.rename(path)
        except OSError:
            beside.unlink(missing_ok=True)
            raise
    if durable:
        sync_directory(path.parent)


def write_out(path: Path, data: bytes) -> None:
    """Where somebody said `-o`: a file is written whole or not at all; a device or a pipe is written into."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
    else:
        replace(path.resolve(), data)


def _clear(beside: Path) -> None:
    """What a crash left, a FIFO, a symlink: nothing is written through it. A directory may hold anything."""
    try:
        beside.unlink(missing_ok=True)
    except IsADirectoryError:
        raise Invalid(f"{beside} is a directory", hint="move it away") from None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A full disk is told of a descriptor without a name, and a temporary one tells nobody anything."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def sync_directory(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_directory(path: Path, mode: int = 0o755) -> None:
    """With its parents, their names durable."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    sync_directory(path.parent)


@contextmanager
def locked(directory: Path, *, wait_s: float = 30.0) -> Iterator[None]:
    """Exclusive among all processes that lock this directory; Busy when it is not free within `wait_s`."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(handle, directory, time.monotonic() + wait_s)
        yield
    finally:
        os.close(handle)


def _lock(handle: int, directory: Path, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise Busy(f"{directory} is locked by another process", hint="try again") from None
            time.sleep(0.005)


def sync(path: Path) -> None:
    """Corrupt when it is no regular file, as the next three: they are about ledgers alone."""
    with _naming(path), open(open_regular(path, otherwise=Corrupt), "rb") as file:
        os.fsync(file.fileno())


def append(path: Path, data: bytes) -> None:
    """On disk when it returns."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
    with _naming(path), open(open_regular(path, flags, otherwise=Corrupt), "ab", buffering=0) as file:
        write_all(file.fileno(), data)
        os.fdatasync(file.fileno())


def cut(path: Path, length: int) -> int:
    """Truncates to `length`, durably; returns how many bytes went."""
    try:
        with _naming(path), open(open_regular(path, os.O_RDWR, otherwise=Corrupt), "r+b", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > length:
                os.ftruncate(file.fileno(), length)
                os.fsync(file.fileno())
    except FileNotFoundError:
        return 0
    return max(0, size - length)


def ends_a_line(path: Path, length: int) -> bool:
    """Is there a newline just before byte `length`?"""
    try:
        with open(open_regular(path, otherwise=Corrupt), "rb") as file:
            return os.pread(file.fileno(), 1, length - 1) == b"\n"
    except FileNotFoundError:
        return False
