"""What may not grow: a daemon over its runs, the metrics over renames, the journal over its history."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, generate_latest

from tests.contract.world import FixedClock, decision, execution
from tests.support.agents import runs, wake
from tests.support.builders import agent, cadence
from tests.support.daemon import Daemon, Place
from tests.support.faults import descriptors, rss_kb
from tests.support.world import World
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.observe.metrics import Extra, Metrics
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.stores.local.store import LocalStore, open_store

LOOKS = 100
MOST_LOOKS = 600
BATCH = 250
MOST_SERIES = 12
"""Counters and gauges of one cadence."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Of a daemon after so many runs."""

    runs: int
    rss_kb: int
    descriptors: int
    """Least of many looks: runs that go on have theirs."""
    threads: int


def footprint(daemon: Daemon, after: int, timeout: float, known: int = 0) -> Footprint:
    """As soon as so many runs have ended. `known`: descriptors that it had before, and is given time to get back to."""
    deadline = time.monotonic() + timeout
    while (ended := runs(daemon)) < after:
        assert daemon.alive, daemon.text()[-2000:]
        assert time.monotonic() < deadline, f"{ended} runs"
        time.sleep(0.3)
    rss, least = rss_kb(daemon.pid), descriptors(daemon.pid)
    for look in range(MOST_LOOKS):
        if look >= LOOKS and least <= known:
            break
        time.sleep(0.005)
        least = min(least, descriptors(daemon.pid))
    threads = sum(1 for _ in Path(f"/proc/{daemon.pid}/task").iterdir())
    return Footprint(ended, rss, least, threads)


def endure(place: Place, agents: int, points: Sequence[int], timeout: float) -> list[Footprint]:
    """A daemon with so many agents of one second, looked at after so many runs."""
    wake(place, agents, 1_000, scheduler="log_level: info\nconcurrency: 8\n")
    daemon = place.daemon().ready()
    found: list[Footprint] = []
    for point in points:
        found.append(footprint(daemon, point, timeout, found[0].descriptors if found else 0))
    daemon.stop()
    return found


def named(count: int, era: int) -> dict[str, Job]:
    """`count` cadences of namespaces that have other names in every era."""
    made = (cadence(10, id=f"e{era}n{number}/fast") for number in range(count))
    return {job.id: job for job in made}


async def renames(count: int, eras: int, agents: int = 0) -> list[list[str]]:
    """The series of /metrics at the end of each era, in which every cadence and every agent has run."""
    world, found = World(concurrency=64), []
    metrics = Metrics(version="1", python="3")
    beside = {job.id: job for job in (agent(10, id=f"_agents/u/a{n}") for n in range(agents))}
    for era in range(eras):
        world.jobs = {**named(count, era), **beside}
        await world.start()
        await world.go(10 * SECOND)
        for event in world.events:
            metrics.observe(event)
        world.events.clear()
        found.append(series(metrics.render(metrics.take(world.jobs.values(), world.states.all(), 0, Extra()))[0]))
    return found


def naive_renames(count: int, eras: int) -> list[list[str]]:
    """A counter with a label, as everybody writes it."""
    registry = CollectorRegistry()
    started, found = Counter("started", "Runs begun", ["namespace"], registry=registry), []
    for era in range(eras):
        for job in named(count, era).values():
            started.labels(job.labels["namespace"]).inc()
        found.append(series(generate_latest(registry)))
    return found


def series(text: bytes) -> list[str]:
    """Without the process's own."""
    lines = text.decode().splitlines()
    return [line for line in lines if line and line[0] != "#" and not line.startswith("process_")]


def plain(lines: Sequence[str]) -> list[str]:
    """Those that are there from the start: all but histograms, which appear with the first run."""
    return [line for line in lines if not line.split("{")[0].endswith(("_bucket", "_sum", "_count", "_created"))]


@dataclass
class History:
    """A store that is given rows; `most` is the largest that its journal ever was."""

    store: LocalStore
    clock: FixedClock
    path: Path
    rows: int = 0
    most: int = 0

    @classmethod
    def at(cls, directory: Path, keep: Retention) -> "History":
        clock = FixedClock()
        return cls(open_store(directory / "scheduler.json", clock, keep=keep), clock, directory)

    async def write(self, jobs: int, rows: int, output: str = "") -> None:
        """`rows` more, over `jobs` jobs in turn: a decision and an execution for each slot."""
        for start in range(0, rows // 2, BATCH):
            numbers = range(start, min(start + BATCH, rows // 2))
            changes = [self._change(f"n{number % jobs}/fast", self.rows // 2 + number, output) for number in numbers]
            await self.store.states.apply(changes, durable=False)
            self.store.journal.reached(self.store.states.synced)
            if start // BATCH % 8 == 7:
                await self.settle()
        self.rows += rows
        await self.settle()

    async def settle(self) -> None:
        await self.store.states.save()
        assert self.store.journal.flush(), self.store.journal.trouble
        self.most = max(self.most, self.size())

    def size(self) -> int:
        return sum(path.stat().st_size for path in self.path.glob("scheduler.db*"))

    def _change(self, job_id: str, number: int, output: str) -> Change:
        ended = execution(job_id, number)
        told = replace(ended, outcome=replace(ended.outcome, output=output))
        return Change(job_id, JobState(started=number), (decision(job_id, number),), told)
