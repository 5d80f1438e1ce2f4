"""T7: wall time of short commands beside a bare interpreter, and of a daemon to its first fire."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from bench.lab import Lab
from bench.programs import CRONSTABLE, OURS, Program, cronstable, has_apscheduler, has_cronstable, our_site, ours
from bench.report import Row, Values
from bench.stamps import read
from bench.suites.idle import NAMED
from bench.workload import idle

BARE = "python -c pass"
IMPORTS = "import of the named libraries"


def run(lab: Lab) -> list[Row]:
    env = _idle_site(lab)
    commands: dict[str, tuple[list[str], Mapping[str, str]]] = {
        BARE: ([sys.executable, "-c", "pass"], env),
        IMPORTS: ([sys.executable, "-c", f"import {', '.join(NAMED)}"], env),
        "ours --version": ([OURS, "--version"], env),
        "ours status --json, no daemon": ([OURS, "status", "--json"], env),
        "ours tick, nothing due": ([OURS, "tick"], env),
    }
    if has_cronstable():
        commands["cronstable --version"] = ([CRONSTABLE, "--version"], env)
    if has_apscheduler():
        commands["import of APScheduler"] = (
            [sys.executable, "-c", "import apscheduler.schedulers.asyncio, apscheduler.triggers.interval"],
            env,
        )
    measures = {name: _timed(argv, env) for name, (argv, env) in commands.items()}
    measures["ours, daemon to first fire of 100"] = _first_fire(lab, ours())
    if has_cronstable():
        measures["cronstable, daemon to first fire of 100"] = _first_fire(lab, cronstable(schedule="@reboot"))
    return replace(lab, rounds=2 * lab.rounds + 1).compare(
        "start-up", "wall time", measures, (BARE, IMPORTS, "cronstable --version")
    )


def _idle_site(lab: Lab) -> dict[str, str]:
    """One daily cadence that has run today."""
    site, stamp = lab.site()
    env = our_site(idle(1, stamp), site.path)
    subprocess.run([OURS, "tick"], env=env, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return env


def _timed(argv: list[str], env: Mapping[str, str]) -> Callable[[], Values]:
    def measure() -> Values:
        began = time.perf_counter()
        pid = os.posix_spawn(argv[0], argv, env, file_actions=_SILENT)
        _, status, used = os.wait4(pid, 0)
        wall = time.perf_counter() - began
        if status:
            raise SystemExit(f"{argv!r} failed: {status}")
        return {"ms": wall * 1000, "CPU ms": 1000 * (used.ru_utime + used.ru_stime)}

    return measure


_SILENT = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]


def _first_fire(lab: Lab, program: Program) -> Callable[[], Values]:
    """From the start of the daemon to the first of 100 jobs standing in main()."""

    def measure() -> Values:
        site, stamp = lab.site()
        with program.start(idle(100, stamp), site) as process:
            process.until(lambda: bool(read(site.stamps)), "a first fire")
            used = process.usage()
        first = min(at_ns for _, at_ns in read(site.stamps))
        return {"ms": (first - process.began_ns) / 1e6, "CPU ms": 1000 * used.cpu_s}

    return measure
