"""What the passes over each target's open anchors found last: how many, how old, how long until they were final."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Execution, Status
from vmsh_scheduler.domain.shape import whole
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.observe.histogram import Histogram
from vmsh_scheduler.observe.snapshot import AttestationSample

FINAL_BOUNDS = (60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0, 14_400.0, 28_800.0, 86_400.0, 172_800.0)
OPEN = ("signed", "submitted", "verified", "reorged")
PHASES = ("signed", "submitted", "verified", "final", "reorged", "lost", "faulty")


class Standing(NamedTuple):
    """One target after its last good pass."""

    phases: Mapping[str, int]
    opened_at: Millis | None
    """When the oldest open one was signed; None = none is open."""
    overdue: int


@dataclass(slots=True)
class Attestations:
    """Fed with the results of `confirm`; what is no number where one belongs is left out."""

    standing: dict[str, Standing] = field(default_factory=dict)
    final: dict[str, Histogram] = field(default_factory=dict)
    reorgs: dict[str, int] = field(default_factory=dict)

    def passed(self, job: Job, execution: Execution) -> None:
        """A pass of `confirm` ended. One that failed may know all the same what its book holds."""
        target, result = job.labels["confirms"], execution.outcome.result
        self.reorgs.setdefault(target, 0)
        self._changed(target, result)
        phases, overdue = result.get("phases"), result.get("overdue")
        if not isinstance(phases, Mapping):
            return
        counts = {name: whole(phases.get(name)) for name in PHASES}
        age = whole(result.get("oldest_open_s")) * SECOND
        opened = execution.finished_at - age if whole(result.get("open")) else None
        late = whole(result.get("late")) or (len(overdue) if isinstance(overdue, list) else 0)
        self.standing[target] = Standing(counts, opened, late)

    def anchored(self, job: Job, execution: Execution) -> None:
        """An anchor run ended; where blocks are fast, its anchor may be final already."""
        if execution.outcome.status is Status.OK and "target" in job.labels and "phase" in execution.outcome.result:
            self._changed(job.labels["target"], execution.outcome.result)

    def keep(self, targets: frozenset[str]) -> None:
        """The others are configured no more."""
        for known in (self.standing, self.final, self.reorgs):
            for gone in known.keys() - targets:
                del known[gone]

    def taken(self, now: Millis) -> tuple[AttestationSample, ...]:
        """For a scrape."""
        return tuple(
            AttestationSample(
                target,
                each.phases,
                max(0, now - each.opened_at) / SECOND if each.opened_at is not None else 0.0,
                each.overdue,
                self.reorgs.get(target, 0),
                self.final.get(target),
            )
            for target, each in self.standing.items()
        )

    def view(self, now: Millis) -> dict[str, dict[str, int]]:
        """For /health, by target: nothing a stranger may not read."""
        return {
            sample.target: {
                "open": sum(sample.phases.get(phase, 0) for phase in OPEN),
                "oldestOpenS": int(sample.oldest_s),
                "final": sample.phases.get("final", 0),
                "faulty": sample.phases.get("faulty", 0),
                "overdue": sample.overdue,
            }
            for sample in self.taken(now)
        }

    def _changed(self, target: str, result: Mapping[str, object]) -> None:
        changed, unlisted = result.get("changed"), result.get("unlisted")
        for moved in changed if isinstance(changed, list) else ():
            if isinstance(moved, Mapping):
                self._moved(target, moved)
        if isinstance(unlisted, Mapping):
            self._reorged(target, whole(unlisted.get("reorged")))
            self._final(target, whole(unlisted.get("final_s")), whole(unlisted.get("final")))

    def _moved(self, target: str, moved: Mapping[str, object]) -> None:
        if moved.get("now") == "reorged" and moved.get("was") != "reorged":
            self._reorged(target, 1)
        if moved.get("now") == "final" and moved.get("was") != "final":
            self._final(target, whole(moved.get("seconds")), 1)

    def _reorged(self, target: str, count: int) -> None:
        self.reorgs[target] = self.reorgs.get(target, 0) + count

    def _final(self, target: str, seconds: int, count: int) -> None:
        """`seconds`: all together. Of several nothing but their mean is known."""
        if count:
            self.final.setdefault(target, Histogram(FINAL_BOUNDS)).observe(seconds / count, count)
