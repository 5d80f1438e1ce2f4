"""Run records: files that tell how a run ended though nobody was there to see it (decisions 9 and 10).

`<id>` is the record: "S <pid of the shim>", then the exit status; the shim alone holds its flock. `<id>.in` is the
command's stdin, `<id>.out` and `<id>.err` what it writes. None is synced: after a reboot they prove nothing."""

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from vmsh_scheduler.domain.trigger import HOUR, Millis
from vmsh_scheduler.errors import CannotCreate
from vmsh_scheduler.executors.outputs import OutputFile

_SAFE = re.compile(r"[A-Za-z0-9_-]{1,120}")
_MARKER = ".begun-"
_FENCE = "fence "
_OURS = os.O_CLOEXEC | os.O_NOFOLLOW
_APPEND = os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_TRUNC | _OURS


class Phase(Enum):
    """What a record says."""

    ABSENT = "absent"
    EMPTY = "empty"
    """Made, but its shim never began."""
    LIVE = "live"
    ENDED = "ended"
    BROKEN = "broken"
    """Began, and its shim was killed before it could tell the end."""


@dataclass(frozen=True, slots=True)
class Record:
    """One look at a record. `pid` 0 = the shim has not said it yet."""

    phase: Phase
    pid: int = 0
    exit_code: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """A record made for a run that is about to start; `stdio` are the shim's: the locked record, stdout, stderr.

    The last two are locked as well, and open apart from ours: whoever holds them on tells so (OutputFile.held)."""

    stdio: tuple[int, int, int]
    stdin: Path
    out: OutputFile
    err: OutputFile

    def close(self) -> None:
        """The outputs only: `stdio` is closed as soon as the shim has it."""
        self.out.close()
        self.err.close()


