"""The state directory: names, permissions, and the only way files in it are opened."""

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from vmsh_scheduler.domain.trigger import HOUR, Millis
from vmsh_scheduler.errors import CannotCreate, Denied, StateUnreadable, StateWriteFailed
from vmsh_scheduler.stores.local import mounts
from vmsh_scheduler.stores.local.disk import Disk

READ_CAP = 1 << 30
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_WRONLY
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class StateDirectory:
    """`stem` names every file: `<stem>.json`, `<stem>.<gen>.wal`, `<stem>.db`, `<stem>-specs.db`, `<stem>.lock`."""

    path: Path
    stem: str
    fd: int
    disk: Disk = field(default_factory=Disk)

    @property
    def snapshot(self) -> str:
        return f"{self.stem}.json"

    @property
    def previous(self) -> str:
        return f"{self.stem}.json.prev"

    @property
    def database(self) -> str:
        return f"{self.stem}.db"

    @property
    def specs(self) -> str:
        return f"{self.stem}-specs.db"

    @property
    def lock(self) -> str:
        return f"{self.stem}.lock"

    def wal(self, gen: int) -> str:
        return f"{self.stem}.{gen}.wal"

    def generations(self) -> list[int]:
        """Of all logs that are there, rising."""
        found = []
        for name in self.names():
            middle = name.removeprefix(f"{self.stem}.").removesuffix(".wal")
            if name == f"{self.stem}.{middle}.wal" and middle.isascii() and middle.isdigit():
                found.append(int(middle))
        return sorted(found)

    def names(self) -> list[str]:
        """Through a descriptor of its own: duplicates of `fd` share one place in the listing, and two threads that
        read on from it see each only a part."""
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.fd)
        try:
            with os.scandir(fd) as entries:
                return [entry.name for entry in entries]
        finally:
            os.close(fd)

    def exists(self, name: str) -> bool:
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def size(self, name: str) -> int:
        """0: not there."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False).st_size
        except FileNotFoundError:
            return 0

    def read(self, name: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Bytes `start` to `stop`; None: not there. Raises Denied, StateUnreadable (too large, I/O error)."""
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=self.fd)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._refused(name, error) from error
        try:
            self._check_file(name, os.fstat(fd))
            os.lseek(fd, start, os.SEEK_SET)
            return _read_all(fd, self.path / name, None if stop is None else stop - start)
        finally:
            os.close(fd)

    def check(self, name: str) -> None:
        """Denied unless `name` is absent, or a plain file that only its rightful owner can write."""
        with suppress(FileNotFoundError):
            self._check_file(name, os.stat(name, dir_fd=self.fd, follow_symlinks=False))

    def check_directory(self, name: str) -> None:
        """Denied unless `name` is absent, or a directory that only its rightful owner can write."""
        with suppress(FileNotFoundError):
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise Denied(f"{self.path / name} is not a directory", hint="move it away")
            _check_status(self.path / name, status, os.fstat(self.fd).st_uid)

    def create(self, name: str, *, append: bool = False) -> int:
        """A new file, 0600, owned like the directory (root keeps nobody else out). Raises OSError."""
        with self.explained(name):
            fd = os.open(name, _NEW_FILE | (os.O_APPEND if append else 0), 0o600, dir_fd=self.fd)
        self.adopt(fd, os.fstat(self.fd))
        return fd

    def adopt(self, fd: int, like: os.stat_result) -> None:
        """Give a file of ours the owner of `like`: matters only for root, who may run a tick now and then."""
        if os.geteuid() == 0 and like.st_uid != 0:
            os.fchown(fd, like.st_uid, like.st_gid)

    def replace(self, name: str, *parts: bytes, keep_as: str = "") -> None:
        """Durably, at once or not at all (recipe of docs/guarantees.md); `keep_as`: the old file stays under that
        name. Raises OSError: then the old file is as it was."""
        temporary = _temporary(name)
        fd = self.create(temporary)
        kept = None
        try:
            self._fill(fd, name, parts)
            if keep_as and self.exists(name):
                kept = self._second_name(name)
            with self.explained(name):
                self.disk.rename(temporary, name, self.fd)
        except BaseException:
            self._forget(temporary, kept or "")
            raise
        if kept is not None:
            self._keep(kept, keep_as)
        self.disk.sync(self.fd)

    def sync(self, *names: str) -> None:
        """These files, then the directory itself."""
        for name in names:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self.fd)
            try:
                self.disk.sync(fd)
            finally:
                os.close(fd)
        self.disk.sync(self.fd)

    def doubt(self) -> mounts.Doubt:
        """Why this file system may not keep what is promised."""
        return mounts.doubt(self.fd)

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.fd)

    def set_aside(self, name: str, now: Millis, *, move: bool = True) -> str:
        """Keep a damaged file beside as `<name>.corrupt-<utc>`, over nothing, for ever; the new name."""
        kept = self._free_name(f"{name}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now / 1000))}")
        os.link(name, kept, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        if move:
            os.unlink(name, dir_fd=self.fd)
        self.sync()
        return kept

    def make_directory(self, name: str) -> None:
        """`runs/`, `keys/`: 0700, ours. Denied if something else has the name."""
        try:
            with self.explained(name):
                os.mkdir(name, 0o700, dir_fd=self.fd)
        except FileExistsError:
            self.check_directory(name)
            return
        except OSError as error:
            raise _cannot_write(self.path / name, error) from error
        like = os.fstat(self.fd)
        if os.geteuid() == 0 and like.st_uid != 0:
            os.chown(name, like.st_uid, like.st_gid, dir_fd=self.fd, follow_symlinks=False)

    def sweep(self, now: Millis) -> int:
        """Temporary files that a killed writer left over an hour ago; how many went."""
        swept = 0
        for name in self.names():
            if not name.startswith(f".{self.stem}."):
                continue
            with suppress(OSError):
                status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_mtime * 1000 < now - HOUR:
                    os.unlink(name, dir_fd=self.fd)
                    swept += 1
        return swept

    def close(self) -> None:
        os.close(self.fd)

    def _fill(self, fd: int, name: str, parts: Iterable[bytes]) -> None:
        try:
            with suppress(FileNotFoundError):
                old = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
                os.fchmod(fd, stat.S_IMODE(old.st_mode) & ~_WRITABLE_BY_OTHERS)
                self.adopt(fd, old)
            for data in parts:
                self.disk.write_all(fd, data)
            self.disk.sync(fd)
        finally:
            os.close(fd)

    def _second_name(self, name: str) -> str:
        """A hard link beside `name`; "" = none can be made here."""
        second = _temporary(name)
        try:
            os.link(name, second, src_dir_fd=self.fd, dst_dir_fd=self.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                raise
            return ""
        return second

    def _keep(self, kept: str, keep_as: str) -> None:
        """Only once the new file is in place: until then the one before stays the previous generation."""
        if kept:
            self.disk.rename(kept, keep_as, self.fd)
        else:
            self.remove(keep_as)  # its logs go soon
        self._forget(kept)  # a rename onto another name of the same file leaves both

    def _forget(self, *names: str) -> None:
        for name in filter(None, names):
            with suppress(OSError):
                os.unlink(name, dir_fd=self.fd)

    @contextmanager
    def explained(self, name: str) -> Iterator[None]:
        """Says whose the file is, and its mode: `Operation not permitted` alone sends people to the wrong place."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            owners = "; ".join(filter(None, (self._owner(name), self._owner("."))))
            raise OSError(error.errno, f"{error.strerror} ({owners})") from error

    def _owner(self, name: str) -> str:
        try:
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except OSError:
            return ""
        what = f"directory {self.path}" if name == "." else name
        return f"{what}: uid {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}"

    def _free_name(self, wanted: str) -> str:
        name, n = wanted, 1
        while self.exists(name):
            name, n = f"{wanted}.{n}", n + 1
        return name

    def _check_file(self, name: str, status: os.stat_result) -> None:
        path = self.path / name
        if not stat.S_ISREG(status.st_mode):
            kind = "a symlink" if stat.S_ISLNK(status.st_mode) else "not a plain file"
            remove = "rm -r" if stat.S_ISDIR(status.st_mode) else "rm"
            raise Denied(f"{path} is {kind}, which is never followed", hint=f"look at it, then: {remove} {path}")
        _check_status(path, status, os.fstat(self.fd).st_uid)

    def _refused(self, name: str, error: OSError) -> Exception:
        with suppress(OSError):
            status = os.stat(name, dir_fd=self.fd, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode):
                self._check_file(name, status)
            if isinstance(error, PermissionError):
                return _not_ours(self.path / name, status)
        return StateUnreadable(f"{self.path / name} cannot be read: {error.strerror}", hint="see dmesg and df")


def open_directory(snapshot: Path, *, create: bool = True, disk: Disk | None = None) -> StateDirectory:
    """`snapshot` is the path VMSH_STATE names. Raises Denied (with the command that mends it), CannotCreate."""
    path = snapshot.parent
    try:
        if create:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise _no_access(path, error) from error
    except OSError as error:
        raise CannotCreate(f"state directory {path}: {error.strerror}") from error
    try:
        if create:
            _tighten(fd)
        _check_status(path, os.fstat(fd), os.geteuid())
    except Denied:
        os.close(fd)
        raise
    return StateDirectory(path, snapshot.stem, fd, disk or Disk())


def _tighten(fd: int) -> None:
    """A checkout under umask 002 leaves `state/` writable for our own group: ours to mend, nobody's to see."""
    status = os.fstat(fd)
    group_only = status.st_mode & stat.S_IWGRP and not status.st_mode & stat.S_IWOTH
    if group_only and status.st_uid == os.geteuid():
        os.fchmod(fd, 0o700)


def _check_status(path: Path, status: os.stat_result, owner: int) -> None:
    user = os.geteuid()
    if user != 0 and status.st_uid not in (user, 0, owner):
        raise _not_ours(path, status)
    if status.st_mode & _WRITABLE_BY_OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise Denied(f"{path} can be written by others (mode {mode:04o})", hint=f"run: chmod go-w {path}")


def _not_ours(path: Path, status: os.stat_result) -> Denied:
    mode = stat.S_IMODE(status.st_mode)
    return Denied(
        f"{path} belongs to uid {status.st_uid} (mode {mode:04o}) and this is uid {os.geteuid()}",
        hint=f"run: chown {os.geteuid()}:{os.getegid()} {path}",
    )


def _no_access(path: Path, error: OSError) -> Denied:
    with suppress(OSError):
        if (status := path.stat()).st_uid != os.geteuid():
            return _not_ours(path, status)
        return Denied(f"{path}: {error.strerror}", hint=f"run: chmod u+rwx {path}")
    return Denied(f"{path}: {error.strerror}", hint=f"give uid {os.geteuid()} access to it")


def _cannot_write(path: Path, error: OSError) -> Exception:
    if error.errno == errno.EACCES:
        status = path.parent.stat()
        return _not_ours(path.parent, status)
    return StateWriteFailed(f"{path}: {error.strerror}", hint="see df, mount and lsattr")


def _temporary(name: str) -> str:
    """A name that nobody can have planted anything under."""
    return f".{name}.{secrets.token_hex(8)}"


def _read_all(fd: int, path: Path, wanted: int | None) -> bytes:
    size = os.fstat(fd).st_size
    if size > READ_CAP:
        raise StateUnreadable(f"{path} is {size} bytes, more than {READ_CAP}", hint="move it away")
    parts: list[bytes] = []
    left = READ_CAP if wanted is None else wanted
    try:
        while left > 0 and (part := os.read(fd, min(left, 1 << 20))):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise StateUnreadable(f"{path} cannot be read: {error.strerror}", hint="see dmesg") from error
    return b"".join(parts)


def identity(where: int | Path) -> tuple[int, int]:
    """Which file it is; (-1, -1): none that can be looked at."""
    try:
        status = os.fstat(where) if isinstance(where, int) else where.stat()
    except OSError:
        return (-1, -1)
    return status.st_dev, status.st_ino
