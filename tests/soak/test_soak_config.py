"""Rows C1 to C4, C7, C10 and C11 at full figures: rewrites and mutations by the thousand."""

import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support import lag
from tests.support.config_faults import (
    BOMBS,
    LOADED,
    REFUSED_S,
    REJECTED,
    RSS_GROWTH_KB,
    TAKEN_AWAY,
    Watched,
    ask,
    bomb,
    idle,
    jobs,
    lose_most,
    rewrite_in_halves,
    storm,
    swap_maps,
    take_away,
    watched,
)
from tests.support.config_races import ConfigMap, numbered, poll_half_written, read_while_swapped
from tests.support.faults import Cadence
from tests.support.mutations import bases, examine, mutated, write
from tests.support.near_yaml import (
    BYTES,
    GOOD_BOTH,
    NEAR_AGENTS,
    NEAR_NAMESPACES,
    check_bytes,
    check_order,
    check_texts,
    shuffled,
)
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.watch import SETTLE

Record = Callable[[str, object], None]
SEED = 20261121
LAG_S = 0.05


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path) as made:
        yield made


def test_c1_a_thousand_rewrites_in_place(tmp_path: Path, record_property: Record) -> None:
    seen = poll_half_written(tmp_path, 1_000)
    assert seen.empty + seen.partial >= 50, f"the writer was not caught half-way, this proved nothing: {seen}"
    assert seen.readings >= 20
    assert seen.wrong == [] or seen.longest_s * SECOND >= SETTLE, seen
    record_property("C1", f"1,000 rewrites in place: {seen}")


def test_c1_a_thousand_halves_at_a_daemon(seen: Watched, record_property: Record) -> None:
    rewrite_in_halves(seen, 1_000, random.Random(SEED))
    seen.stop(punctual=True)
    record_property("C1", "1,000 rewrites with a valid first half, at a daemon: 0 partial reloads, 0 late slots")


def test_c2_everything_that_can_be_in_a_files_place(seen: Watched, record_property: Record) -> None:
    for how in TAKEN_AWAY:
        take_away(seen, how)
    seen.stop(punctual=True)
    record_property("C2", f"{len(TAKEN_AWAY)} kinds, each said once and healthy again: 0 missed slots")


def test_c3_four_thousand_reads_of_two_files(tmp_path: Path, record_property: Record) -> None:
    seen = read_while_swapped(ConfigMap(tmp_path, numbered), 4_000, patience_s=600)
    assert seen.naive_mixed >= 20, f"reading by path hardly mixed generations, this proved nothing: {seen}"
    assert (seen.whole >= 4_000, seen.mixed) == (True, 0), seen
    record_property("C3", str(seen))


def test_c3_five_hundred_swaps_at_a_daemon(tmp_path: Path, record_property: Record) -> None:
    reloads = swap_maps(tmp_path, 500, random.Random(SEED))
    record_property("C3", f"500 swaps at a daemon, a SIGHUP after each: {reloads} reloads, 0 mixed")


def test_c4_twelve_bombs_at_a_daemon(seen: Watched, record_property: Record) -> None:
    assert len(BOMBS) == 12
    worst = bomb(seen, list(BOMBS), validated=12)
    assert worst.cpu_s <= REFUSED_S
    assert worst.rss_kb <= RSS_GROWTH_KB
    assert worst.words < 20_000
    seen.stop()
    figure = f"12 bombs: at most {worst.cpu_s:.2f} s of CPU with the start of the command, daemon +{worst.rss_kb} KiB"
    record_property("C4", figure)


def test_c7_ten_thousand_mutated_files(tmp_path: Path, record_property: Record) -> None:
    found = examine(tmp_path, 0, 10_000, patience_s=1_800)
    assert (found.code, found.words) == (0, ""), f"ended at {found.seen[-1:]}"
    assert found.escapes() == []
    slowest = max(seen.cpu_ms for seen in found.seen)
    assert (len(found.seen), slowest <= 1_000) == (10_000, True), slowest
    counts = Counter(seen.outcome for seen in found.seen)
    naive = examine(tmp_path, 0, 1_000, "naive").escapes()
    assert len(naive) > 500
    record_property(
        "C7",
        f"10,000 mutated files: {counts['refused']} refused, {counts['accepted']} accepted, 0 tracebacks, 0 signals, "
        f"slowest {slowest:.0f} ms of CPU (a naive reader: {len(naive)} tracebacks of 1,000)",
    )


