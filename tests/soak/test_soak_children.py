"""The rows of P that have a figure: through the executor, and through a running daemon that must not notice."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.children.faults import (
    GRACE_S,
    LIMIT_S,
    hangs,
    ignores_term_and_has_children,
    leaves_a_grandchild_on_stdout,
    lets_one_escape,
    many_at_once,
    reads_stdin,
    stops_itself,
)
from tests.integration.children.stage import Stage, on_stage
from tests.support.daemon import Daemon
from tests.support.faults import Cadence, Site, alive, rss_kb, site
from tests.support.http import Probe, exchange, post
from vmsh_scheduler.domain.run import Status

Record = Callable[[str, object], None]

ROUNDS = 20
GIB = 1 << 30
WARM = 64
"""Runs after which the database has filled its caches: what comes then is the flood's alone."""
STOPPED_S = LIMIT_S + GRACE_S + 0.5
SLACK_S = 1.0
"""Over the bar of the middle: what one round of a machine that is shared may take more."""
FAULTS: dict[str, tuple[Callable[[Stage, bool], Awaitable[float]], float]] = {
    "P1": (hangs, STOPPED_S),
    "P2": (ignores_term_and_has_children, STOPPED_S),
    "P3": (stops_itself, STOPPED_S),
    "P4": (leaves_a_grandchild_on_stdout, 0.1),
    "P5": (lets_one_escape, 0.4),
    "P10": (reads_stdin, 0.1),
}
SPAWNS = ("/bin/sh", "-c", "cat; exit 0")
BOMB = ("perl", "-e", "for (;;) { fork // select(undef, undef, undef, 0.01) }")
BOMB_UID = 40_000 + os.getpid() % 20_000
"""Nobody's, it is hoped: the limit counts every process of a user."""
MOST = 64

ways = pytest.mark.parametrize("way", ["piped", "recorded"])


@ways
@pytest.mark.parametrize("row", FAULTS)
async def test_p1_p2_p3_p4_p5_p10_every_child_ends_in_time(
    tmp_path: Path, row: str, way: str, record_property: Record
) -> None:
    child, bar = FAULTS[row]
    took, spawning = [], []
    async with on_stage(tmp_path) as stage:
        for _ in range(ROUNDS):
            took.append(await child(stage, way == "recorded"))
            spawning.append(bare(*[SPAWNS] * 3))
    middle, worst, machine = statistics.median(took), max(took), statistics.median(spawning)
    record_property(
        row,
        f"{way}, {ROUNDS} rounds: median {middle:.3f} s, worst {worst:.3f} s, 0 processes left (six bare "
        f"processes: {machine:.3f} s)",
    )
    assert middle <= bar + machine
    assert worst <= bar + SLACK_S + max(spawning)


def bare(*commands: tuple[str, ...]) -> float:
    """Seconds that these take one after the other without us: what the machine is able to do just now."""
    begun = time.monotonic()
    for argv in commands:
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - begun


def bare_at_once(count: int) -> float:
    """Seconds that so many `sleep 1` take."""
    begun = time.monotonic()
    for process in [subprocess.Popen(("/bin/sh", "-c", "sleep 1")) for _ in range(count)]:
        process.wait()
    return time.monotonic() - begun


@ways
async def test_p14_two_hundred_at_once(tmp_path: Path, way: str, record_property: Record) -> None:
    async with on_stage(tmp_path) as stage:
        took = [await many_at_once(stage, way == "recorded", 200, seconds=1) for _ in range(3)]
    machine = bare_at_once(200)
    figure = f"{way}, 200 x `sleep 1`: {min(took):.2f} to {max(took):.2f} s, 0 threads (bare: {machine:.2f} s)"
    record_property("P14", figure)
    assert statistics.median(took) <= max(2, 2 * machine)


