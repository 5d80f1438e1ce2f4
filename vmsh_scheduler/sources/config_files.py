"""One consistent look at a set of config files: bytes or what is wrong, never half of two generations."""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

MAX_BYTES = 10_000_000
"""Of one file."""
DATA_LINK = "..data"
"""Kubernetes mounts a ConfigMap as links into this link, which it swaps as a whole."""
_MOST_LINKS = 16
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK  # a FIFO must not block


class Watched(NamedTuple):
    """A config file: what it is for, where it is, and whether it may be absent."""

    role: str
    path: Path
    optional: bool = False
    shown: str = ""
    """The path as it stands in messages; "" = as it is."""

    @property
    def name(self) -> str:
        return self.shown or str(self.path)


class Look(NamedTuple):
    """Contents by role, and by role what is wrong with the rest; an absent optional file is in neither."""

    raw: Mapping[str, bytes] = {}
    problems: Mapping[str, str] = {}
    warnings: tuple[str, ...] = ()
    sha256: str = ""
    """Over roles, contents and problems: equal = nothing to tell apart."""
    empty: bool = False
    """A file has no content at all: most likely it is just being written."""


class _Wrong(Exception):
    """The file cannot be used; the message says why."""


def look(files: Sequence[Watched]) -> Look:
    """Reads all files; those of one ConfigMap through one pinned directory, so of one generation."""
    raw: dict[str, bytes] = {}
    problems: dict[str, str] = {}
    warnings: list[str] = []
    with ExitStack() as stack:
        pins = _Pins(stack)
        for file in files:
            try:
                raw[file.role] = _contents(file, pins, warnings)
            except FileNotFoundError:
                if not file.optional:
                    problems[file.role] = f"{file.name}: is missing"
            except OSError as error:
                problems[file.role] = f"{file.name}: cannot be read: {error.strerror}"
            except _Wrong as wrong:
                problems[file.role] = f"{file.name}: {wrong}"
    empty = any(map(is_blank, raw.values()))
    return Look(raw, problems, tuple(warnings), _digest(raw, problems), empty)


def _contents(file: Watched, pins: "_Pins", warnings: list[str]) -> bytes:
    with _opened(file.path, pins) as fd:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise _Wrong("is a directory; a file is needed")
        if not stat.S_ISREG(status.st_mode):
            raise _Wrong("is not a regular file")
        if status.st_size > MAX_BYTES:
            raise _Wrong(f"too large: {status.st_size:,} bytes, at most {MAX_BYTES:,}")
        if status.st_mode & stat.S_IWOTH:
            raise _Wrong("can be changed by everybody, and it names the commands to run; chmod o-w")
        if status.st_uid not in (0, os.geteuid()):
            warnings.append(f"{file.name}: belongs to uid {status.st_uid}, who so decides what is run here")
        return _read(fd, status.st_size)


def is_blank(content: bytes) -> bool:
    return not content or content.isspace()


def _read(fd: int, size: int) -> bytes:
    """`size` is what to expect; at most one byte more than allowed is read, however the file grows meanwhile."""
    content = os.read(fd, size + 1)
    while len(content) <= MAX_BYTES and (more := os.read(fd, MAX_BYTES + 1 - len(content))):
        content += more
    if len(content) > MAX_BYTES:
        raise _Wrong(f"too large: at most {MAX_BYTES:,} bytes")
    return content


@contextmanager
def _opened(path: Path, pins: "_Pins") -> Iterator[int]:
    fd = pins.open(path)
    try:
        yield fd
    finally:
        os.close(fd)


@dataclass(slots=True)
class _Pins:
    """Directory descriptors of the `..data` links met so far: a swap cannot reach what is behind them."""

    stack: ExitStack
    by_link: dict[Path, int] = field(default_factory=dict)

    def open(self, path: Path) -> int:
        for _ in range(_MOST_LINKS):
            try:
                target = path.readlink()
            except OSError:
                break  # no link, or nothing at all: opening says which
            if target.parts[:1] == (DATA_LINK,):
                return os.open(target.relative_to(DATA_LINK), _FLAGS, dir_fd=self._pin(path.parent / DATA_LINK))
            path = path.parent / target
        return os.open(path, _FLAGS)

    def _pin(self, link: Path) -> int:
        if link not in self.by_link:
            fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
            self.stack.callback(os.close, fd)
            self.by_link[link] = fd
        return self.by_link[link]


def _digest(raw: Mapping[str, bytes], problems: Mapping[str, str]) -> str:
    total = hashlib.sha256()
    for role in sorted({*raw, *problems}):
        content = hashlib.sha256(raw[role]).hexdigest() if role in raw else problems[role]
        total.update(f"{role}\0{content}\0".encode(errors="surrogateescape"))
    return total.hexdigest()


Signature = tuple[tuple[int, ...], ...]


def signature(paths: Sequence[str]) -> Signature:
    """One stat per path: changes whenever contents, owner, mode or the file behind a name may have."""
    return tuple([_stamp(path) for path in paths])


def _stamp(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)  # noqa: PTH116  every second for every file: a Path costs as much again
    except OSError as error:
        return (error.errno or 0,)
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)


def data_links(files: Sequence[Watched]) -> list[Path]:
    """The `..data` links beside the files; a swap shows in the directory each one leads to."""
    return [link for link in sorted({file.path.parent / DATA_LINK for file in files}) if link.is_symlink()]
