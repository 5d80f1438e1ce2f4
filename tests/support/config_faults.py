"""What is done to the files of a running daemon, a few times by the fast tests and as often as it takes by soak."""

import os
import random
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.config_races import ConfigMap
from tests.support.daemon import Daemon, Document, Place
from tests.support.faults import Cadence, Site, document, rss_kb, site
from tests.support.ledger import differences, gaps, violations
from vmsh_scheduler.api.client import call
from vmsh_scheduler.domain.decision import Verdict
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.errors import ConfigError

LOADED, REJECTED = "namespaces config loaded", "config rejected"
REFUSED_S = 1.5
"""CPU seconds of `validate-config`, its start included: what else the machine does is not its fault."""
RSS_GROWTH_KB = 32 << 10
CONTROL = "control.sock"


def ask(place: Place, method: str, path: str) -> Document:
    """The daemon's answer on its control socket; raises what the command would report."""
    return call(str(place.state.parent / CONTROL), method, path)


def jobs(place: Place) -> dict[str, Document]:
    """What `status` lists, by id."""
    return {row["job"]: row for row in ask(place, "GET", "/status")["jobs"]}


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

    def becomes(self, status: str) -> None:
        self.daemon.wait_until(lambda: self.health() == (200, status), f"health {status}")

    def goes_on(self) -> None:
        """Another slot was served from now on."""
        seen = len(self.site.starts(self.healthy))
        self.daemon.wait_until(lambda: len(self.site.starts(self.healthy)) > seen, "another slot", 10)

    def stop(self, *, punctual: bool = False) -> None:
        """In order; every slot of the healthy cadence was decided. `punctual`: served too, and within a second, which
        a machine on its knees cannot promise."""
        self.daemon.stop()
        books = self.site.books()
        mine = [decision for decision in books.decisions if decision.job_id == self.healthy.job]
        wrong: list[object] = [*violations(self.site.entries()), *differences(self.site.entries(), books)]
        wrong += gaps(books, {self.healthy.job: SECOND})
        if punctual:
            wrong += [decision for decision in mine if decision.verdict is not Verdict.FIRED]
            runs = [execution for execution in books.executions if execution.run.job_id == self.healthy.job]
            wrong += [execution for execution in runs[:-1] if execution.start_delay >= SECOND]
        assert wrong == [], wrong
        assert any(decision.verdict is Verdict.FIRED for decision in mine)


@contextmanager
def watched(root: Path, prepare: Callable[[Place], object] = lambda _: None, **environ: str) -> Iterator[Watched]:
    """Whatever it has started is gone afterwards."""
    place = site(root, **environ)
    prepare(place.place)
    healthy = place.work("healthy")
    place.configure(healthy)
    try:
        yield Watched(place, healthy, place.place.daemon().ready())
    finally:
        place.place.close()


def rewrite_in_halves(seen: Watched, rewrites: int, dice: random.Random) -> None:
    """In place, with the first half on disk alone for a while: cut where it would be a valid file. All of it has one
    cadence more, `extra/fast`."""
    extra = seen.site.work("extra", every="1h")
    for number in range(rewrites):
        text = seen.good(extra).replace("every: 1s", "every: 1s  # " + "x" * (number % 7))
        half = text.index(f"  {extra.name}:")
        with seen.file.open("w") as file:
            file.write(text[:half])
            file.flush()
            time.sleep(dice.uniform(0, 0.04))
            file.write(text[half:])
    added = seen.daemon.wait_line(LOADED, after=1)
    assert added["added"] == [extra.job]
    seen.goes_on()
    assert seen.daemon.lines(REJECTED) == []
    assert [line for line in seen.daemon.lines(LOADED) if "removed" in line] == []


def delete(path: Path) -> None:
    path.unlink()


def replace_by_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_a_link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def open_to_everybody(path: Path) -> None:
    path.chmod(0o666)


def make_unreadable(path: Path) -> None:
    """Not to root."""
    path.chmod(0)


def make_empty(path: Path) -> None:
    path.write_bytes(b"")