@dataclass
class Watch:
    """What a daemon takes while something goes on."""

    daemon: Daemon
    peak_kb: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        self.before_kb = self.peak_kb = rss_kb(self.daemon.pid)
        self.begun, self.cpu = time.monotonic(), self._cpu_s()

    def look(self) -> None:
        self.peak_kb = max(self.peak_kb, rss_kb(self.daemon.pid))
        self.threads = max(self.threads, sum(1 for _ in Path(f"/proc/{self.daemon.pid}/task").iterdir()))

    @property
    def growth_kb(self) -> int:
        return self.peak_kb - self.before_kb

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun

    def load(self) -> float:
        """Share of one core."""
        return (self._cpu_s() - self.cpu) / self.seconds

    def _cpu_s(self) -> float:
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def again(scene: Site, daemon: Daemon, cadences: list[Cadence], expect: Status) -> Watch:
    """Run each once more and watch the daemon until all have ended."""
    msg = "anchor success" if expect is Status.OK else "anchor failed"
    ended = len(daemon.lines(msg))
    watch = Watch(daemon)
    for cadence in cadences:
        trigger(scene, cadence)
    while len(daemon.lines(msg)) < ended + len(cadences):
        watch.look()
        assert watch.seconds < 600
        time.sleep(0.05)
    watch.look()
    return watch


def trigger(scene: Site, cadence: Cadence) -> None:
    body = json.dumps({"job": cadence.job}).encode()
    assert exchange(str(scene.place.state.with_name("control.sock")), post("/trigger", body)).status == 200


