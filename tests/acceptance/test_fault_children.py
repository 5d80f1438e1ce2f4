"""Rows P1 to P14 through the whole daemon: bad children beside a healthy cadence, which never notices them."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Document, until
from tests.support.faults import Cadence, Site, alive, rss_kb, site
from tests.support.ledger import gaps, violations
from vmsh_scheduler.domain.decision import Reason, Verdict
from vmsh_scheduler.domain.trigger import SECOND

FLOOD = 32 << 20
LIMITS = ("timeout: 1s", "grace: 500ms")
LATEST_S = 1.0 + 0.5 + 10.0
"""timeout + grace, and patience with a machine that is busy; the exact figures are the soak's."""
HEALTHY_SLOTS = 6
LATEST_SLOTS = 10
RSS_GROWTH_KB = 16 << 10
"""Far below what is flooded: no part of the output may pile up in the daemon."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A child, and how it has to be told: `code`, `flags`, and whether it went well."""

    script: str
    code: str
    flags: tuple[str, ...] = ()
    more: tuple[str, ...] = LIMITS
    good: bool = False
    quick: bool = False
    """Ends by itself: never waited for up to its timeout."""
    error: str = "network"


def told(script: str) -> str:
    """Every process of the child says its pid in `pids`, so that each can be looked for afterwards."""
    return f"echo $$ >> pids; {script}"


PIPED = "crash_exact: false"


def escape(fifo: str) -> str:
    """Out of the group before its parent ends: only its hold on the output and its environment tell of it."""
    return background(fifo, "setsid sh")


def background(fifo: str, shell: str = "sh") -> str:
    """The parent ends once its child said its pid."""
    return told(f"mkfifo {fifo}; {shell} -c 'echo $$ >> pids; echo > {fifo}; exec sleep 300' & read x < {fifo}; exit 0")


def tells(name: str) -> str:
    """What it was given: its environment, its descriptors."""
    return told(f"env > env-{name}; exec ls /proc/self/fd")


SHOUT = told('printf \'\\033[31mred\\377\\033]0;title\\007\\r\\n{"level":"forged"}\\n\\033[2J\' >&2; exit 3')
CANARY = "canary-0451"
FAULTS = {
    "hangs": Fault(told("sleep 300"), "timeout"),
    "hangs-piped": Fault(told("sleep 300"), "timeout", more=(*LIMITS, PIPED)),
    "ignores-term": Fault(told('trap "" TERM; while :; do sleep 1; done'), "timeout", ("killed",)),
    "ignores-term-piped": Fault(
        told('trap "" TERM; while :; do sleep 1; done'), "timeout", ("killed",), (*LIMITS, PIPED)
    ),
    "stopped": Fault(told("kill -STOP $$"), "timeout", ("killed",)),
    "stopped-piped": Fault(told("kill -STOP $$"), "timeout", ("killed",), (*LIMITS, PIPED)),
    "grandchild": Fault(background("c"), "exit", good=True, quick=True),
    "grandchild-piped": Fault(background("d"), "exit", good=True, quick=True, more=(*LIMITS, PIPED)),
    "escapee": Fault(escape("a"), "exit", ("left_background",), good=True, quick=True),
    "escapee-piped": Fault(escape("b"), "exit", ("left_background",), (*LIMITS, PIPED), good=True, quick=True),
    "floods": Fault(told(f"head -c {FLOOD} /dev/zero"), "exit", ("truncated",), ("timeout: 60s",), good=True),
    "floods-piped": Fault(
        told(f"head -c {FLOOD} /dev/zero"), "exit", ("truncated",), ("timeout: 60s", PIPED), good=True
    ),
    "shouts": Fault(SHOUT, "exit", error="unknown"),
    "shouts-piped": Fault(SHOUT, "exit", more=(*LIMITS, PIPED), error="unknown"),
    "tells": Fault(tells("recorded"), "exit", good=True),
    "tells-piped": Fault(tells("piped"), "exit", more=(*LIMITS, PIPED), good=True),
}


@dataclass
class Ward:
    """The daemon with every child, after all of them came to their end once."""

    site: Site
    daemon: Daemon
    healthy: Cadence
    lines: dict[str, Document]
    growth_kb: int
    threads: int
    """More than before, at most."""

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.site.place.root / "pids").read_text().split()]


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    place = site(tmp_path_factory.mktemp("ward"), CANARY_TOKEN=CANARY)
    healthy = place.work("healthy")
    sick = [Cadence(name, ("/bin/sh", "-c", fault.script), "1h", fault.more) for name, fault in FAULTS.items()]
    settings = f"concurrency: {len(FAULTS) + 4}\n"
    place.configure(healthy, *sick, scheduler=settings)
    try:
        yield observe(place, healthy)
    finally:
        place.place.close()


