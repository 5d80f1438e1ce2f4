"""A daemon that is killed again and again at random moments, and what has to be true of its books afterwards."""

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from tests.support.daemon import Daemon
from tests.support.faults import Cadence, Site, site
from tests.support.ledger import Books, Entry, differences, gaps, slots_of, violations
from vmsh_scheduler.domain.decision import Verdict
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.stores.local.load import Condition

WINDOW_S = 0.4
WHOLE_BOOT = 5
"""In every fifth round the moment may lie anywhere in the start, before the daemon is ready too."""
BOOT_S = 0.5
COUNTED = ("recovered", "never_began", "adopted", "unknown")
KEEP_ALL = "retention_rows: 1000000\n"
UP = "namespaces config loaded"


@dataclass
class Rounds:
    """What was seen while the daemon was killed again and again."""

    site: Site
    dice: random.Random
    recovered: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTED, 0))
    boots: list[float] = field(default_factory=list)
    """Seconds from the start of the process until its jobs are planned and its open runs are known."""
    open_before: int = 0
    said: int = 0
    runs: int = 0

    def play(self, number: int) -> None:
        began = time.time()
        daemon = self.site.place.daemon()
        anywhere = number % WHOLE_BOOT == 0
        if not anywhere:
            up = datetime.fromisoformat(daemon.wait_line(UP)["time"])
            self.boots.append(up.timestamp() - began)
        # The random moment is the fault itself.
        time.sleep(self.dice.uniform(0, BOOT_S + WINDOW_S if anywhere else WINDOW_S))
        crash(daemon)
        self.count(daemon)
        self.inspect(number)
        self.site.place.started.remove(daemon)

    def count(self, daemon: Daemon) -> None:
        """A start that said what it recovered must have found exactly the runs that were open."""
        for line in daemon.lines("runs recovered"):
            assert sum(line[name] for name in COUNTED) == self.open_before, line
            self.said += 1
            for name in COUNTED:
                self.recovered[name] += line[name]

    def inspect(self, number: int) -> None:
        opened = self.site.peek()
        whole = opened.condition is Condition.LOADED or (opened.condition is Condition.FRESH and number == 0)
        assert whole, f"round {number}: {opened.condition}: {opened.findings}"
        torn = [finding for finding in opened.findings if "cut short" not in finding]
        assert not torn, f"round {number}: {torn}"
        self.open_before = sum(len(state.runs) for state in opened.states.values())

    def finish(self, number: int) -> None:
        """A clean run: everything open is settled, something new is started, and nothing is left at the end."""
        daemon = self.site.place.daemon().ready()
        before = len(self.site.entries())
        daemon.wait_until(lambda: len(self.site.entries()) > before + 6, "new runs")
        daemon.stop()
        self.count(daemon)
        self.inspect(number)
        assert self.open_before == 0


def crash(daemon: Daemon) -> None:
    """SIGKILL to the daemon alone: its commands live on."""
    os.kill(daemon.pid, signal.SIGKILL)
    daemon.wait()


def cadences(site: Site) -> list[Cadence]:
    """Spread over the second by their splay, quick and slow, one that outlives the next start, one that fails
    its first attempt of every slot."""
    spread = "splay: 1s"
    return [
        site.work("quick"),
        site.work("spread", spread),
        site.work("another", spread),
        site.work("slow", spread, seconds=0.3),
        site.work("slower", "overlap: wait", seconds=0.7),
        site.work("long", "overlap: wait", seconds=2.5),
        site.work("shaky", spread, "retry: {base: 100ms}", failing=1),
    ]


def killed(root: Path, rounds: int, seed: int) -> Rounds:
    """So many rounds in a directory of their own, a clean end, and every check of the books."""
    place = site(root)
    jobs = cadences(place)
    place.configure(*jobs, scheduler=KEEP_ALL)
    played = Rounds(place, random.Random(seed))
    try:
        for number in range(rounds):
            played.play(number)
        played.finish(rounds)
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error
    finally:
        place.place.close()
    check(place, jobs)
    played.runs = sum(entry.kind == "start" for entry in place.entries())
    return played


def check(place: Site, jobs: Sequence[Cadence]) -> None:
    entries, books = place.entries(), place.books()
    assert violations(entries) == []
    assert differences(entries, books) == []
    assert unaccounted(entries, books) == []
    assert gaps(books, {cadence.job: SECOND for cadence in jobs}) == []
    assert {entry.job for entry in entries if entry.kind == "end"} == {cadence.job for cadence in jobs}
    verified = place.place.cli("history", "--verify", "--json").ok()
    assert verified.json == {"findings": [], "ok": True}


def unaccounted(entries: Sequence[Entry], books: Books) -> list[str]:
    """Starts that the journal does not know, and slots that it says were started and nobody saw."""
    return [*_starts_unknown(entries, books), *_slots_unseen(entries, books)]


def _starts_unknown(entries: Sequence[Entry], books: Books) -> Iterator[str]:
    ended = Counter(execution.run.id for execution in books.executions)
    fired = {f"{d.job_id}/{slot}" for d in books.decisions if d.verdict is Verdict.FIRED for slot in slots_of(d)}
    for entry in entries:
        if entry.kind == "start" and ended[entry.run] != 1:
            yield f"{ended[entry.run]} executions of {entry}"
        if entry.kind == "start" and entry.key not in fired:
            yield f"no decision fired {entry}"


def _slots_unseen(entries: Sequence[Entry], books: Books) -> Iterator[str]:
    seen = {entry.key for entry in entries if entry.kind == "start"}
    for decision in books.decisions:
        for slot in slots_of(decision) if decision.verdict is Verdict.FIRED else ():
            if f"{decision.job_id}/{slot}" not in seen:
                yield f"{decision.job_id}/{slot} was fired and its command never ran"
