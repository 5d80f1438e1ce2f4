"""Disks that are looked at before every call, forget what was not synced, and fail when they are told to."""

import errno
import os
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from vmsh_scheduler.stores.local.disk import Disk

T = TypeVar("T")
Files = Mapping[str, bytes]
POWER_CUTS = ("power cut", "power cut, names first")


@dataclass(frozen=True, slots=True)
class Shot:
    """A directory just before a call of its writer."""

    call: str
    acked: int
    """Last change whose writer had been told that it is durable."""
    seen: Files
    """What the next process reads when this one is killed now."""
    durable: Files
    """What is left when the power goes now, and nothing was written back early: synced content, synced names."""
    emptied: Files
    """The same with every name as it stands: the file system wrote names back before content."""

    def views(self) -> dict[str, Files]:
        return {"kill -9": self.seen, **dict(zip(POWER_CUTS, (self.durable, self.emptied), strict=True))}

    def lay_out(self, view: str, at: Path) -> Path:
        """The view as a real directory, as private as a state directory has to be."""
        at.mkdir(mode=0o700)
        for name, content in self.views()[view].items():
            (at / name).write_bytes(content)
        return at


@dataclass
class WatchedDisk:
    """`fail`: is asked with each call's name and number (from 1); a number is the errno it fails with.

    A sync that failed loses what it was about for good: the kernel marks the pages clean, and a second sync of that
    file succeeds without having written them. Writes go in halves, so that a view may be torn."""

    directory: Path
    fail: Callable[[str, int], int] = lambda call, number: 0
    acked: int = 0
    failures: int = 0
    shots: list[Shot] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    _contents: dict[int, bytes] = field(default_factory=dict)
    _names: dict[str, int] = field(default_factory=dict)
    _lost: set[int] = field(default_factory=set)
    _held: list[int] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def disk(self) -> Disk:
        return Disk(
            write=lambda fd, data: self._do("write", fd, lambda: os.write(fd, data[: len(data) // 2 + 1])),
            truncate=lambda fd, size: self._do("truncate", fd, lambda: os.ftruncate(fd, size)),
            sync_data=lambda fd: self._do("fdatasync", fd, lambda: self._keep(fd)),
            sync=lambda fd: self._do("fsync", fd, lambda: self._keep(fd)),
            rename=lambda old, new, fd: self._do("rename", fd, lambda: Disk().rename(old, new, fd)),
        )

    def ack(self, number: int) -> None:
        """The writer was told that change `number` is durable."""
        with self._lock:
            self.acked = number
            self.shots.append(self._shot("acknowledged"))

    def close(self) -> None:
        """Held so that no inode number is given out twice."""
        for fd in self._held:
            os.close(fd)
        self._held.clear()

    def _do(self, call: str, fd: int, work: Callable[[], T]) -> T:
        with self._lock:
            self.shots.append(self._shot(call))
            self.calls.append(call)
            if error := self.fail(call, len(self.calls)):
                self.failures += 1
                self._lose(fd)
                raise OSError(error, os.strerror(error))
            return work()

    def _lose(self, fd: int) -> None:
        if not _is_directory(fd):
            self._held.append(os.dup(fd))
            self._lost.add(os.fstat(fd).st_ino)

    def _keep(self, fd: int) -> None:
        if _is_directory(fd):
            self._names = self._listed()
        elif (inode := os.fstat(fd).st_ino) not in self._lost:
            self._contents[inode] = self._read(fd)

    def _read(self, fd: int) -> bytes:
        """Through its name: the writer's descriptor cannot read."""
        inode = os.fstat(fd).st_ino
        self._held.append(os.dup(fd))
        return next((self.directory / name).read_bytes() for name, number in self._listed().items() if number == inode)

    def _listed(self) -> dict[str, int]:
        with os.scandir(self.directory) as entries:
            return {entry.name: entry.inode() for entry in entries if entry.is_file(follow_symlinks=False)}

    def _shot(self, call: str) -> Shot:
        seen: dict[str, bytes] = {}
        now = self._listed()
        for name in filter(_counts, now):
            with suppress(FileNotFoundError):
                seen[name] = (self.directory / name).read_bytes()
        return Shot(call, self.acked, seen, self._synced(self._names), self._synced(now))

    def _synced(self, names: Mapping[str, int]) -> dict[str, bytes]:
        return {name: self._contents.get(inode, b"") for name, inode in names.items() if _counts(name)}


def harm(disk: WatchedDisk, view: str, reader: Callable[[Path], int]) -> list[str]:
    """What a start at any of the moments would find missing or invented, if the machine had stopped there."""
    found = []
    answers: dict[frozenset[tuple[str, bytes]], int | str] = {}
    for number, shot in enumerate(disk.shots):
        files = frozenset(shot.views()[view].items())
        if files not in answers:
            answers[files] = _read(shot.lay_out(view, disk.directory.parent / f"{view} {number}"), reader)
        if complaint := _complaint(shot, answers[files]):
            found.append(f"before {shot.call} ({number}): {complaint}")
    return found


def _read(at: Path, reader: Callable[[Path], int]) -> int | str:
    try:
        return reader(at)
    except (AssertionError, ValueError) as error:
        return f"unreadable: {error}"


def _complaint(shot: Shot, answer: int | str) -> str:
    if isinstance(answer, str):
        return answer
    return "" if shot.acked <= answer <= shot.acked + 1 else f"{shot.acked} acknowledged, {answer} found"


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _counts(name: str) -> bool:
    """Snapshots and logs: the journal is SQLite's to write and derived from them, the lock is for people."""
    return ".db" not in name and not name.endswith(".lock")


def failing(call: str, first: int, last: int = 0, *, error: int = errno.EIO) -> Callable[[str, int], int]:
    """The `first`-th to the `last`-th (only the first) of these calls fail, and no other."""
    seen = [0]

    def fail(name: str, _: int) -> int:
        seen[0] += name == call
        return error if name == call and first <= seen[0] <= max(first, last) else 0

    return fail
