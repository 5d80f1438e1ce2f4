"""The job that is started: a static program that appends `<id> <ns since the epoch>` to a file; and its reader."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.workload import Work

SOURCE = r"""
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct timespec now;
    char line[256];
    clock_gettime(CLOCK_REALTIME, &now);
    int fd = open(argv[1], O_WRONLY | O_APPEND | O_CREAT, 0600);
    int n = snprintf(line, sizeof line, "%s %lld%09ld\n", argv[2], (long long)now.tv_sec, now.tv_nsec);
    return fd < 0 || write(fd, line, n) != n;
}
"""
# Without a compiler: the interpreter without site-packages. Some 10 ms more in every lateness, alike for all programs.
FALLBACK = (
    "import time,os,sys;t=time.time_ns();f=os.open(sys.argv[1],1089,384);os.write(f,f'{sys.argv[2]} {t}\\n'.encode())"
)

Stamp = tuple[str, int]
"""Job id, ns since the epoch."""


def build(directory: Path, into: Path) -> tuple[tuple[str, ...], str]:
    """argv up to the job id, and a word on what it is; compiled into `directory` unless it is there already."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return (
            sys.executable,
            "-I",
            "-S",
            "-c",
            FALLBACK,
            str(into),
        ), "a bare interpreter (no C compiler: use --small)"
    program = directory / "stamp"
    if not program.exists():
        _compile(compiler, program)
    return (str(program), str(into)), "C, static where the library allows it"


def _compile(compiler: str, program: Path) -> None:
    source = program.with_suffix(".c")
    source.write_text(SOURCE, encoding="ascii")
    for static in (["-static"], []):
        if subprocess.run([compiler, "-O2", *static, "-o", program, source], stderr=subprocess.DEVNULL).returncode == 0:
            return
    raise SystemExit(f"{compiler} cannot compile {source}")


def read(path: Path) -> list[Stamp]:
    """[] when nothing was started yet."""
    if not path.exists():
        return []
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return [(words[0], int(words[1])) for words in lines if len(words) == 2]


@dataclass(frozen=True, slots=True)
class Punctuality:
    """Starts against slots; `late_ms` sorted."""

    late_ms: tuple[float, ...]
    missed: int
    doubled: int

    def percentile(self, share: float) -> float:
        return self.late_ms[min(len(self.late_ms) - 1, int(share * len(self.late_ms)))] if self.late_ms else -1.0


def punctuality(jobs: Sequence[Work], stamps: Sequence[Stamp], start_ms: float, end_ms: float) -> Punctuality:
    """Of the slots in [start, end): each start belongs to the newest slot at or before it."""
    by_id = {job.id: job for job in jobs}
    wanted = {(job.id, slot) for job in jobs for slot in job.slots(start_ms, end_ms)}
    seen: Counter[tuple[str, int]] = Counter()
    late: list[float] = []
    for identity, at_ns in stamps:
        slot = by_id[identity].slot_of(at_ns / 1e6)
        if (identity, slot) in wanted:
            seen[identity, slot] += 1
            late.append(at_ns / 1e6 - slot)
    doubled = sum(count - 1 for count in seen.values())
    return Punctuality(tuple(sorted(late)), len(wanted - seen.keys()), doubled)


def herd_rates(stamps: Sequence[Stamp], every_ms: int, start_ms: float, end_ms: float) -> list[float]:
    """Runs per second of each herd in [start, end): its size over the time from its slot to its last stamp."""
    herds: dict[int, list[float]] = {}
    for _, at_ns in stamps:
        at_ms = at_ns / 1e6
        slot = int(at_ms // every_ms) * every_ms
        if start_ms <= slot < end_ms:
            herds.setdefault(slot, []).append(at_ms - slot)
    return [1000 * len(herd) / max(herd) for herd in herds.values()]
