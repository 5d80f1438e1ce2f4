"""Rows C1 to C4 at a running daemon: whatever happens to its files, no slot is lost and nothing else changes."""

import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Document
from tests.support.faults import Cadence, Site, document, rss_kb, site
from tests.support.ledger import differences, gaps, violations
from vmsh_scheduler.domain.decision import Verdict
from vmsh_scheduler.domain.trigger import SECOND

SEED = 20261121
LOADED, REJECTED = "namespaces config loaded", "config rejected"
REFUSED_S = 1.5
"""CPU seconds of `validate-config`, its start included: what else the machine does is not its fault."""
RSS_GROWTH_KB = 32 << 10


def levels(line: Callable[[str, str], str]) -> str:
    """Nine lines, each built on the one before."""
    return "".join(line(chr(97 + n), chr(98 + n)) + "\n" for n in range(9))


BOMBS = {
    "deep_lists": "a: " + "[" * 200_000,
    "deep_mappings": "{a: " * 200_000,
    "deep_blocks": "a:\n " + "- " * 2_000_000,
    "laughs": "a: &a [x, x]\n" + levels(lambda n, m: f"{m}: &{m} [" + ", ".join([f"*{n}"] * 9) + "]"),
    "merges": "a: &a {x: 1}\n" + levels(lambda n, m: f"{m}: &{m} {{<<: [" + ", ".join([f"*{n}"] * 9) + "]}"),
    "recursive": "namespaces: &a [*a]",
    "copied_text": "a: &a '" + "x" * 5_000_000 + "'\nb: [" + "*a, " * 1_000 + "]",
    "wide": "a: [" + "1," * 3_000_000 + "]",
    "long": "a:\n" + "- 1\n" * 2_400_000,
    "digits": "a: " + "9" * 5_000_000,
    "same_keys": "namespaces:\n" + "  a: 1\n" * 900_000,
    "sparse": "",
}
SPARSE = 1 << 30


@dataclass
class Watched:
    """A daemon with one healthy cadence, and where its files are."""

    site: Site
    healthy: Cadence
    daemon: Daemon

    @property
    def file(self) -> Path:
        return self.site.place.namespaces

    def good(self, *more: Cadence) -> str:
        return document(self.healthy, *more)

    def health(self) -> tuple[int, str]:
        answer = self.daemon.get("/health")
        return answer.status, answer.json["status"]

    def goes_on(self) -> None:
        """Another slot was served from now on."""
        seen = len(self.site.starts(self.healthy))
        self.daemon.wait_until(lambda: len(self.site.starts(self.healthy)) > seen, "another slot", 5)

    def close(self) -> None:
        """Stopped in order, and every slot of the healthy cadence was served, on time."""
        self.daemon.stop()
        assert violations(self.site.entries()) == []
        books = self.site.books()
        assert differences(self.site.entries(), books) == []
        assert gaps(books, {self.healthy.job: SECOND}) == []
        mine = [decision for decision in books.decisions if decision.job_id == self.healthy.job]
        assert {decision.verdict for decision in mine} == {Verdict.FIRED}
        late = [e.start_delay for e in books.executions if e.run.job_id == self.healthy.job][:-1]
        assert max(late) < SECOND, late


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    place = site(tmp_path)
    healthy = place.work("healthy")
    place.configure(healthy)
    try:
        yield Watched(place, healthy, place.place.daemon().ready())
    finally:
        place.place.close()


def drop(bomb: str, path: Path) -> None:
    fresh = path.with_suffix(".fresh")
    with fresh.open("w") as file:
        file.write(BOMBS[bomb])
        if bomb == "sparse":
            file.truncate(SPARSE)
    fresh.replace(path)