@pytest.mark.parametrize(("count", "size"), [(1, GIB), (8, GIB // 8)], ids=["one", "eight"])
@ways
def test_p6_a_gibibyte_of_output(scene: Site, way: str, count: int, size: int, record_property: Record) -> None:
    """Recorded output goes to files as fast as the disk takes it: nothing throttles those."""
    length = scene.place.write("length", f"{1 << 20}")
    argv = ("/bin/sh", "-c", f"head -c $(cat {length}) /dev/zero")
    more = ("timeout: 10m", f"crash_exact: {str(way == 'recorded').lower()}")
    floods = [Cadence(f"flood{number}", argv, "1h", more) for number in range(count)]
    scene.configure(*floods, scheduler="concurrency: 16\n")
    daemon = scene.place.daemon().ready()
    daemon.wait_line("anchor success", after=count - 1)
    for _ in range(WARM // count):
        again(scene, daemon, floods, Status.OK)
    scene.place.write("length", f"{size}")
    with Probe(daemon.port) as probe:
        watch = again(scene, daemon, floods, Status.OK)
    load = watch.load()
    daemon.stop()
    record_property(
        "P6",
        f"{way}, {count} x {size:,} B in {watch.seconds:.0f} s: RSS +{watch.growth_kb} KiB, {100 * load:.0f} % of a "
        f"core; {probe.told()}",
    )
    check_last(scene, count, size)
    assert watch.growth_kb <= 1024 * count
    assert probe.errors == []
    assert probe.p99_ms <= probe.bar_ms
    if way == "piped":
        assert size / watch.seconds < 25e6
        assert load < 0.15 * count


def check_last(scene: Site, count: int, size: int) -> None:
    """Counted to the byte, cut, and small."""
    runs = sorted(scene.books().executions, key=lambda execution: execution.finished_at)
    last = [execution.outcome for execution in runs[-count:]]
    assert {(outcome.output_bytes, outcome.flags) for outcome in last} == {(size, ("truncated",))}
    assert max(len(outcome.output) for outcome in last) < 70_000


def hog(name: str, code: str, limits: str) -> Cadence:
    argv = ("{python}", "-c", f"import sys; sys.tracebacklimit = 0; {code}")
    return Cadence(name, argv, "1h", ("timeout: 30s", f"limits: {{{limits}}}"))


def test_p11_hogs_die_of_their_limits(scene: Site, record_property: Record) -> None:
    hogs = [
        hog("memory", "x = bytearray(512 << 20)", f"address_space: {256 << 20}"),
        hog("disk", "open('big', 'wb').write(bytes(8 << 20))", f"file_size: {1 << 20}"),
        hog("cpu", "[None for _ in iter(int, 1)]", "cpu_seconds: 1"),
        hog("descriptors", "[open('/dev/null') for _ in range(999)]", "open_files: 64"),
    ]
    scene.configure(*hogs, Cadence("score", ("cat", "/proc/self/oom_score_adj"), "1h"))
    daemon = scene.place.daemon().ready()
    daemon.wait_line("anchor failed", after=len(hogs) - 1)
    for one in hogs[:2]:
        again(scene, daemon, [one], Status.FAILED)
    watch = again(scene, daemon, hogs, Status.FAILED)
    daemon.stop()
    (score,) = (e.outcome.output.strip() for e in scene.books().executions if e.run.job_id == "score/fast")
    codes = {line["code"] for line in daemon.lines("anchor failed")}
    record_property(
        "P11", f"4 hogs: all ended by their limits, daemon RSS +{watch.growth_kb} KiB, oom_score_adj {score}"
    )
    assert codes <= {"exit", "signal"}
    assert int(score) == 500
    assert watch.growth_kb <= 1024


@pytest.mark.needs("setpriv")
def test_p11_a_fork_bomb(scene: Site, record_property: Record) -> None:
    argv = ("setpriv", f"--reuid={BOMB_UID}", f"--regid={BOMB_UID}", "--clear-groups", *BOMB)
    bomb = Cadence("bomb", argv, "1h", ("timeout: 2s", "grace: 500ms", f"limits: {{processes: {MOST}}}"))
    healthy = scene.work("healthy")
    scene.configure(bomb, healthy)
    daemon = scene.place.daemon().ready()
    daemon.wait_line("anchor failed")
    most, watch = 0, Watch(daemon)
    trigger(scene, bomb)
    while len(daemon.lines("anchor failed", ns="bomb")) < 2:
        watch.look()
        most = max(most, processes_of(BOMB_UID))
        assert watch.seconds < 60
        time.sleep(0.05)
    daemon.wait_until(lambda: not processes_of(BOMB_UID), "the end of the bomb")
    daemon.stop()
    record_property(
        "P11", f"fork bomb: {most} processes at most, 0 left; daemon RSS +{watch.growth_kb} KiB, other jobs on time"
    )
    assert MOST // 2 < most <= MOST
    assert watch.growth_kb <= 1024
    late = [e.start_delay for e in scene.books().executions if e.run.job_id == healthy.job][1:-1]
    assert max(late) < 1_000


def processes_of(uid: int) -> int:
    found = 0
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            found += entry.name.isdigit() and entry.stat().st_uid == uid and alive(int(entry.name))
    return found


@ways
def test_p14_two_hundred_cadences_at_once(scene: Site, way: str, record_property: Record) -> None:
    more = (f"crash_exact: {str(way == 'recorded').lower()}",)
    crowd = [Cadence(f"n{number:03}", ("sleep", "1"), "1h", more) for number in range(200)]
    scene.configure(*crowd, scheduler="concurrency: 200\n")
    daemon = scene.place.daemon()
    daemon.wait_until(lambda: Path(f"/proc/{daemon.pid}/task").exists(), "a process")
    watch = Watch(daemon)

    def over() -> bool:
        watch.look()
        return len(daemon.lines("anchor success")) == len(crowd)

    daemon.wait_until(over, "200 successes", 60)
    daemon.stop()
    runs = scene.books().executions
    span = (max(e.finished_at for e in runs) - min(e.run.started_at for e in runs)) / 1000
    machine = bare_at_once(200)
    record_property(
        "P14",
        f"{way}, 200 cadences of a daemon due at once: {span:.2f} s, {watch.threads} threads (bare: {machine:.2f} s)",
    )
    assert len(runs) == len(crowd)
    assert watch.threads < 20
    assert span <= max(2, 2 * machine) + SLACK_S
