"""A place in which tick after tick has a system call that is its last, or that fails."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import until
from tests.support.faults import Cadence, Site, site
from tests.support.kills import KEEP_ALL, unaccounted
from tests.support.ledger import differences, gaps, violations
from tests.support.syscalls import CALLS, ROOT, Point, counted, gated, most, points, traced
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.stores.local.load import Condition

MAIN = "MainThread"
ANY = "any thread"
BESIDE = "write,fdatasync,fsync,?rename,?renameat,?renameat2,?link,?linkat,?unlink,?unlinkat"
"""What other threads than the first do to files; a child that is about to become a command does none of it."""


@dataclass
class Ticks:
    """A place in which tick after tick is killed; the first one of every process is the clean start."""

    site: Site
    cadence: Cadence

    def run(self, log: Path, options: Sequence[str]) -> int:
        """A clean tick, then one at the next slot that is traced; the exit code of the traced one."""
        environ = {
            **self.site.place.env(),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        }
        with gated("tick", cwd=self.site.place.root, env=environ) as standing:
            self.next_slot()
            with traced(standing.threads[MAIN], log, *options):
                return standing.go_on()

    def next_slot(self) -> None:
        """Before it there is nothing for a tick to do."""
        newest = self.site.starts(self.cadence)[-1].slot
        until(lambda: time.time() * SECOND >= newest + SECOND, "the next slot")

    def play(self, point: Point, *inject: str) -> int:
        """The exit code of a tick with this fault; whatever it is, the next start must find a state that was."""
        follow = ("-f", "-bexecve") if point.thread == ANY else ()
        code = self.run(self.site.place.root / "calls", (*follow, *inject))
        opened = self.site.peek()
        assert opened.condition is Condition.LOADED, (point, opened.findings)
        assert [finding for finding in opened.findings if "cut short" not in finding] == [], point
        return code

    def points(self) -> list[Point]:
        """The first thread's calls one by one; of the others', the n-th in whichever thread gets there first."""
        log = self.site.place.root / "calls"
        assert self.run(log, ("-etrace=" + ",".join(CALLS),)) == 0
        found = points(MAIN, counted(log))
        assert self.run(log, ("-f", "-bexecve", f"-etrace={BESIDE}")) == 0
        return [*found, *points(ANY, most(log))]

    def wrong(self) -> list[str]:
        """A last clean tick, and whatever the books and the commands do not agree on."""
        self.site.place.cli("tick").ok()
        entries, books = self.site.entries(), self.site.books()
        found = [*violations(entries), *differences(entries, books), *unaccounted(entries, books)]
        return found + gaps(books, {self.cadence.job: SECOND})


def ticks(root: Path) -> Ticks:
    place = site(root)
    made = Ticks(place, place.work("quick"))
    place.configure(made.cadence, scheduler=KEEP_ALL)
    return made