TAKEN_AWAY = [delete, replace_by_a_directory, replace_by_a_fifo, replace_by_a_link_to_itself, open_to_everybody]
TAKEN_AWAY += [make_empty] if os.geteuid() == 0 else [make_empty, make_unreadable]


def take_away(seen: Watched, how: Callable[[Path], None]) -> None:
    """Said once, the last good one in force; then the file is back, and all is well."""
    text = seen.file.read_text()
    before = len(seen.daemon.lines(REJECTED))
    how(seen.file)
    seen.daemon.wait_line(REJECTED, after=before)
    assert seen.health() == (200, "degraded")
    seen.goes_on()
    seen.goes_on()
    assert len(seen.daemon.lines(REJECTED)) == before + 1, how.__name__
    assert "removed" not in str(seen.daemon.lines(LOADED))
    if seen.file.is_dir():
        seen.file.rmdir()
    seen.site.place.write("config/namespaces.yaml", text)
    seen.becomes("healthy")


def swap_maps(root: Path, swaps: int, dice: random.Random) -> int:
    """Two files swapped as one, a SIGHUP after each swap; every reload has to be of one generation. How many were."""
    place = site(root)
    healthy = place.work("healthy")
    mount = ConfigMap(place.place.root / "config", lambda at, number: _generation(place, healthy, at, number))
    try:
        seen = Watched(place, healthy, place.place.daemon().ready())
        for _ in range(swaps):
            mount.swap()
            seen.daemon.signal(signal.SIGHUP)
            time.sleep(dice.uniform(0, 0.15))
        last = f"g{swaps}/fast"
        seen.daemon.wait_until(lambda: last in seen.daemon.lines(LOADED)[-1].get("added", []), "the last")
        assert seen.daemon.lines(REJECTED) == []
        loaded = [line for line in seen.daemon.lines(LOADED)[1:] if "added" in line]
        for line in loaded:
            assert len(generations(line, "added")) == len(generations(line, "removed")) == 1, line
        seen.stop()
        return len(loaded)
    finally:
        place.place.close()


def _generation(place: Site, healthy: Cadence, directory: Path, generation: int) -> None:
    """Both files carry it."""
    marked = place.work(f"g{generation}", every="1h")
    (directory / "namespaces.yaml").write_text(document(healthy, marked))
    (directory / "agents.yaml").write_text(
        f"agents:\n  - {{agentId: g{generation}, walletAddress: 'kaspatest:qq', status: PAUSED, "
        "callback: {command: ['true']}}\n"
    )


def generations(line: Document, change: str) -> set[str]:
    """Which generations a reload added or removed; both files of one have to be named."""
    found = [job for job in line.get(change, []) if not job.startswith("healthy")]
    names = {job.removeprefix("_agents/anon/").removesuffix("/fast") for job in found}
    assert len(found) == 2 * len(names), f"a mix: {line}"
    return names


def levels(line: Callable[[str, str], str]) -> str:
    """Nine lines, each built on the one before."""
    return "".join(line(chr(97 + n), chr(98 + n)) + "\n" for n in range(9))


BOMBS = {
    "deep_lists": "a: " + "[" * 200_000,
    "merges": "a: &a {x: 1}\n" + levels(lambda n, m: f"{m}: &{m} {{<<: [" + ", ".join([f"*{n}"] * 9) + "]}"),
    "same_keys": "namespaces:\n" + "  a: 1\n" * 900_000,
    "sparse": "",
    "deep_mappings": "{a: " * 200_000,
    "deep_blocks": "a:\n " + "- " * 2_000_000,
    "laughs": "a: &a [x, x]\n" + levels(lambda n, m: f"{m}: &{m} [" + ", ".join([f"*{n}"] * 9) + "]"),
    "recursive": "namespaces: &a [*a]",
    "copied_text": "a: &a '" + "x" * 5_000_000 + "'\nb: [" + "*a, " * 1_000 + "]",
    "wide": "a: [" + "1," * 3_000_000 + "]",
    "long": "a:\n" + "- 1\n" * 2_400_000,
    "digits": "a: " + "9" * 5_000_000,
}
SPARSE = 1 << 30


@dataclass
class Blast:
    """The worst of some bombs."""

    cpu_s: float = 0.0
    words: int = 0
    rss_kb: int = 0