def validate(watched: Watched) -> tuple[float, str]:
    """CPU seconds and the words of a refusal."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = watched.site.place.cli("validate-config")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.code == os.EX_CONFIG, done.err[-2000:]
    assert "Traceback" not in done.err
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.err


def test_c4_twelve_bombs_change_nothing(watched: Watched) -> None:
    assert len(BOMBS) == 12
    watched.goes_on()
    before = rss_kb(watched.daemon.pid)
    for bomb in BOMBS:
        drop(bomb, watched.file)
        took, said = validate(watched)
        assert took <= REFUSED_S, f"{bomb}: {took:.2f} s of CPU"
        assert len(said) < 20_000, f"{bomb}: {len(said)} characters"
        assert watched.file.name in said
        done = watched.site.place.cli("reload")
        assert done.code == os.EX_CONFIG, f"{bomb}: {done.err}"
        assert watched.daemon.lines(REJECTED) != []
        assert watched.health() == (200, "degraded"), bomb
    assert rss_kb(watched.daemon.pid) - before <= RSS_GROWTH_KB
    assert len(watched.daemon.lines(LOADED)) == 1
    watched.site.place.write("config/namespaces.yaml", watched.good())
    watched.daemon.wait_until(lambda: watched.health() == (200, "healthy"), "healthy")
    assert not any(line.keys() & {"added", "changed", "removed"} for line in watched.daemon.lines(LOADED)[1:])
    watched.close()


def test_c1_two_hundred_half_written_files_are_never_believed(watched: Watched) -> None:
    """Written in place, with the first half on disk alone for a while: cut where it would be a valid file."""
    extra = watched.site.work("extra", every="1h")
    dice = random.Random(SEED)
    for number in range(200):
        text = watched.good(extra).replace("every: 1s", "every: 1s  # " + "x" * (number % 7))
        half = text.index(f"  {extra.name}:")
        with watched.file.open("w") as file:
            file.write(text[:half])
            file.flush()
            time.sleep(dice.uniform(0, 0.04))
            file.write(text[half:])
    added = watched.daemon.wait_line(LOADED, after=1)
    assert added["added"] == [extra.job], f"seed {SEED}"
    watched.goes_on()
    assert watched.daemon.lines(REJECTED) == []
    assert [line for line in watched.daemon.lines(LOADED) if "removed" in line] == [], f"seed {SEED}"
    watched.close()


def test_c2_a_deleted_file_costs_no_slot(watched: Watched) -> None:
    text = watched.file.read_text()
    watched.file.unlink()
    watched.daemon.wait_line(REJECTED)
    assert watched.health() == (200, "degraded")
    watched.goes_on()
    watched.goes_on()
    assert len(watched.daemon.lines(REJECTED)) == 1
    watched.file.write_text(text)
    watched.daemon.wait_until(lambda: watched.health() == (200, "healthy"), "healthy")
    watched.close()


class ConfigMap:
    """Two files through `..data`, as a kubelet mounts and swaps them; both carry the generation."""

    def __init__(self, place: Site, healthy: Cadence) -> None:
        self.place = place
        self.healthy = healthy
        self.root = place.place.root / "config"
        self.root.mkdir()
        self.flip(0)
        for name in ("namespaces.yaml", "agents.yaml"):
            (self.root / name).symlink_to(f"..data/{name}")

    def flip(self, generation: int) -> None:
        directory = self.root / f"..{generation}"
        directory.mkdir()
        marked = self.place.work(f"g{generation}", every="1h")
        (directory / "namespaces.yaml").write_text(document(self.healthy, marked))
        (directory / "agents.yaml").write_text(
            f"agents:\n  - {{agentId: g{generation}, walletAddress: 'kaspatest:qq', status: PAUSED, "
            "callback: {command: ['true']}}\n"
        )
        old = (self.root / "..data").resolve() if generation else None
        (self.root / "..data_tmp").symlink_to(directory.name)
        (self.root / "..data_tmp").rename(self.root / "..data")
        if old is not None:
            shutil.rmtree(old)


def generations(line: Document, change: str) -> set[str]:
    """Which generations a reload added or removed; both files of one have to be named."""
    jobs = [job for job in line.get(change, []) if not job.startswith("healthy")]
    names = {job.removeprefix("_agents/anon/").removesuffix("/fast") for job in jobs}
    assert len(jobs) == 2 * len(names), f"a mix: {line}"
    return names


def test_c3_fifty_configmap_swaps_are_never_mixed(tmp_path: Path) -> None:
    place = site(tmp_path)
    healthy = place.work("healthy")
    mount = ConfigMap(place, healthy)
    dice = random.Random(SEED)
    try:
        watched = Watched(place, healthy, place.place.daemon().ready())
        for generation in range(1, 51):
            mount.flip(generation)
            watched.daemon.signal(signal.SIGHUP)
            time.sleep(dice.uniform(0, 0.15))
        watched.daemon.wait_until(lambda: "g50/fast" in watched.daemon.lines(LOADED)[-1].get("added", []), "the last")
        loaded = watched.daemon.lines(LOADED)
        assert len(loaded) >= 3
        for line in loaded[1:]:
            if "added" in line:
                assert len(generations(line, "added")) == 1, f"seed {SEED}"
                assert len(generations(line, "removed")) == 1, f"seed {SEED}"
        assert watched.daemon.lines(REJECTED) == [], f"seed {SEED}"
        watched.close()
    finally:
        place.place.close()


@pytest.mark.parametrize("exact", [True, False], ids=["crash_exact", "piped"])
def test_a_reload_leaves_a_run_that_is_going_on_alone(watched: Watched, exact: bool) -> None:
    """It is this daemon's own: neither adopted nor lost, and certainly not started again."""
    mode = f"crash_exact: {str(exact).lower()}"
    going = watched.site.work("going", mode, every="1h", seconds=2)
    watched.site.place.write("config/namespaces.yaml", watched.good(going))
    watched.daemon.wait_until(lambda: watched.site.starts(going), "a run")
    watched.daemon.signal(signal.SIGHUP)
    watched.daemon.wait_line(LOADED, after=2)
    more = watched.site.work("more", every="1h")
    watched.site.place.write("config/namespaces.yaml", watched.good(going, more))
    watched.daemon.wait_line("anchor success", ns="more")
    watched.daemon.wait_line("anchor success", ns="going")
    watched.goes_on()
    assert len(watched.daemon.lines("anchor success", ns="going")) == 1
    assert watched.daemon.lines("runs recovered") == []
    watched.close()
