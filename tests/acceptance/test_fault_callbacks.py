"""W5 and W7 at a booted daemon: consumers that answer with floods, hosts that are dead for all who call them."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support import lag
from tests.support.dead_hosts import DEAD, Plan, storm
from tests.support.faults import Site
from tests.support.floods import Flood, endure, flood, flooded

Record = Callable[[str, object], None]
MIB = 1 << 20
SIZE = 64 * MIB
GREEDY = ("/body/500",)


@pytest.fixture(scope="module")
def sea() -> Iterator[Flood]:
    with flood(SIZE) as made:
        yield made


def test_w5_floods_cost_no_memory(tmp_path: Path, sea: Flood, record_property: Record) -> None:
    sea.calm = True
    with flooded(tmp_path, sea, paths=sea.paths) as it:
        grown = endure(it, sea, sea.paths, warm=3, rounds=2)
        agents = it.api.get("/v1/agents")["agents"]
        it.daemon.stop()
    record_property("W5", f"{len(sea.paths)} kinds of floods of {SIZE // MIB} MiB: RSS +{grown.more} KiB at most")
    assert grown.more <= 2_048
    said = {agent["id"]: agent["lastDispatch"].get("error") for agent in agents}
    assert said.pop("-header-200") == said.pop("-header-500") == "fetch failed"
    assert said.pop("-headers-200") == said.pop("-headers-500") == "fetch failed"
    assert said == {f"-{kind}-{status}": None if status == 200 else "callback_500"
                    for kind in ("body", "chunks", "gzip", "trailer") for status in (200, 500)}  # fmt: skip


def test_w5_bites_who_reads_it_all_grows(tmp_path: Path, sea: Flood) -> None:
    sea.calm = True
    with flooded(tmp_path, sea, paths=GREEDY, planted="greedy") as it:
        assert endure(it, sea, GREEDY, warm=2, rounds=1).more > SIZE // 1024 // 2
    assert len(zlib.decompress(sea.packed, zlib.MAX_WBITS | 16)) == SIZE
    with urlopen(sea.url("/body/200")) as reply:  # noqa: S310 - our own server
        assert len(reply.read()) == SIZE


FEW = Plan(60, cadences=4, windows=1, seconds=4, environ={"SCHEDULER_CALLBACK_TIMEOUT_MS": "500"})
LATE_MS = 500
"""The bar of 50 ms is the soak test's; cadences that wait for callbacks would wait for seconds."""


@pytest.mark.parametrize("kind", DEAD)
def test_w7_a_dead_host_makes_no_cadence_late(places: tuple[Site, Site], kind: str, record_property: Record) -> None:
    lag.measured(places[0].place)
    seen = storm(*places, kind, FEW)
    record_property("W7", f"60 agents, {kind} host: starts p99 {seen.p99[1]} ms late (without agents {seen.p99[0]} ms)")
    assert seen.failed >= 4
    assert seen.starts[1] >= seen.starts[0] - 4 > 0
    assert seen.later < LATE_MS


def test_w7_bites_calls_that_keep_the_loop_make_cadences_late(places: tuple[Site, Site]) -> None:
    lag.measured(places[0].place, planted="calls block")
    assert storm(*places, "refusing", FEW).later >= LATE_MS
