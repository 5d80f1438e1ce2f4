"""T4: callbacks per second, quick consumers beside slow ones, 5,000 agents held, and what registering them costs."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from timeit import timeit

from bench.consumers import Api, Mark, Sink, daemon, percentile, sink
from bench.lab import Lab, Measure
from bench.processes import Usage, running
from bench.programs import PEERS
from bench.report import Row, Values

DEFAULT, MANY = 4, 64
"""Connections: SCHEDULER_CYCLE_CONCURRENCY as it is, and as a large site would set it."""
HERD_EVERY_MS, HERDS = 4_000, 3
HELD_EVERY_MS, HELD_LONGER = 15_000, 12
"""5,000 agents are held for this many windows: 120 s by default."""
SLOW_MS, SLOW, QUICK = 3_500, 8, 20
DAY_MS = 86_400_000
RAW, FIRST, DUMPS = "raw aiohttp", "register, first tenth", "json.dumps of the list"


def run(lab: Lab) -> list[Row]:
    rows: list[Row] = []
    for connections in (DEFAULT, MANY):
        rows += lab.compare("agents", f"callbacks, {connections} connections", _callbacks(lab, connections), (RAW,))
    beside = {"quick alone": partial(_beside, lab, 0), f"beside {SLOW} slow": partial(_beside, lab, SLOW)}
    rows += lab.compare("agents", f"{QUICK} quick agents, {DEFAULT} permits", beside, ("quick alone",))
    count = 500 if lab.small else 5_000
    rows += lab.compare("agents", f"{count} agents every {HELD_EVERY_MS // 1000} s", _crowd(lab, count), ())
    return [*rows, *lab.compare("agents", f"{count} agents by the API", _api(lab, count), (FIRST, DUMPS))]


def _callbacks(lab: Lab, connections: int) -> dict[str, Measure]:
    return {
        RAW: partial(_raw, lab, connections),
        "ours burst": partial(_burst, lab, connections),
        "ours sustained": partial(_sustained, lab, connections),
    }


def _crowd(lab: Lab, count: int) -> dict[str, Measure]:
    """One daemon a round gives both rows."""
    more: dict[str, Values] = {}
    return {"spread": partial(_held, lab, count, more), "after a herd": lambda: more["herd"]}


def _api(lab: Lab, count: int) -> dict[str, Measure]:
    more: dict[str, Values] = {}
    return {
        FIRST: partial(_costs, lab, count, more),
        "register, last tenth": lambda: more["last"],
        "list": lambda: more["list"],
        DUMPS: lambda: more["dumps"],
        "memory": lambda: more["memory"],
    }


@contextlib.contextmanager
def _place(lab: Lab, **env: str) -> Iterator[tuple[Path, Sink, Api]]:
    path = lab.site()[0].path
    with sink(path) as consumer, daemon(path, consumer, **env) as api:
        yield path, consumer, api


def _raw(lab: Lab, connections: int) -> Values:
    """The client sends what a cycle of ours sent, to the same sink."""
    count = 500 if lab.small else 10_000
    with _place(lab) as (path, consumer, api):
        api.register("a", f"{consumer.url}/hook", DAY_MS)
        api.running.until(lambda: len(consumer.marks()) == 1, "a cycle")
        (path / "sample").write_bytes(consumer.get("/sample"))
        argv = [sys.executable, "-I", str(PEERS / "poster.py"), f"{consumer.url}/hook", str(path / "sample")]
        with running([*argv, str(count), str(connections)], path / "poster.log") as poster:
            poster.until(lambda: poster.said("posted"), "posting")
            cpu = float(poster.log.read_text().split()[1])
        marks = consumer.marks()[1:]
    return {"cycles/s": _rate(marks), "us/cycle": cpu}


def _burst(lab: Lab, connections: int) -> Values:
    """Agents that are all due when a stopped daemon goes on; from then to the last arrival of each herd."""
    count = 50 if lab.small else 500
    rates: list[float] = []
    with _place(lab, SCHEDULER_CYCLE_CONCURRENCY=str(connections)) as (_, consumer, api):
        api.crowd(count, f"{consumer.url}/hook", HERD_EVERY_MS)
        api.running.until(
            lambda: len({mark.agent for mark in consumer.marks()}) == count, "a first cycle of every agent"
        )
        for _ in range(HERDS):
            at = api.herd(HERD_EVERY_MS / 1000 + 1)
            api.running.until(lambda at=at: len(consumer.marks(at)) >= count, "a herd")
            rates.append(1000 * count / (consumer.marks(at)[count - 1].at - at))
    return {"cycles/s": median(rates)}


def _sustained(lab: Lab, connections: int) -> Values:
    """More agents than can be served: each is always due."""
    count = 200 if lab.small else 3_000
    with _place(lab, SCHEDULER_CYCLE_CONCURRENCY=str(connections)) as (_, consumer, api):
        api.crowd(count, f"{consumer.url}/hook", 1_000)
        time.sleep(2)
        start, before = time.time() * 1000, api.running.usage()
        time.sleep(lab.secs)
        end, after = time.time() * 1000, api.running.usage()
        marks = consumer.marks(start, end)
    return {"cycles/s": _rate(marks), "us/cycle": _cpu(before, after, len(marks)), "RSS MB": after.rss_mb}


def _beside(lab: Lab, slow: int) -> Values:
    """Slow consumers on one port, quick ones on another; how late the quick ones are called, from their first cycle
    on. All are registered within a second, before the first is due."""
    with _place(lab) as (path, consumer, api), sink(path, "slow") as laggard:
        for number in range(slow):
            api.register(f"slow{number}", f"{laggard.url}/after/{SLOW_MS}", 1_000)
        for number in range(QUICK):
            api.register(f"quick{number}", f"{consumer.url}/hook", 2_000)
        start = time.time() * 1000
        time.sleep(max(lab.secs, 2 * SLOW_MS / 1000))
        marks = consumer.marks(start)
    return _lateness(marks)


def _held(lab: Lab, count: int, more: dict[str, Values]) -> Values:
    """Registered evenly over one interval, then watched; then the same after all were due at once."""
    every_s = HELD_EVERY_MS / 1000
    with _place(lab, SCHEDULER_MAX_AGENTS=str(count)) as (_, consumer, api):
        api.crowd(count, f"{consumer.url}/hook", HELD_EVERY_MS, per_s=count / every_s)
        time.sleep(every_s)
        start, before = time.time() * 1000, api.running.usage()
        time.sleep(HELD_LONGER * lab.secs)
        end, after = time.time() * 1000, api.running.usage()
        marks = consumer.marks(0, end)
        at = api.herd(every_s + 1)
        api.running.until(lambda: len({mark.agent for mark in consumer.marks(at)}) == count, "the herd")
        drained = max(mark.at for mark in consumer.marks(at)[:count])
        time.sleep(2 * every_s)
        later = consumer.marks(drained)
    seen = [mark for mark in marks if mark.at >= start]
    more["herd"] = {**_lateness(later), "missed": _missed(later, count), "drain s": (drained - at) / 1000}
    cpu = {
        "CPU %": 100 * (after.cpu_s - before.cpu_s) / (after.at_s - before.at_s),
        "us/cycle": _cpu(before, after, len(seen)),
    }
    return {
        **_lateness(seen),
        "missed": _missed([mark for mark in marks if mark.at >= start - HELD_EVERY_MS], count),
        **cpu,
    }


def _missed(marks: list[Mark], count: int) -> int:
    """Agents that were never called, and calls that came half an interval and more after they should have."""
    last: dict[str, float] = {}
    gaps = 0
    for mark in marks:
        gaps += mark.at - last.get(mark.agent, mark.at) > 1.5 * HELD_EVERY_MS
        last[mark.agent] = mark.at
    return count - len(last) + gaps


def _costs(lab: Lab, count: int, more: dict[str, Values]) -> Values:
    """One registration after the other, as fast as they are answered; each agent has one cycle meanwhile."""
    with _place(lab, SCHEDULER_MAX_AGENTS=str(count + 1)) as (_, consumer, api):
        api.register("first", f"{consumer.url}/hook", DAY_MS)
        api.running.until(lambda: len(consumer.marks()) == 1, "a cycle, so that all is loaded")
        api.get("/v1/agents")
        time.sleep(1)
        before = api.running.usage()
        api.crowd(count, f"{consumer.url}/hook", DAY_MS)
        api.running.until(lambda: len(consumer.marks()) == count + 1, "a first cycle of every agent")
        time.sleep(2)
        after, took = api.running.usage(), api.took[1:]
        listed = [_ms(lambda: api.get("/v1/agents")) for _ in range(10)]
        document = json.loads(api.get("/v1/agents"))
    more["last"] = _spans(took[-count // 10 :])
    more["list"] = _spans(listed)
    more["dumps"] = _spans([_ms(lambda: json.dumps(document)) for _ in range(10)])
    more["memory"] = {"KB/agent": 1024 * (after.rss_mb - before.rss_mb) / count}
    return _spans(took[: count // 10])


def _ms(action: Callable[[], object]) -> float:
    return 1000 * timeit(action, number=1)


def _spans(values: list[float]) -> Values:
    return {"p50 ms": percentile(values, 0.5), "p99 ms": percentile(values, 0.99)}


def _lateness(marks: list[Mark]) -> dict[str, float]:
    """Of first attempts: a second one is late by nature."""
    late = [mark.late for mark in marks if mark.attempt == 1]
    return {
        "p50 ms": percentile(late, 0.5),
        "p99 ms": percentile(late, 0.99),
        "max ms": percentile(late, 1.0),
        "calls": len(marks),
    }


def _rate(marks: list[Mark]) -> float:
    return 1000 * (len(marks) - 1) / (marks[-1].at - marks[0].at)


def _cpu(before: Usage, after: Usage, cycles: int) -> float:
    return 1e6 * (after.cpu_s - before.cpu_s) / max(1, cycles)