def test_c7_mutated_files_at_a_daemon(seen: Watched, tmp_path: Path, record_property: Record) -> None:
    """Whatever is refused leaves the last good one in force."""
    (tmp_path / "examined").mkdir()
    settings_files = {base["scheduler"] for base in bases()}
    refused = [mutated(each.number) for each in examine(tmp_path / "examined", 50_000, 300).outcomes("refused")]
    reread = [files for files in refused if files["scheduler"] in settings_files]
    good = seen.file.read_bytes()
    for files in reread:
        write(seen.site.place.root, files)
        with pytest.raises(ConfigError):
            ask(seen.site.place, "POST", "/reload")
        assert set(jobs(seen.site.place)) == {"healthy/fast"}, files
    assert len(reread) >= 100
    assert [line for line in seen.daemon.lines(LOADED)[1:] if line.keys() & {"added", "changed", "removed"}] == []
    write(seen.site.place.root, {"namespaces": good})
    ask(seen.site.place, "POST", "/reload")
    seen.becomes("healthy")
    seen.stop()
    record_property("C7", f"{len(reread)} refused files at a daemon: the last good one in force after each")


def test_c7_fuzz(record_property: Record) -> None:
    fuzz(20_000, BYTES)(check_bytes)
    fuzz(5_000, NEAR_NAMESPACES, NEAR_AGENTS)(check_texts)
    fuzz(500, shuffled(GOOD_BOTH))(lambda both: check_order(*both))
    record_property("C7", "20,000 texts, 5,000 nearly valid pairs of files, 500 shuffled ones: 0 escapes")


def fuzz(examples: int, *strategies: Any) -> Callable[[Callable[..., None]], None]:
    calm = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    return lambda check: calm(given(*strategies)(check))()


def test_c10_fifteen_jobs_lost_and_found(seen: Watched, record_property: Record) -> None:
    doubts: list[object] = []

    def believed() -> None:
        doubts.append(seen.daemon.wait_line("trouble", what="config_mass_removal", after=len(doubts)))

    for _ in range(10):
        lose_most(seen, idle(seen, 15), believed)
    seen.stop(punctual=True)
    record_property("C10", "15 of 16 jobs lost and found 10 times: each time doubted for 2 looks, 0 re-fires")


@pytest.mark.parametrize("agents", [40, 400], ids=["7 kB", "70 kB"])
def test_c11_ten_thousand_valid_files_in_a_minute(tmp_path: Path, agents: int, record_property: Record) -> None:
    with watched(tmp_path, lag.measured) as seen:
        many = [
            Cadence(f"idle{number}", ("/bin/sh", "-c", "exit 0"), "3653d", ("enabled: false",))
            for number in range(agents)
        ]
        texts = [seen.good(*many), seen.good(*many[:-1])]
        storm(seen, texts, 20, 1)
        seen.daemon.signal(signal.SIGUSR1)
        found = storm(seen, texts, 10_000, 60)
        assert found.reloads <= found.seconds
        assert seen.daemon.lines(REJECTED) == []
        seen.stop()
    wall, cpu = lag.read(tmp_path / "lag.json")
    figure = (
        f"10,000 valid files of {len(texts[0]) // 1000} kB in {found.seconds:.0f} s: {found.reloads} reloads, "
        f"loop lag p99 {cpu.percentile(0.01) * 1000:.1f} ms of CPU ({wall.percentile(0.01) * 1000:.1f} by the clock), "
        f"longest stretch {max(cpu.stretches) * 1000:.0f} ms of CPU"
    )
    assert cpu.percentile(0.01) <= LAG_S, figure
    record_property("C11", figure)
