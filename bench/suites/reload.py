"""T8: what it costs to look at configuration that did not change, and how late starts are while 10,000 jobs reload."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from timeit import timeit

from bench.lab import Lab
from bench.processes import Running, running
from bench.programs import OURS, our_site
from bench.report import Row, Values
from bench.stamps import Punctuality, punctuality, read
from bench.suites.lateness import SETTLE_S, TAIL_S
from bench.workload import YEAR_MS, Work, cyclic
from vmsh_scheduler.sources.config_files import Watched
from vmsh_scheduler.sources.watch import ConfigWatch

LOOKS = 10_000
ACTIVE = 100
LOADED = "namespaces config loaded"


def run(lab: Lab) -> list[Row]:
    idle = 1_000 if lab.small else 10_000
    rows = replace(lab, rounds=2 * lab.rounds + 1).compare(
        "reload", "a look", _looks(lab), ("os.stat", "read + sha256")
    )
    measures = {
        "ours": lambda: _lateness(lab, idle, reloads=False),
        "ours while it reloads": lambda: _lateness(lab, idle, reloads=True),
    }
    return [*rows, *lab.compare("reload", f"{ACTIVE} jobs beside {idle} idle ones", measures, ("ours",))]


def _looks(lab: Lab) -> dict[str, Callable[[], Values]]:
    """At a file of 2.4 MB, and one that may be absent and is."""
    site, stamp = lab.site()
    our_site(_idle(10_000, stamp), site.path, batch=False)
    file = site.path / "config" / "namespaces.yaml"
    watch = ConfigWatch((Watched("namespaces", file), Watched("agents", file.with_name("agents.yaml"), optional=True)))
    watch.read_now()

    def touched() -> None:
        os.utime(file)
        watch.poll(0)

    return {
        "os.stat": lambda: _took(lambda: os.stat(file), LOOKS),
        "ours, nothing new": lambda: _took(lambda: watch.poll(0), LOOKS),
        "read + sha256": lambda: _took(lambda: hashlib.sha256(file.read_bytes()).hexdigest(), 1),
        "ours, touched": lambda: _took(touched, 1),
    }


def _took(action: Callable[[], object], times: int) -> Values:
    return {"us": 1e6 * timeit(action, number=times) / times}


def _lateness(lab: Lab, idle: int, *, reloads: bool) -> Values:
    """Of the active jobs alone; the others have no batch, so nothing of theirs ever starts."""
    site, stamp = lab.site()
    active = cyclic(ACTIVE, stamp, spread=True)
    env = our_site([*active, *_idle(idle, stamp)], site.path, batch=False)
    for number, job in enumerate(active):
        _put_batch(site.path, number, job.id)
    with running([OURS, "run"], site.path / "log", env) as program:
        program.until(lambda: len({name for name, _ in read(site.stamps)}) == ACTIVE, "a first run of every job")
        time.sleep(SETTLE_S)
        start = time.time() * 1000
        done = _edited(program, site.path / "config" / "namespaces.yaml", lab.secs) if reloads else _slept(lab.secs)
        end = time.time() * 1000
        time.sleep(TAIL_S)
    return {**_figures(punctuality(active, read(site.stamps), start, end)), "reloads": done}


def _idle(count: int, stamp: tuple[str, ...]) -> list[Work]:
    return [Work(f"idle:n{i}", YEAR_MS, 0, (*stamp, f"idle:n{i}")) for i in range(count)]


def _put_batch(root: Path, number: int, namespace: str) -> None:
    digest = f"sha256:{number:064x}"
    document = {"id": f"{number}", "root": digest, "leaves": [digest], "createdAt": 1, "namespace": namespace}
    (root / "out" / "batches" / f"{number}.json").write_text(json.dumps(document), encoding="utf-8")


def _slept(secs: float) -> int:
    time.sleep(secs)
    return 0


def _edited(program: Running, file: Path, secs: float) -> int:
    """One job's period is changed again and again, each time when the last change is in force; how often."""
    text, count, until = file.read_text(encoding="utf-8"), 0, time.monotonic() + secs
    while time.monotonic() < until:
        count += 1
        fresh = file.with_name("fresh")
        fresh.write_text(text.replace(f'"{YEAR_MS // 1000}s"', f'"{YEAR_MS // 1000 + count}s"', 1), encoding="utf-8")
        fresh.replace(file)
        program.until(lambda: program.log.read_text(encoding="utf-8").count(LOADED) > count, "a reload")  # noqa: B023  called before `count` changes
    return count


def _figures(found: Punctuality) -> dict[str, float]:
    return {
        "p50 ms": found.percentile(0.5),
        "p99 ms": found.percentile(0.99),
        "max ms": found.percentile(1.0),
        "missed": found.missed,
    }
