"""What every suite is given: where to work, how long, how often, and the program that jobs run."""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import stamps
from bench.programs import Site
from bench.report import Row, Values, rows_of

Measure = Callable[[], Values]


@dataclass(frozen=True, slots=True)
class Lab:
    """Options of one invocation. `secs` is the length of a timed window."""

    directory: Path
    secs: float
    rounds: int
    small: bool
    """Fewer jobs: to try the bench itself."""

    def site(self) -> tuple[Site, tuple[str, ...]]:
        """A fresh directory, and the argv that stamps into it."""
        path = Path(tempfile.mkdtemp(dir=self.directory))
        argv, _ = stamps.build(self.directory, path / "stamps")
        return Site(path, path / "stamps"), argv

    def compare(
        self, suite: str, condition: str, measures: Mapping[str, Measure], references: Sequence[str]
    ) -> list[Row]:
        """Interleaved: each round runs every program once, so that a slow minute of the machine hits all."""
        rounds: list[dict[str, Values]] = []
        for number in range(self.rounds):
            done: dict[str, Values] = {}
            for name, measure in measures.items():
                print(f"{suite}: {condition}: {name} ({number + 1}/{self.rounds})", file=sys.stderr, flush=True)
                done[name] = measure()
            rounds.append(done)
        return rows_of(suite, condition, rounds, references)
