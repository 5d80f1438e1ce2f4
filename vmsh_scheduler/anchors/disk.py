"""Files as the anchors need them: whole or not at all, durable, locked, never larger than expected."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.errors import Busy, Denied

BATCH_LIMIT = 256 << 20
"""Bytes of a batch file; about a million sealed files."""
SMALL_LIMIT = 4 << 20
"""Bytes of a receipt, key, checkpoint or tail."""


def read(path: Path, limit: int) -> bytes:
    """Whole file; Invalid when larger than `limit` or no regular file (a FIFO never blocks)."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise Invalid(f"{path} is no regular file")
        with open(handle, "rb", closefd=False) as file:
            raw = file.read(limit + 1)
    finally:
        os.close(handle)
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


def replace(path: Path, data: bytes, *, mode: int = 0o644, durable: bool = True) -> None:
    """Old or new content, never a mixture; `durable`: the name is on disk too. The caller holds the lock."""
    temporary = path.with_name(f".{path.name}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        try:
            write_all(handle, data)
            os.fsync(handle)
        finally:
            os.close(handle)
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


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
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def append(path: Path, data: bytes) -> None:
    """On disk when it returns."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        write_all(handle, data)
        os.fdatasync(handle)
    finally:
        os.close(handle)


def cut(path: Path, length: int) -> int:
    """Truncates to `length`, durably; returns how many bytes went."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return 0
    if size <= length:
        return 0
    with path.open("r+b") as file:
        file.truncate(length)
        os.fsync(file.fileno())
    return size - length


def ends_a_line(path: Path, length: int) -> bool:
    """Is there a newline just before byte `length`?"""
    try:
        with path.open("rb") as file:
            file.seek(length - 1)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return False
