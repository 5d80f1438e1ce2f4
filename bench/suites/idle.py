"""T2: what it costs to hold jobs of which none is due: CPU, wake-ups, memory, and the CPU that loading them took."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from bench.lab import Lab
from bench.processes import Running, cpu_percent, running
from bench.programs import (
    OURS,
    PEERS,
    Program,
    Site,
    apscheduler,
    cronstable,
    floor,
    has_apscheduler,
    has_cronstable,
    our_site,
)
from bench.report import Row, Values
from bench.workload import Work, idle

NAMED = ("typer", "yaml", "pydantic", "tenacity", "prometheus_client", "filelock", "rich")
"""Libraries the program was asked to stand on; cryptography was its own choice."""
STEADY_CPU = 0.02
"""Share of one core below which loading is over."""
_LOOK_S = 0.5


def run(lab: Lab) -> list[Row]:
    rows: list[Row] = []
    for count in (100, 1000) if lab.small else (1000, 10_000):
        measures = {program.name: _measure(lab, program, count) for program in _programs()}
        measures["imports"] = _imports(lab, NAMED)
        rows += lab.compare("idle", f"{count} jobs", measures, ("floor", "imports", "APScheduler", "cronstable"))
    return rows


def _programs() -> list[Program]:
    programs = [_ours_cold(), _ours_warm(), floor()]
    if has_apscheduler():
        programs.append(apscheduler())
    if has_cronstable():
        programs.append(cronstable())
    return programs


def _ours_cold() -> Program:
    """First start ever, nothing to anchor: every first slot is decided and journaled, no process is started."""
    return Program("ours, first start", lambda jobs, site: _start_ours(jobs, site))


def _ours_warm() -> Program:
    """Started before: the state is on disk."""

    def start(jobs: Sequence[Work], site: Site) -> AbstractContextManager[Running]:
        with _start_ours(jobs, site) as before:
            _settled(before)
        return _start_ours(jobs, site)

    return Program("ours, restarted", start)


@contextlib.contextmanager
def _start_ours(jobs: Sequence[Work], site: Site) -> Iterator[Running]:
    """A large configuration is parsed in a child process meanwhile: a quiet daemon is no loaded one yet."""
    with running([OURS, "run"], site.path / "log", our_site(jobs, site.path, batch=False)) as program:
        program.until(lambda: program.said("server started"), "serving")
        yield program


def _settled(program: Running) -> None:
    """Its CPU is (nearly) flat for two looks in a row, and it has used some at all."""
    quiet, last = 0, program.usage()

    def steady() -> bool:
        nonlocal quiet, last
        time.sleep(_LOOK_S)
        now = program.usage()
        flat = now.cpu_s - last.cpu_s < STEADY_CPU * (now.at_s - last.at_s) and now.cpu_s > 0.02
        quiet, last = quiet + 1 if flat else 0, now
        return quiet >= 3

    program.until(steady, "coming to rest")


def _measure(lab: Lab, program: Program, count: int) -> Callable[[], Values]:
    def measure() -> Values:
        site, stamp = lab.site()
        try:
            with program.start(idle(count, stamp), site) as process:
                return _figures(process, lab.secs)
        finally:
            shutil.rmtree(site.path)

    return measure


def _imports(lab: Lab, modules: Sequence[str]) -> Callable[[], Values]:
    def measure() -> Values:
        site, _ = lab.site()
        argv = [sys.executable, str(Path(PEERS, "idle_imports.py")), *modules]
        with running(argv, site.path / "log") as process:
            return _figures(process, 1)

    return measure


def _figures(process: Running, secs: float) -> Values:
    _settled(process)
    before = process.usage()
    time.sleep(secs)
    after = process.usage()
    return {
        "CPU %": cpu_percent(before, after),
        "wake-ups/s": (after.wakeups - before.wakeups) / (after.at_s - before.at_s),
        "RSS MB": after.rss_mb,
        "CPU s to load": before.cpu_s + before.children_s,
    }
