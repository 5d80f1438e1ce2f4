"""T1: how late after its slot a job's process stands in main(), and what the scheduler itself burns meanwhile."""

import time
from collections.abc import Callable, Sequence

from bench.lab import Lab
from bench.processes import Running, Usage, cpu_percent
from bench.programs import Program, Site, apscheduler, cronstable, floor, has_apscheduler, has_cronstable, ours
from bench.report import Row, Values
from bench.stamps import Punctuality, punctuality, read
from bench.workload import Work, cyclic

SETTLE_S = 1.5
"""The herd of the start is over."""
TAIL_S = 1.5
"""Slots this close to the end may still be on their way and are not judged."""


def run(lab: Lab) -> list[Row]:
    rows: list[Row] = []
    for count in (20, 100) if lab.small else (100, 1000):
        for spread in (True, False):
            rows += _condition(lab, count, spread=spread)
    return rows


def _condition(lab: Lab, count: int, *, spread: bool) -> list[Row]:
    measures = {program.name: _measure(lab, program, count, spread=spread) for program in _programs(spread=spread)}
    return lab.compare(
        "lateness", f"N={count} {'spread' if spread else 'aligned'}", measures, ("floor", "floor cap8", "APScheduler")
    )


def _programs(*, spread: bool) -> list[Program]:
    programs = [ours(), ours("ours crash_exact", crash_exact=True)]
    programs.append(floor() if spread else floor("floor cap8", 8))
    if has_apscheduler():
        programs.append(apscheduler())
    if has_cronstable() and not spread:
        programs.append(cronstable())
    return programs


def _measure(lab: Lab, program: Program, count: int, *, spread: bool) -> Callable[[], Values]:
    def measure() -> Values:
        site, stamp = lab.site()
        jobs = cyclic(count, stamp, spread=spread)
        return watched(program, jobs, site, lab.secs)

    return measure


def watched(program: Program, jobs: Sequence[Work], site: Site, secs: float) -> Values:
    with program.start(jobs, site) as running:
        _first_stamp(running, site)
        time.sleep(SETTLE_S)
        start, before = time.time() * 1000, running.usage()
        time.sleep(secs)
        end, after = time.time() * 1000, running.usage()
        time.sleep(TAIL_S)
    stamps = read(site.stamps)
    runs = sum(start <= at_ns / 1e6 < end for _, at_ns in stamps)
    return _figures(punctuality(jobs, stamps, start, end), before, after, runs)


def _first_stamp(running: Running, site: Site) -> None:
    running.until(lambda: site.stamps.exists(), "a first run")


def _figures(found: Punctuality, before: Usage, after: Usage, runs: int) -> Values:
    return {
        "p50 ms": found.percentile(0.5),
        "p99 ms": found.percentile(0.99),
        "max ms": found.percentile(1.0),
        "missed": found.missed,
        "doubled": found.doubled,
        "CPU %": cpu_percent(before, after),
        "us/run": 1e6 * (after.cpu_s - before.cpu_s) / max(1, runs),
        "RSS MB": after.rss_mb,
    }
