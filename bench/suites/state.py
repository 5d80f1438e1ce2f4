"""T6: what one change of state costs, how many syncs a run takes, and what a snapshot of many jobs costs the loop."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from bench.lab import Lab
from bench.processes import running
from bench.programs import PEERS, our_site
from bench.report import Row, Values
from bench.stamps import read
from bench.workload import cyclic
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.run import Cause, Execution, Outcome, Run, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.store import LocalStore, open_store
from vmsh_scheduler.stores.local.text import state_text

RUNS_PER_S = 450
CHANGES = 300
AT_ONCE = 64
FEW, MANY = 100, 5000


def run(lab: Lab) -> list[Row]:
    few, many = (10, 500) if lab.small else (FEW, MANY)
    changes: dict[str, Callable[[], Values]] = {
        f"ours, {few} jobs": lambda: asyncio.run(_changes(lab, few)),
        f"ours, {many} jobs": lambda: asyncio.run(_changes(lab, many)),
        f"ours, {many} jobs, {AT_ONCE} at once": lambda: asyncio.run(_changes(lab, many, AT_ONCE)),
        "append + fdatasync": lambda: _append(lab),
    }
    snapshots: dict[str, Callable[[], Values]] = {
        f"ours, {many} jobs": lambda: asyncio.run(_snapshot(lab, many)),
        "json.dumps + replace": lambda: _dump(lab, many),
    }
    return [
        *lab.compare("state", "one durable change", changes, ("append + fdatasync", f"ours, {few} jobs")),
        *lab.compare("state", "snapshot, one job changed", snapshots, ("json.dumps + replace",)),
        *replace(lab, rounds=1).compare("state", f"syncs at {RUNS_PER_S} runs/s", _syncs(lab), ()),
    ]


def _state(at: int) -> JobState:
    """As a cadence's looks after some successes."""
    return JobState(
        revision="0123456789ab",
        first_seen=at,
        newest_slot=at,
        last_start=at,
        last_finish=at,
        last_success=at,
        last_status="ok",
        started=9,
        succeeded=9,
        mean_ms=1.5,
        found_id="1",
        found_digest="sha256:" + "0" * 64,
        covers="1",
    )


async def _filled(lab: Lab, jobs: int, disk: Disk | None = None) -> LocalStore:
    site, _ = lab.site()
    store = open_store(site.path / "state" / "scheduler.json", SystemClock(), disk=disk)
    now = SystemClock().now()
    await store.states.apply([Change(f"bench:n{i}/fast", _state(now)) for i in range(jobs)])
    await store.states.save()
    return store


async def _changes(lab: Lab, jobs: int, at_once: int = 1) -> Values:
    """Each group durable before the next; what one change of it costs."""
    store = await _filled(lab, jobs)
    times: list[float] = []
    now = SystemClock().now()
    for i in range(CHANGES):
        began = time.perf_counter()
        group = ([Change(f"bench:n{(i * at_once + k) % jobs}/fast", _state(now + i))] for k in range(at_once))
        await asyncio.gather(*map(store.states.apply, group))
        times.append(1000 * (time.perf_counter() - began) / at_once)
    await store.close()
    return _spread(times)


def _append(lab: Lab) -> Values:
    site, _ = lab.site()
    line = json.dumps({"job": "bench:n1/fast", "filler": "x" * 500}).encode() + b"\n"
    times: list[float] = []
    with open(site.path / "log", "ab", buffering=0) as file:
        for _ in range(CHANGES):
            began = time.perf_counter()
            file.write(line)
            os.fdatasync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return _spread(times)


def _spread(times: list[float]) -> Values:
    ordered = sorted(times)
    return {"p50 ms": median(ordered), "p99 ms": ordered[int(0.99 * len(ordered))]}


async def _snapshot(lab: Lab, jobs: int) -> Values:
    store = await _filled(lab, jobs)
    now = SystemClock().now()
    times, stalls = [], []
    for i in range(40):
        await store.states.apply([Change(f"bench:n{i}/fast", _state(now + i))])
        began = time.perf_counter()
        if i % 2:  # on its own: a loop that looks how long it stood still is in the way of the thread
            stalls.append(await _stall(store))
        else:
            await store.states.save()
            times.append(1000 * (time.perf_counter() - began))
    await store.close()
    return {"ms": median(times), "loop blocked ms": median(stalls)}


