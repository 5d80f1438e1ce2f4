"""Commands that wait in the middle of their work until a test lets them go on, and daemons that stop meanwhile."""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import Daemon, until
from tests.support.faults import Cadence, Site, alive
from tests.support.ledger import Entry

SCRIPT = """\
#!/bin/sh
# $1 ledger  $2 fifo that it waits for  $3 deaf: it does not hear TERM
[ "$3" = deaf ] && trap '' TERM
facts="$VMSH_RUN_ID $VMSH_IDEMPOTENCY_KEY $VMSH_ATTEMPT $VMSH_FENCE_TOKEN $$"
echo "start $facts" >> "$1"
read line < "$2"
echo "goes on" && echo "goes on" >&2 && echo "end $facts" >> "$1"
"""
WIDE = "concurrency: 64\n"


@dataclass(frozen=True, slots=True)
class Crew:
    """One run of each of `cadences`, waiting at the gate."""

    site: Site
    cadences: Sequence[Cadence]

    @property
    def gate(self) -> Path:
        return self.site.place.root / "gate"

    def wait(self, daemon: Daemon) -> None:
        """Until all of them have started."""
        daemon.wait_until(lambda: len(self.started()) >= len(self.cadences), "all runs")

    def started(self) -> list[Entry]:
        return [entry for entry in self.site.entries() if entry.kind == "start"]

    @contextmanager
    def released(self) -> Iterator[None]:
        """All go on; so does whoever comes to the gate before the end."""
        fd = os.open(self.gate, os.O_RDWR)
        try:
            os.write(fd, b"\n" * 2 * len(self.cadences))
            yield
        finally:
            os.close(fd)

    def gone(self) -> bool:
        return not any(alive(entry.pid) for entry in self.started())


def crew(site: Site, count: int, *more: str, deaf: bool = False, scheduler: str = "") -> Crew:
    """Configured: `count` cadences that are due once and wait."""
    root = site.place.root
    site.place.write("wait.sh", SCRIPT)
    os.mkfifo(root / "gate")
    argv = ("/bin/sh", str(root / "wait.sh"), str(site.ledger), str(root / "gate"), "deaf" if deaf else "")
    made = [Cadence(f"crew{number}", argv, "1d", ("grace: 1s", *more)) for number in range(count)]
    site.configure(*made, scheduler=WIDE + scheduler)
    return Crew(site, made)


def kill(daemon: Daemon) -> None:
    """SIGKILL for the daemon alone; its runs live on."""
    daemon.signal(signal.SIGKILL)
    daemon.wait()


def survive(crew: Crew) -> Daemon:
    """A daemon is killed while all are waiting; the one that took them over, when all have ended."""
    first = crew.site.place.daemon()
    crew.wait(first)
    kill(first)
    second = crew.site.place.daemon()
    line = second.wait_line("runs recovered")
    assert (line["adopted"], line["unknown"]) == (len(crew.cadences), 0), line
    with crew.released():
        done = len(crew.cadences)
        second.wait_until(lambda: len(second.lines("anchor success")) == done, "the end of all")
    until(crew.gone, "nobody left")
    return second
