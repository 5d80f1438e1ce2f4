"""The jobs of one measurement, as every program is told of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from vmsh_scheduler.domain.trigger import stable_phase

YEAR_MS = 365 * 86_400_000


@dataclass(frozen=True, slots=True)
class Work:
    """One job: slots at phase + k * every, ms since the epoch."""

    id: str
    every_ms: int
    phase_ms: int
    argv: tuple[str, ...]

    def slot_of(self, at_ms: float) -> int:
        """The newest slot at or before `at_ms`."""
        return int((at_ms - self.phase_ms) // self.every_ms) * self.every_ms + self.phase_ms

    def slots(self, start_ms: float, end_ms: float) -> range:
        """Slots in [start, end)."""
        first = self.slot_of(start_ms)
        return range(first if first >= start_ms else first + self.every_ms, int(end_ms), self.every_ms)


def cyclic(count: int, stamp: Sequence[str], *, spread: bool) -> list[Work]:
    """Periods of 1 to 5 s in turn; all on whole seconds, or each shifted by the hash that `splay` uses."""
    return [_work(i, (1 + i % 5) * 1000, stamp, spread=spread) for i in range(count)]


def herd(count: int, every_ms: int, stamp: Sequence[str]) -> list[Work]:
    """All due at the same instants."""
    return [_work(i, every_ms, stamp, spread=False) for i in range(count)]


def idle(count: int, stamp: Sequence[str]) -> list[Work]:
    """Nothing due while anybody looks: of 10,000 daily ones, one would be every 9 s."""
    return [_work(i, YEAR_MS, stamp, spread=True) for i in range(count)]


def _work(index: int, every_ms: int, stamp: Sequence[str], *, spread: bool) -> Work:
    identity = f"bench:n{index}"
    phase = stable_phase(f"{identity}/fast", every_ms) if spread else 0
    return Work(identity, every_ms, phase, (*stamp, identity))


def write_plain(jobs: Sequence[Work], path: Path) -> Path:
    """For floor and APScheduler."""
    path.write_text(json.dumps({"jobs": [asdict(job) for job in jobs]}), encoding="utf-8")
    return path
