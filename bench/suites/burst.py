"""T3: a herd that is due at one instant, and how many of its runs are done per second."""

import time
from collections.abc import Callable
from statistics import median

from bench.lab import Lab
from bench.programs import Program, apscheduler, cronstable, floor, has_apscheduler, has_cronstable, ours
from bench.report import Row, Values
from bench.stamps import herd_rates, read
from bench.workload import herd

EVERY_MS = 5_000


def run(lab: Lab) -> list[Row]:
    count = 50 if lab.small else 500
    programs = [
        ours(),
        ours("ours crash_exact", crash_exact=True),
        ours("ours with 200 MB", ballast_mb=200),
        floor("floor cap8", 8),
        floor("floor no cap"),
    ]
    if has_apscheduler():
        programs.append(apscheduler())
    if has_cronstable():
        programs.append(cronstable())
    measures = {program.name: _measure(lab, program, count) for program in programs}
    return lab.compare("burst", f"{count} due at once", measures, ("floor cap8", "APScheduler", "ours"))


def _measure(lab: Lab, program: Program, count: int) -> Callable[[], Values]:
    def measure() -> Values:
        site, stamp = lab.site()
        with program.start(herd(count, EVERY_MS, stamp), site) as running:
            running.until(lambda: len(read(site.stamps)) >= count, "a first herd")
            time.sleep(1)
            start, before = time.time() * 1000, running.usage()
            herds = max(1, round(lab.secs / (EVERY_MS / 1000)))
            time.sleep((herds * EVERY_MS - start % EVERY_MS) / 1000 + 3)
            after = running.usage()
        rates = herd_rates(read(site.stamps), EVERY_MS, start, start + herds * EVERY_MS)
        cpu = 1e6 * (after.cpu_s - before.cpu_s) / (count * max(1, len(rates)))
        return {"runs/s": median(rates or [0.0]), "us/run": cpu, "RSS MB": after.rss_mb}

    return measure
