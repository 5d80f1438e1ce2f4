"""Starting one process: posix_spawn on the loop's thread, and the true reason when it cannot be started."""

import errno
import os
import resource
import shutil
import signal
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vmsh_scheduler.domain.action import Limits

SHELL = "/bin/sh"
SHIM = (Path(__file__).parent / "shim.sh").read_text(encoding="ascii")
_EXHAUSTED = frozenset(
    {errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EDQUOT}
)
_OOM_SCORE = 500
# Python ignores these; a command expects them as they were.
_SIGNALS = [
    signal.SIGPIPE,
    signal.SIGXFSZ,
    # a daemon started in the background of a shell, or by nohup, inherits these ignored
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGHUP,
    signal.SIGTERM,
]
_PIPE_PAGE = 4096
"""What fits into any new pipe, however poor the user's pipe budget is."""


class NotStarted(Exception):
    """Nothing began. `code` is `spawn_error`, or `resources` when only the machine was short of something."""

    def __init__(self, message: str, code: str = "spawn_error") -> None:
        super().__init__(message)
        self.message = message
        self.code = code


class Program(NamedTuple):
    """What to execute and where; `path` is argv[0] as found on the child's PATH."""

    path: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str = ""
    """"" = the daemon's own."""


def locate(argv: tuple[str, ...], env: Mapping[str, str], cwd: str | None) -> Program:
    """Resolve argv[0] and the directory; raises NotStarted naming what is missing."""
    directory = "" if cwd is None else _directory(cwd)
    name = argv[0] if argv else ""
    if not name:
        raise NotStarted("the command is empty")
    if "/" in name:
        return Program(name if not directory else str(Path(directory, name)), argv, env, directory)
    try:
        found = _on_path(name, env.get("PATH", os.defpath))
    except ValueError as error:
        raise NotStarted(f"{name!a}: {_encoding(error)}") from error
    if found is None:
        raise NotStarted(f"{name!a}: not found on PATH {env.get('PATH', os.defpath)!r}")
    return Program(found, argv, env, directory)


def _on_path(name: str, path: str) -> str | None:
    for directory in path.split(":"):
        candidate = f"{directory}/{name}"
        # A relative entry would make what runs depend on where the daemon was started.
        if directory.startswith("/") and os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112 - one stat on the hot path
            return candidate
    return None


def _directory(cwd: str) -> str:
    """ "" when it is where we are anyway, which spares the shim."""
    path = str(Path(cwd).absolute())
    try:
        wanted = Path(path).stat()
        here = Path().stat()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else _encoding(error)
        raise NotStarted(f"working directory {cwd!a}: {why}") from error
    if not stat.S_ISDIR(wanted.st_mode):
        raise NotStarted(f"working directory {cwd!a}: not a directory")
    if not os.access(path, os.X_OK):
        raise NotStarted(f"working directory {cwd!a}: permission denied")
    return "" if (wanted.st_dev, wanted.st_ino) == (here.st_dev, here.st_ino) else path


