"""How long a loop is busy without looking: `python -m tests.support.lag FILE WORD...` is `vmsh-scheduler WORD...`.

An event that comes at a random moment waits until the loop looks again. On a machine that others use too the wall
clock says more about them; so every stretch is also counted in CPU time of the whole process, which includes what
other threads of it keep the interpreter from the loop."""

import atexit
import json
import os
import selectors
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import broken
from tests.support.daemon import Place
from vmsh_scheduler.cli import start

ROOT = Path(__file__).parents[2]
WORTH_S = 0.0005
PLANTED = "PLANTED_DEFECT"


@dataclass(frozen=True, slots=True)
class Lag:
    """Stretches in seconds (those that are worth a note), and all the time that passed."""

    stretches: Sequence[float]
    total: float

    def waits_longer(self, seconds: float) -> float:
        """Share of random moments at which an event waits longer than this."""
        return sum(max(0.0, stretch - seconds) for stretch in self.stretches) / self.total

    def percentile(self, share: float) -> float:
        """All but `share` of random events are looked at within this, to a tenth of a millisecond."""
        low, high = 0.0, max(self.stretches, default=0.0)
        while high - low > 0.0001:
            middle = (low + high) / 2
            low, high = (middle, high) if self.waits_longer(middle) > share else (low, middle)
        return high


class Looks(selectors.EpollSelector):
    """Notes what lies between a look and the next one; SIGUSR1 forgets it all, for what follows to be measured."""

    wall: list[float]
    cpu: list[float]
    idle: float

    def __init__(self) -> None:
        super().__init__()
        self.forget()
        signal.signal(signal.SIGUSR1, lambda *_: self.forget())

    def forget(self) -> None:
        self.wall, self.cpu, self.idle = [], [], 0.0
        self._since = time.perf_counter(), time.process_time()

    def select(self, timeout: float | None = None) -> Any:
        now, used = time.perf_counter(), time.process_time()
        if now - self._since[0] > WORTH_S:
            self.wall.append(now - self._since[0])
            self.cpu.append(used - self._since[1])
        found = super().select(timeout)
        self._since = time.perf_counter(), time.process_time()
        self.idle += self._since[0] - now
        return found

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"wall": self.wall, "cpu": self.cpu, "idle": self.idle}))


def read(path: Path) -> tuple[Lag, Lag]:
    """By the wall clock, and in CPU time."""
    said = json.loads(path.read_text())
    total = sum(said["wall"]) + said["idle"]
    return Lag(said["wall"], total), Lag(said["cpu"], total)


def measured(place: Place, *, planted: str = "") -> Path:
    """The place's daemons are measured from now on; the file has it when one has ended. `planted`: a defect too."""
    path = place.root / "lag.json"
    place.command = (sys.executable, "-m", "tests.support.lag", path)
    place.environ |= {"PYTHONPATH": str(ROOT), PLANTED: planted}
    return path


def _watch(path: Path) -> None:
    looks: list[Looks] = []

    def selector() -> Looks:
        looks.append(Looks())
        return looks[-1]

    selectors.DefaultSelector = selector  # type: ignore[misc, assignment] # what asyncio makes its loop from
    atexit.register(lambda: looks[-1].save(path))


if __name__ == "__main__":
    _watch(Path(sys.argv.pop(1)))
    if kind := os.environ.get(PLANTED):
        broken.KINDS[kind]()
    sys.exit(start())