def observe(place: Site, healthy: Cadence) -> Ward:
    daemon = place.place.daemon().ready()
    before, peak = rss_kb(daemon.pid), 0
    threads = most = thread_count(daemon)
    ends: dict[str, Document] = {}
    deadline = time.monotonic() + 60

    def over() -> bool:
        nonlocal peak, most
        peak, most = max(peak, rss_kb(daemon.pid)), max(most, thread_count(daemon))
        for line in [*daemon.lines("anchor success"), *daemon.lines("anchor failed")]:
            ends.setdefault(line["ns"], line)
        return ends.keys() >= {*FAULTS, "healthy"} and len(place.starts(healthy)) >= HEALTHY_SLOTS

    daemon.wait_until(over, f"every child's end, missing {set(FAULTS) - ends.keys()}", deadline - time.monotonic())
    return Ward(place, daemon, healthy, ends, peak - before, most - threads)


def thread_count(daemon: Daemon) -> int:
    return sum(1 for _ in Path(f"/proc/{daemon.pid}/task").iterdir())


@pytest.mark.parametrize("name", FAULTS)
def test_p1_p2_p3_p4_p5_each_child_comes_to_its_end_in_time(ward: Ward, name: str) -> None:
    fault, line = FAULTS[name], ward.lines[name]
    assert line["msg"] == ("anchor success" if fault.good else "anchor failed"), line
    assert tuple(line.get("flags", ())) == fault.flags, line
    if not fault.good:
        assert (line["code"], line["class"]) == (fault.code, fault.error), line
    if LIMITS[0] in fault.more:
        assert line["took_ms"] <= LATEST_S * SECOND, line
    if fault.quick:
        assert line["took_ms"] < 10 * SECOND, line


@pytest.mark.parametrize("name", ["floods", "floods-piped"])
def test_p6_a_flood_is_counted_and_cut(ward: Ward, name: str) -> None:
    rows = ward.daemon.place.cli("history", f"{name}/fast", "--json").ok().json["executions"]
    outcome = rows[-1]["outcome"]
    assert outcome["output_bytes"] == FLOOD
    assert len(outcome["output"]) < 1 << 20


def test_p6_the_daemon_does_not_grow_with_what_is_flooded(ward: Ward) -> None:
    assert ward.growth_kb <= RSS_GROWTH_KB


@pytest.mark.parametrize("name", ["shouts", "shouts-piped"])
def test_p7_escape_codes_move_no_terminal(ward: Ward, name: str) -> None:
    """Kept as they came, shown as text; and no line of the log is forged."""
    place = ward.daemon.place
    (row,) = place.cli("history", f"{name}/fast", "--json").ok().json["executions"][:1]
    assert "\x1b[31mred\\xff" in row["outcome"]["output"]
    shown = ward.daemon.text() + place.cli("history", f"{name}/fast").ok().out + place.cli("status").ok().out
    assert not [c for c in shown if c < " " and c != "\n"]
    assert not ward.daemon.lines(level="forged")


@pytest.mark.parametrize("way", ["recorded", "piped"])
def test_p12_nothing_of_our_environment_gets_through(ward: Ward, way: str) -> None:
    env = (ward.site.place.root / f"env-{way}").read_text()
    assert "VMSH_RUN_ID=" in env
    assert CANARY not in env


@pytest.mark.parametrize("name", ["tells", "tells-piped"])
def test_p13_nothing_of_our_descriptors_gets_through(ward: Ward, name: str) -> None:
    rows = ward.daemon.place.cli("history", f"{name}/fast", "--json").ok().json["executions"]
    assert rows[-1]["outcome"]["output"].split() == ["0", "1", "2", "3"]  # the fourth is the listing itself


def test_p14_no_thread_per_child(ward: Ward) -> None:
    assert ward.threads < 4


def test_no_process_is_left(ward: Ward) -> None:
    pids = ward.pids()
    assert len(pids) >= len(FAULTS) + 4
    until(lambda: not any(map(alive, pids)), f"the end of {[pid for pid in pids if alive(pid)]}")


def test_the_healthy_cadence_misses_no_slot(ward: Ward) -> None:
    """Runs last of this ward: it ends the daemon."""
    ward.daemon.stop()
    assert violations(ward.site.entries()) == []
    books = ward.site.books()
    assert gaps(books, {ward.healthy.job: SECOND}) == []
    mine = [decision for decision in books.decisions if decision.job_id == ward.healthy.job]
    # On a machine that is busy with others a run may take longer than its period, or we come too late for some slots
    # (no later than below); nothing else is an excuse.
    excused = {Reason.OVERLAP, Reason.COALESCED}
    assert [one for one in mine if one.reason not in excused and one.verdict is not Verdict.FIRED] == []
    assert all(one.count <= LATEST_SLOTS for one in mine if one.reason is Reason.COALESCED)
    late = [e.start_delay for e in books.executions if e.run.job_id == ward.healthy.job][:-1]
    assert max(late) < LATEST_SLOTS * SECOND, late
