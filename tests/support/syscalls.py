"""Processes whose n-th system call of a kind is their last, or fails, or takes long: strace from outside."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tests.support.daemon import PATIENCE_S, until

ROOT = Path(__file__).parents[2]
CALLS = (
    *("write", "pwrite64", "fdatasync", "fsync", "ftruncate", "openat"),
    *("?rename", "?renameat", "?renameat2", "?link", "?linkat", "?unlink", "?unlinkat", "?mkdir", "?mkdirat"),
)
"""What changes files, or is about to; `?`: not every machine has it."""
KILLED = -9
WORKERS = 2
DETACH_S = 5.0


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`-th `call` of a thread, from the gate on."""

    thread: str
    call: str
    number: int


@dataclass
class Gated:
    """A process of tests/support/gated.py that stands at its gate."""

    process: "subprocess.Popen[str]"
    threads: Mapping[str, int]

    def go_on(self) -> int:
        """Its exit code; what it writes is of no interest."""
        self.process.communicate("go\n", PATIENCE_S)
        return self.process.returncode


@contextmanager
def gated(*argv: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None) -> Iterator[Gated]:
    with tempfile.TemporaryFile("w+") as words:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.gated", *argv],
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
        )
        try:
            yield Gated(process, _threads(process, words))
        finally:
            process.kill()
            process.communicate(timeout=PATIENCE_S)


def _threads(process: "subprocess.Popen[str]", words: IO[str]) -> Mapping[str, int]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            threads: Mapping[str, int] = json.loads(line)
            return threads
    code = process.wait(PATIENCE_S)
    words.seek(0)
    raise AssertionError(f"ended with {code} before its gate:\n{words.read()}")


@contextmanager
def traced(pid: int, log: Path, *options: str) -> Iterator[None]:
    """Attached to this thread from here on, with `-f` to all that come; ends with it."""
    said = log.with_suffix(".strace")
    with said.open("wb") as sink:
        tracer = subprocess.Popen(["strace", "-o", str(log), *options, "-p", str(pid)], stderr=sink)
    try:
        until(lambda: b" attached" in said.read_bytes() or tracer.poll() is not None, "strace attached")
        assert tracer.poll() is None, said.read_text()
        yield
    finally:
        tracer.terminate()
        try:
            tracer.wait(DETACH_S)
        except subprocess.TimeoutExpired:  # for a thread that waits for its child to begin, which it keeps stopped
            tracer.kill()
            tracer.wait(PATIENCE_S)


def counted(log: Path) -> Counter[str]:
    """Calls of a thread that was traced alone."""
    names = (line.partition("(")[0] for line in log.read_text(errors="replace").splitlines())
    return Counter(name for name in names if name.isidentifier())


def most(log: Path) -> Counter[str]:
    """Of every call, how often the thread made it that made it most; traced with `-f`."""
    threads: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for line in log.read_text(errors="replace").splitlines():
        thread, _, rest = line.partition(" ")
        threads[thread][rest.strip().partition("(")[0]] += 1
    found: Counter[str] = Counter()
    for calls in threads.values():
        found |= Counter({name: count for name, count in calls.items() if name.isidentifier()})
    return found


def points(thread: str, calls: Mapping[str, int]) -> list[Point]:
    return [Point(thread, call, number) for call, most in sorted(calls.items()) for number in range(1, most + 1)]


def kill_at(point: Point) -> tuple[str, ...]:
    return f"-etrace={point.call}", f"-einject={point.call}:signal=KILL:when={point.number}"


@dataclass
class Sweep:
    """What a sweep over all points found."""

    points: int = 0
    killed: int = 0
    harm: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.points} calls, {self.killed} kills: {len(self.harm)} bad"


def every_point(argv: Sequence[str], root: Path) -> list[Point]:
    """One untouched life for each of its threads, counted. `argv`: {} is a directory of the life's own."""
    found: list[Point] = []
    threads = [""]
    while threads:
        name = threads.pop()
        at = root / f"count {name}"
        at.mkdir()
        with gated(*(word.format(at) for word in argv)) as standing:
            if not name:
                threads = list(standing.threads)
                continue
            log = at / "calls"
            with traced(standing.threads[name], log, "-etrace=" + ",".join(CALLS)):
                assert standing.go_on() == 0
            found += points(name, counted(log))
    return found


def sweep(argv: Sequence[str], root: Path, reader: Callable[[Path], int]) -> Sweep:
    """A life for every call of every thread, ended before that call; then what a start finds in its `state`."""
    found = Sweep()
    work = list(enumerate(every_point(argv, root)))
    found.points = len(work)
    with ThreadPoolExecutor(WORKERS) as pool:
        for killed, complaint in pool.map(lambda item: _killed_at(argv, root / str(item[0]), item[1], reader), work):
            found.killed += killed
            found.harm += filter(None, [complaint])
    return found


def _killed_at(argv: Sequence[str], at: Path, point: Point, reader: Callable[[Path], int]) -> tuple[bool, str]:
    at.mkdir()
    with (
        gated(*(word.format(at) for word in argv)) as standing,
        traced(standing.threads[point.thread], at / "calls", *kill_at(point)),
    ):
        killed = standing.go_on() == KILLED
    acked = int((at / "told").read_text())
    try:
        number = reader(at / "state")
    except (AssertionError, ValueError) as error:
        return killed, f"{point}: {error}"
    finally:
        shutil.rmtree(at)
    return killed, "" if acked <= number <= acked + 1 else f"{point}: {acked} acknowledged, {number} found"