class Records:
    """The directory of run records, private to one daemon at a time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._boot_id = ""
        self._fence = 0
        self._names: set[str] = set()

    def prepare(self, boot_id: str, fence: int) -> None:
        """Make the directory, and the marker that says since which daemon of this boot nothing was wiped from it.

        `fence`: of the daemon that we are; each has a higher one. Raises CannotCreate."""
        self._boot_id, self._fence = boot_id, fence
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            since = self._marked(boot_id)
            if since is None or since > fence:  # higher: of states that were lost or put back
                self._mark(fence)
            self._names.update(path.name for path in self.directory.iterdir())
        except OSError as error:
            raise CannotCreate(
                f"run records in {self.directory}: {error.strerror}", hint="the daemon needs to write there"
            ) from error

    def vouched(self, boot_id: str, fence: int) -> bool:
        """Is a missing record of a run that the daemon with that fence began proof that it never did?

        Fences, not times: a clock that was set knows nothing of before and after."""
        since = self._marked(boot_id)
        return bool(boot_id) and since is not None and since <= fence

    def create(self, run_id: str, stdin: bytes) -> Opened:
        """Raises OSError; BlockingIOError means that this very run is running."""
        path = self._path(run_id)
        self._names.add(path.name)
        opened: list[int] = []
        try:
            opened.append(self._begin(path))
            fcntl.flock(opened[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(opened[0], 0)
            for name in (f"{path}.out", f"{path}.err"):
                opened.append(os.open(name, _APPEND, 0o600))
                opened.append(os.open(name, os.O_WRONLY | os.O_APPEND | _OURS))
                fcntl.flock(opened[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_private(f"{path}.in", stdin)
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        lock, out, out_end, err, err_end = opened
        return Opened((lock, out_end, err_end), Path(f"{path}.in"), OutputFile(out), OutputFile(err))

    def look(self, run_id: str) -> Record:
        """Never waits. Raises OSError when the record cannot be read."""
        try:
            fd = os.open(self._path(run_id), os.O_RDWR | _OURS)
        except FileNotFoundError:
            return Record(Phase.ABSENT)
        try:
            held = not _free(fd)
            return _parse(os.pread(fd, 256, 0), held)
        finally:
            os.close(fd)

    def outputs(self, run_id: str) -> tuple[OutputFile, OutputFile]:
        """Of a run an earlier daemon started; a missing one is made anew, empty. Raises OSError."""
        path = self._path(run_id)
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | _OURS
        out = os.open(f"{path}.out", flags, 0o600)
        try:
            err = os.open(f"{path}.err", flags, 0o600)
        except OSError:
            os.close(out)
            raise
        return OutputFile(out), OutputFile(err)

    def forget(self, run_id: str) -> None:
        """The record goes last: whatever is interrupted here is swept later."""
        path = self._path(run_id)
        if path.name not in self._names:
            return  # most runs keep no record
        self._names.discard(path.name)
        for suffix in (".in", ".out", ".err", ""):
            with contextlib.suppress(OSError):
                path.with_name(path.name + suffix).unlink()

    def sweep(self, keep: Collection[str], now: Millis) -> int:
        """Unlink what belongs to none of the runs `keep`, is older than an hour and not locked; how many files."""
        kept = {self._path(run_id).name for run_id in keep}
        swept = 0
        for path in sorted(self.directory.iterdir()):
            name = path.name.removesuffix(".in").removesuffix(".out").removesuffix(".err")
            if path.name.startswith(_MARKER) or name in kept or self._in_use(path, name, now):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                swept += 1
        return swept

    def _begin(self, path: Path) -> int:
        flags = os.O_CREAT | os.O_RDWR | os.O_APPEND | _OURS
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            self._make_anew()
            return os.open(path, flags, 0o600)

    def _make_anew(self) -> None:
        """Somebody removed the directory. Its marker vouches for the daemons after us only: what we began before
        had its record in the one that is gone."""
        self.directory.mkdir(mode=0o700)
        owner = self.directory.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(self.directory, owner.st_uid, owner.st_gid)
        self._mark(self._fence + 1)

    def _in_use(self, path: Path, name: str, now: Millis) -> bool:
        try:
            young = now - path.lstat().st_mtime_ns // 1_000_000 < HOUR
            return young or self.look(name).phase is Phase.LIVE
        except OSError:
            return True

    def _path(self, run_id: str) -> Path:
        if _SAFE.fullmatch(run_id):
            return self.directory / run_id
        return self.directory / hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()

    def _marked(self, boot_id: str) -> int | None:
        """The fence from which on the marker vouches. A bare number is that of an earlier version: a time."""
        try:
            text = (self.directory / f"{_MARKER}{boot_id}").read_text(encoding="ascii")
            whole = re.fullmatch(rf"{_FENCE}(\d+)\n", text)
            return int(whole[1]) if whole else None
        except (OSError, ValueError):
            return None

    def _mark(self, fence: int) -> None:
        """One marker a boot: the oldest vouches for everything after it."""
        for old in self.directory.glob(f"{_MARKER}*"):
            old.unlink(missing_ok=True)
        _write_private(f"{self.directory}/{_MARKER}{self._boot_id}", f"{_FENCE}{fence}\n".encode())


def _free(fd: int) -> bool:
    """Shared, so that two who look do not take each other for a running shim."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _parse(text: bytes, held: bool) -> Record:
    """Only a complete line counts: the shim writes each with one call."""
    lines = text.split(b"\n")[:-1]
    begun = re.fullmatch(rb"S (\d{1,10})", lines[0]) if lines else None
    pid = int(begun[1]) if begun else 0
    if held:
        return Record(Phase.LIVE, pid)
    if not text:
        return Record(Phase.EMPTY)
    if begun and len(lines) == 2 and re.fullmatch(rb"\d{1,3}", lines[1]):
        return Record(Phase.ENDED, pid, int(lines[1]))
    return Record(Phase.BROKEN, pid)


def _write_private(path: str, content: bytes) -> None:
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | _OURS, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