class Spawner:
    """Starts processes that die before the daemon does when memory runs out.

    A child inherits our OOM score, so it is raised for the moment of the start: going back down to one's own is
    allowed to everybody, and no child of the child can be born before."""

    def __init__(self) -> None:
        try:
            self._score = os.open("/proc/self/oom_score_adj", os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            self._score = -1

    def spawn(self, program: Program, stdio: tuple[int, int, int]) -> int:
        """The pid, leader of a session of its own with fds 0, 1, 2 = `stdio`. Raises NotStarted."""
        actions = [(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)]
        own = self._raise_score()
        try:
            return os.posix_spawn(
                program.path,
                program.argv,
                program.env,
                file_actions=actions,
                setsid=True,
                setsigmask=[],
                setsigdef=_SIGNALS,
            )
        except OSError as error:
            raise not_started(error, program) from error
        except ValueError as error:
            raise NotStarted(f"{program.argv[0]!a}: {_encoding(error)}") from error
        finally:
            if own:
                os.pwrite(self._score, own, 0)

    def close(self) -> None:
        if self._score >= 0:
            os.close(self._score)
            self._score = -1

    def _raise_score(self) -> bytes:
        """What to go back to; b"" when nothing was changed."""
        if self._score < 0:
            return b""
        own = os.pread(self._score, 16, 0)
        if int(own) >= _OOM_SCORE:
            return b""
        os.pwrite(self._score, b"%d" % _OOM_SCORE, 0)
        return own


def through_shim(program: Program, *, umask: int | None, limits: Limits | None, stdin: str = "") -> Program:
    """`program` started by the shim; `stdin` names the file of a recorded run. Raises NotStarted like spawn."""
    _check_runnable(program)
    settings = [stdin, program.cwd, "" if umask is None else f"{umask:03o}", *_ulimits(limits or Limits())]
    argv = (SHELL, "-c", SHIM, "vmsh-run", *settings, program.path, *program.argv[1:])
    return Program(SHELL, argv, program.env)


def _ulimits(limits: Limits) -> list[str]:
    """In the units of `ulimit`; refuses what the hard limit forbids, which the shim could only say by exit 126."""
    wanted = (
        ("cpu_seconds", resource.RLIMIT_CPU, limits.cpu_seconds, 1),
        ("address_space", resource.RLIMIT_AS, limits.address_space, 1024),
        ("file_size", resource.RLIMIT_FSIZE, limits.file_size, 512),
        ("open_files", resource.RLIMIT_NOFILE, limits.open_files, 1),
        ("processes", resource.RLIMIT_NPROC, limits.processes, 1),
    )
    for name, which, value, _ in wanted:
        hard = resource.getrlimit(which)[1]
        if value is not None and hard != resource.RLIM_INFINITY and value > hard and os.geteuid() != 0:
            raise NotStarted(f"limit {name} = {value} is above the hard limit {hard} of the daemon")
    return ["" if value is None else str(-(-value // unit)) for _, _, value, unit in wanted]


def is_exhausted(error: OSError) -> bool:
    """The machine is short of something, which passes by itself (decision 15)."""
    return error.errno in _EXHAUSTED


def not_started(error: OSError, program: Program | None = None) -> NotStarted:
    """The failure in words; `resources` when it will pass by itself."""
    if is_exhausted(error):
        return NotStarted(f"the machine cannot start another process now: {error.strerror}", "resources")
    if program is None:
        return NotStarted(f"{error.filename or 'spawn'}: {error.strerror}")
    where = ascii(program.path)
    match error.errno:
        case errno.E2BIG:
            return NotStarted(f"{where}: arguments and environment are too long")
        case errno.ENOEXEC:
            return NotStarted(f"{where}: no program and no #! line")
        case errno.EACCES if not Path(program.path).is_file() or os.access(program.path, os.X_OK):
            return NotStarted(f"{where}: {_interpreter_flaw(program) or 'permission denied, or no regular file'}")
        case errno.EACCES:
            return NotStarted(f"{where}: not executable")
        case errno.ENOENT:
            return NotStarted(f"{where}: {_interpreter_flaw(program) or 'not found'}")
        case _:
            return NotStarted(f"{where}: {error.strerror}")


def _check_runnable(program: Program) -> None:
    """What execve would say: behind the shim nobody hears it, and dash would run a file without #! as a script."""
    path = Path(program.path)
    for text in program.argv:
        _check_argument(text)
    try:
        if not path.is_file():
            raise NotStarted(f"{program.path!a}: {'no regular file' if path.exists() else 'not found'}")
        if not os.access(path, os.X_OK):
            raise NotStarted(f"{program.path!a}: not executable")
        head = _head(path)
    except PermissionError:
        return  # executable but not readable: only the kernel can tell
    except OSError as error:
        raise not_started(error) from error
    if flaw := _interpreter_flaw(program):
        raise NotStarted(f"{program.path!a}: {flaw}")
    if not head.startswith((b"#!", b"\x7fELF")) and b"\0" not in head:
        raise NotStarted(f"{program.path!a}: no program and no #! line")


def _check_argument(text: str) -> None:
    try:
        raw = os.fsencode(text)
    except ValueError as error:
        raise NotStarted(f"an argument cannot be passed on: {_encoding(error)}") from error
    if b"\0" in raw:
        raise NotStarted("an argument cannot be passed on: it holds a NUL")


def _interpreter_flaw(program: Program) -> str:
    """ "" unless the file begins with #! and its interpreter is the thing that is missing."""
    try:
        head = _head(Path(program.path))
    except OSError:
        return ""
    words = head.split(b"\n", 1)[0][2:].split() if head.startswith(b"#!") else []
    if not words or shutil.which(os.fsdecode(words[0])):
        return ""
    return f"its interpreter {os.fsdecode(words[0])!a} is missing or not executable"


def _head(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(256)


def _encoding(error: Exception) -> str:
    return "not encodable (a lone surrogate)" if isinstance(error, UnicodeError) else str(error)


def stdin_of(payload: bytes) -> int:
    """A descriptor that gives `payload` and then EOF, whoever reads it or does not; the caller closes it."""
    if len(payload) <= _PIPE_PAGE:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        os.write(writer, payload)
        os.close(writer)
        return reader
    memory = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        with open(memory, "wb", closefd=False) as file:
            file.write(payload)
        return os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(memory)