async def _stall(store: LocalStore) -> float:
    """The longest that the loop did not turn while a snapshot was written, ms."""
    saving = asyncio.ensure_future(store.states.save())
    longest = 0.0
    while not saving.done():
        began = time.perf_counter()
        await asyncio.sleep(0)
        longest = max(longest, time.perf_counter() - began)
    await saving
    return 1000 * longest


def _dump(lab: Lab, jobs: int) -> Values:
    """What anybody would write: the same states as one document, a new file, sync, rename, sync of the directory."""
    site, _ = lab.site()
    fast = json.loads(state_text(_state(SystemClock().now())))
    state = {f"bench:n{i}": {"last": {"fast": i}, "backoff": 0, "cadences": {"fast": fast}} for i in range(jobs)}
    times = []
    for _ in range(5):
        began = time.perf_counter()
        _replace(site.path, json.dumps(state).encode())
        times.append(1000 * (time.perf_counter() - began))
    return {"ms": median(times), "loop blocked ms": median(times)}


def _replace(directory: Path, data: bytes) -> None:
    with open(directory / "new", "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    (directory / "new").replace(directory / "old")
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(handle)
    os.close(handle)


def _syncs(lab: Lab) -> dict[str, Callable[[], Values]]:
    return {"store alone": lambda: asyncio.run(_store_syncs(lab)), "daemon": lambda: _daemon_syncs(lab)}


async def _store_syncs(lab: Lab) -> Values:
    """A run is two changes: it began (no sync asked for), it ended (durable). Ticks of 1/450 s."""
    count = 0

    def counted(sync: Callable[[int], None]) -> Callable[[int], None]:
        def call(fd: int) -> None:
            nonlocal count
            count += 1
            sync(fd)

        return call

    store = await _filled(lab, 1000, Disk(sync_data=counted(os.fdatasync), sync=counted(os.fsync)))
    count, runs, loop = 0, 0, asyncio.get_running_loop()
    began, ends = loop.time(), set()
    while loop.time() - began < lab.secs:
        ends.add(loop.create_task(_one_run(store, runs)))
        runs += 1
        await asyncio.sleep(max(0, began + runs / RUNS_PER_S - loop.time()))
    await asyncio.gather(*ends)
    syncs = count
    await store.close()
    return {"syncs/run": syncs / runs, "runs/s": runs / lab.secs}


async def _one_run(store: LocalStore, number: int) -> None:
    job, now = f"bench:n{number % 1000}/fast", SystemClock().now()
    state = _state(now)
    begun = Run(f"1-{number:x}", job, now, Cause.SCHEDULE, 1, 1, now, now + 60_000)
    await store.states.apply([Change(job, state._replace(runs=(begun,)))], durable=False)
    await asyncio.sleep(0.002)
    execution = Execution(begun, Outcome(Status.OK), now, "bench", 0)
    await store.states.apply([Change(job, state, execution=execution)], soon=True)


def _daemon_syncs(lab: Lab) -> Values:
    """Log and snapshots of the whole daemon."""
    site, stamp = lab.site()
    jobs, marks = cyclic(100 if lab.small else 1000, stamp, spread=True), site.path / "syncs"
    argv = [sys.executable, str(PEERS / "counted.py"), str(marks), "run"]
    with running(argv, site.path / "log", our_site(jobs, site.path)) as daemon:
        daemon.until(lambda: len(read(site.stamps)) >= len(jobs), "a first run of every job")
        time.sleep(1.5)
        before, runs_before = marks.stat().st_size, len(read(site.stamps))
        time.sleep(lab.secs)
        syncs, runs = marks.stat().st_size - before, len(read(site.stamps)) - runs_before
    return {"syncs/run": syncs / max(1, runs), "runs/s": runs / lab.secs}