def bomb(seen: Watched, names: Sequence[str], validated: int) -> Blast:
    """Each is refused by the daemon, the first `validated` by the command too; they change nothing."""
    seen.goes_on()
    before, worst = rss_kb(seen.daemon.pid), Blast()
    for number, name in enumerate(names):
        _drop(name, seen.file)
        if number < validated:
            took, said = _validate(seen)
            worst.cpu_s, worst.words = max(worst.cpu_s, took), max(worst.words, len(said))
        try:
            ask(seen.site.place, "POST", "/reload")
        except ConfigError:
            assert seen.daemon.lines(REJECTED) != []
        else:
            raise AssertionError(f"{name} was accepted")
        assert seen.health() == (200, "degraded"), name
        worst.rss_kb = max(worst.rss_kb, rss_kb(seen.daemon.pid) - before)
    assert len(seen.daemon.lines(LOADED)) == 1
    seen.site.place.write("config/namespaces.yaml", seen.good())
    seen.becomes("healthy")
    assert not any(line.keys() & {"added", "changed", "removed"} for line in seen.daemon.lines(LOADED)[1:])
    return worst


def _drop(name: str, path: Path) -> None:
    fresh = path.with_suffix(".fresh")
    with fresh.open("w") as file:
        file.write(BOMBS[name])
        if name == "sparse":
            file.truncate(SPARSE)
    fresh.replace(path)


def _validate(seen: Watched) -> tuple[float, str]:
    """CPU seconds and the words of a refusal."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = seen.site.place.cli("validate-config")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.code == os.EX_CONFIG, done.err[-2000:]
    assert "Traceback" not in done.err
    assert seen.file.name in done.err
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.err


def idle(seen: Watched, count: int) -> list[Cadence]:
    """Cadences that run at first sight, and then once in ten years."""
    return [seen.site.work(f"idle{number}", every="3653d") for number in range(count)]


def lose_most(seen: Watched, many: Sequence[Cadence], believed: Callable[[], None]) -> None:
    """All of them run once; the file loses them, which is `believed`; it gets them back: none runs again."""
    seen.site.place.write("config/namespaces.yaml", seen.good(*many))
    seen.daemon.wait_until(lambda: all(seen.site.starts(each) for each in many), "a run of each")
    loaded = len(seen.daemon.lines(LOADED))
    seen.site.place.write("config/namespaces.yaml", seen.good())
    believed()
    assert sorted(seen.daemon.wait_line(LOADED, after=loaded)["removed"]) == sorted(each.job for each in many)
    seen.goes_on()
    seen.site.place.write("config/namespaces.yaml", seen.good(*many))
    assert sorted(seen.daemon.wait_line(LOADED, after=loaded + 1)["added"]) == sorted(each.job for each in many)
    seen.goes_on()
    seen.goes_on()
    assert [len(seen.site.starts(each)) for each in many] == [1] * len(many)


@dataclass
class Storm:
    """Valid files put in place one after another, with rests in between so that some are believed."""

    writes: int = 0
    seconds: float = 0.0
    reloads: int = 0


def storm(seen: Watched, texts: Sequence[str], writes: int, seconds: float, burst_s: float = 1.5) -> Storm:
    """By rename, as fast as `writes` in `seconds` asks for, and now and then in a rest twice as fast before it."""
    found, loaded = Storm(), len(seen.daemon.lines(LOADED))
    rest_s = 1.5 * burst_s
    per_burst = max(1, round(writes * (burst_s + rest_s) / seconds))
    began = time.monotonic()
    while found.writes < writes:
        start = time.monotonic()
        for number in range(min(per_burst, writes - found.writes)):
            seen.site.place.write("config/namespaces.yaml", f"{texts[found.writes % len(texts)]}# {found.writes}\n")
            found.writes += 1
            time.sleep(max(0.0, start + number * burst_s / per_burst - time.monotonic()))
        time.sleep(rest_s)
    found.seconds = time.monotonic() - began
    seen.daemon.wait_line(LOADED, after=loaded)
    found.reloads = len(seen.daemon.lines(LOADED)) - loaded
    return found
