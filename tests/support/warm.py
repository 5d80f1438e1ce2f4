"""The command in a process that was forked from an interpreter with the whole program loaded.

Loading takes two thirds of a short command's time, and the tests start thousands. What runs is what the installed
command runs, in a process of its own with its own directory, environment and descriptors; the way there is left out.
All that one source forks have their seed of hashes in common, and no module is loaded late in them. So the first of
each kind in each test file goes all the way (`daemon.Place`), and so do all in the soak."""

import atexit
import json
import os
import select
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryFile
from threading import Lock
from typing import NoReturn

START = 0
"""In place of the number of a process to reap; with it come the request, stdout and stderr."""
MOST_OPEN = 64
"""Descriptors of the one that forks, and more."""
_BEFORE_ANY_CODE = ("PYTHON", "LC_", "LANG", "COVERAGE_", "MALLOC_", "LD_")
"""Variables that an interpreter looks at only as it starts."""


class Forked:
    """As much of a Popen as the tests use; its exit code comes from the one that forked it."""

    def __init__(self, source: "Source", pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._source = source
        self._turn = Lock()
        self._ended = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return self._reaped() if self.returncode is None and self._over(0) else self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        if self.returncode is not None:
            return self.returncode
        if not self._over(timeout):
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return self._reaped()

    def send_signal(self, number: int) -> None:
        """Until it is reaped nobody else has its number."""
        with self._turn:
            if self.returncode is None:
                os.kill(self.pid, number)

    def _over(self, timeout: float | None) -> bool:
        looking = select.poll()  # any number of descriptors may be open, unlike with `select`
        looking.register(self._ended, select.POLLIN)
        return bool(looking.poll(None if timeout is None else timeout * 1000))

    def _reaped(self) -> int:
        with self._turn:
            if self.returncode is None:
                self.returncode = self._source.reap(self.pid)
                os.close(self._ended)
        return self.returncode


class Source:
    """One for each process that runs tests, begun at first use; it ends with that."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._turn = Lock()
        self._env = {**os.environ, "COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
        with theirs:
            self._process = subprocess.Popen(
                # not -m: a program's name in its own help is that of the package that was started
                [sys.executable, "-c", f"from {__name__} import serve; serve({theirs.fileno()})"],
                cwd=Path(__file__).parents[2],
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        atexit.register(self._close)

    def is_for(self, env: Mapping[str, str]) -> bool:
        """It is like ours in all that was read when this one started."""
        names = [name for name in env.keys() | self._env.keys() if name.startswith(_BEFORE_ANY_CODE)]
        return all(env.get(name, "") == self._env.get(name, "") for name in names)

    def start(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str], out: int, err: int) -> Forked:
        """In a session of its own, with nothing on stdin."""
        with TemporaryFile() as request:
            request.write(json.dumps({"argv": list(argv), "cwd": str(cwd), "env": dict(env)}).encode())
            request.seek(0)
            return Forked(self, self._asked(START, request.fileno(), out, err))

    def reap(self, pid: int) -> int:
        return self._asked(pid)

    def _asked(self, what: int, *fds: int) -> int:
        with self._turn:
            socket.send_fds(self._line, [str(what).encode()], fds)
            answer = self._line.recv(64)
        assert answer, "the process that forks the others is gone"
        return int(answer)

    def _close(self) -> None:
        self._line.close()
        self._process.wait()


@cache
def source() -> Source:
    return Source()


def serve(descriptor: int) -> None:
    """Fork what is asked for, until nobody asks any more."""
    line, before = socket.socket(fileno=descriptor), dict(os.environ)
    _load()
    loaded = {name: value for name, value in os.environ.items() if before.get(name) != value}
    while True:
        what, fds, _, _ = socket.recv_fds(line, 64, 3)
        if not what:
            return
        told = _started(loaded, *fds) if int(what) == START else os.waitstatus_to_exitcode(os.waitpid(int(what), 0)[1])
        line.send(str(told).encode())


def _started(loaded: Mapping[str, str], request: int, *sinks: int) -> int:
    """Once it is in its surroundings: its end of a pipe is closed then, with all that is ours."""
    with open(request) as sent:
        asked = json.load(sent)
    there, its = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(sinks, loaded, **asked)
    os.close(its)
    os.read(there, 1)
    for fd in (there, *sinks):
        os.close(fd)
    return pid


def _load() -> None:
    """Everything but what the daemon itself loads only in processes of their own."""
    package = import_module("vmsh_scheduler")
    for found in walk_packages(package.__path__, "vmsh_scheduler."):
        if not found.name.startswith("vmsh_scheduler.anchors"):
            import_module(found.name)


def _become(
    sinks: Sequence[int], loaded: Mapping[str, str], argv: list[str], cwd: str, env: dict[str, str]
) -> NoReturn:
    """What the installed command is; never returns, whatever becomes of it."""
    code = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update({**env, **loaded})
        time.tzset()
        sys.argv = argv
        sys.path[0] = str(Path(argv[0]).parent)
        os.setsid()
        for target, fd in enumerate(sinks, start=1):
            os.dup2(fd, target)
        os.closerange(3, MOST_OPEN)
        import_module("vmsh_scheduler.__main__").main()
        sys.stdout.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)
