"""Many processes that want one state directory at the same moment: `python -m tests.support.contend KIND COUNT PATH`.

One process loads everything and forks the others, so that their attempts really meet."""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock, Timeout

from tests.contract.world import FixedClock
from vmsh_scheduler.errors import Busy
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.lock import StateLock

ROOT = Path(__file__).parents[2]
HELD = "held"
_KEPT: list[object] = []
"""What is locked stays locked until the process ends."""


def real(path: Path) -> str:
    lock = StateLock(open_directory(path), FixedClock())
    try:
        lock.acquire()
    except Busy as error:
        return str(error)
    _KEPT.append(lock)
    return HELD


def pid_file(path: Path) -> str:
    """No lock: looks whether there is a file, and then makes it."""
    mark = path.with_suffix(".pid")
    if mark.exists():
        return "busy"
    time.sleep(0.05)  # what lies between a look and a leap
    mark.write_text(str(os.getpid()))
    return HELD


def file_only(path: Path) -> str:
    """A lock on the lock file and nothing else: it goes with the file."""
    lock = FileLock(path.with_suffix(".lock"), timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        return "busy"
    _KEPT.append(lock)
    return HELD


def by_name(path: Path) -> str:
    """A lock that is named after the directory's path: another path to it is another lock."""
    name = hashlib.sha256(str(path.parent).encode()).hexdigest()[:16]
    file = (Path(os.environ["NAMED_LOCKS"]) / name).open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return "busy"
    _KEPT.append(file)
    return HELD


KINDS: Mapping[str, Callable[[Path], str]] = {
    "real": real,
    "pid file": pid_file,
    "file only": file_only,
    "by name": by_name,
}
"""The program's lock, and three that somebody could have written instead."""


def race(kind: str, count: int, path: Path) -> list[str]:
    """What each of `count` processes got; all of them held on until the last one had tried."""
    argv = [sys.executable, "-m", "tests.support.contend", kind, str(count), str(path)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers: list[str] = json.loads(done.stdout)
    assert len(answers) == count
    return answers


def _race(kind: str, count: int, path: Path) -> list[str]:
    gun, start = os.pipe()
    out, said = os.pipe()
    over, end = os.pipe()
    for _ in range(count):
        if os.fork() == 0:
            os.close(start)
            os.close(end)
            os.read(gun, 1)
            os.write(said, KINDS[kind](path).encode().replace(b"\n", b" ") + b"\n")
            os.read(over, 1)
            os._exit(0)
    os.close(said)
    os.close(start)  # every reader of `gun` wakes now
    answers = b""
    while answers.count(b"\n") < count and (more := os.read(out, 65536)):
        answers += more
    os.close(end)
    for _ in range(count):
        os.wait()
    return answers.decode().splitlines()


def hold(kind: str, path: Path) -> "subprocess.Popen[str]":
    """One process that holds the lock until its stdin ends."""
    argv = [sys.executable, "-m", "tests.support.contend", kind, "0", str(path)]
    process = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == HELD + "\n"
    return process


def seconds_after_a_kill(directory: Path) -> float:
    """SIGKILL for a holder; how long the next one takes to get the lock, its clean-up included."""
    process = hold("real", directory / "scheduler.json")
    process.kill()
    process.communicate()
    began = time.monotonic()
    lock = StateLock(open_directory(directory / "scheduler.json"), FixedClock())
    lock.acquire()
    took = time.monotonic() - began
    lock.release()
    return took


def _hold(kind: str, path: Path) -> None:
    sys.stdout.write(KINDS[kind](path) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    wanted, number, where = sys.argv[1:]
    if int(number):
        sys.stdout.write(json.dumps(_race(wanted, int(number), Path(where))))
    else:
        _hold(wanted, Path(where))
