"""A measured program as a process of its own, and what the kernel says it costs."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Usage:
    """Since the process began. `cpu_s` is its own; `children_s` that of children which ended and were waited for;
    `wakeups` is the main thread's alone."""

    at_s: float
    cpu_s: float
    children_s: float
    rss_mb: float
    wakeups: int


@dataclass(frozen=True, slots=True)
class Running:
    """A started program; `log` holds all it said."""

    process: subprocess.Popen[bytes]
    log: Path
    began_ns: int
    """Since the epoch, just before it was started."""

    @property
    def pid(self) -> int:
        return self.process.pid

    def usage(self) -> Usage:
        return usage(self.pid)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Polls; SystemExit with the program's last words when it ends or does not get there."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.process.args!r}: {what} did not happen\n{self.log.read_text()[-2000:]}")
            time.sleep(0.01)

    def said(self, word: str) -> bool:
        return word in self.log.read_text(encoding="utf-8", errors="replace")


def usage(pid: int) -> Usage:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = (int(fields[11]) + int(fields[12])) * _TICK_S
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    # schedstat counts ns but forgets threads that ended; stat counts 10 ms steps and forgets nobody
    children = (int(fields[13]) + int(fields[14])) * _TICK_S
    rss_mb, wakeups = int(status["VmRSS"].split()[0]) / 1024, int(status["voluntary_ctxt_switches"])
    return Usage(time.monotonic(), max(ticks, _precise(pid)), children, rss_mb, wakeups)


def _precise(pid: int) -> float:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def cpu_percent(before: Usage, after: Usage) -> float:
    return 100 * (after.cpu_s - before.cpu_s) / (after.at_s - before.at_s)


@contextlib.contextmanager
def running(argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[Running]:
    """In a session of its own, of which nothing is left afterwards."""
    with open(log, "wb") as out:
        began_ns = time.time_ns()
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=log.parent, start_new_session=True
        )
    try:
        yield Running(process, log, began_ns)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
