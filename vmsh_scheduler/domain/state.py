"""What happened to a job so far. Only domain.plan makes new ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

from vmsh_scheduler.domain.run import Run
from vmsh_scheduler.domain.trigger import Millis, Next


@dataclass(frozen=True, slots=True)
class Pause:
    """Held by a person: no slot fires until `until` (None: until resumed)."""

    at: Millis
    until: Millis | None = None
    note: str = ""
    by: str = ""


NO_RESULT: Mapping[str, object] = MappingProxyType({})


class JobState(NamedTuple):
    """Everything a store keeps for a job; plain JSON values only (domain.codec).

    A tuple, because each run makes half a dozen of them: `_replace` costs a fifth of `dataclasses.replace`."""

    revision: str = ""
    first_seen: Millis | None = None
    upcoming: Next | None = None
    """The next undecided slot."""
    slot: Millis | None = None
    """The open slot: decided to fire, not finished yet. Closed by success, by giving up, or superseded."""
    ready_at: Millis | None = None
    """When the open slot's next attempt may start."""
    attempt: int = 0
    """Attempts begun for the open slot."""
    cause: str = ""
    """Why the open slot fired (domain.run.Cause)."""
    fired: bool = False
    """The open slot's decision is written: attempts after this one add none."""
    level: int = 0
    """Failures in a row, uncapped: backoff, health, gauge."""
    runs: tuple[Run, ...] = ()
    """Begun and not settled: the intents."""
    newest_slot: Millis | None = None
    """No slot at or below this one runs any more (decision 2)."""
    held: Run | None = None
    """The unknown run that waits for `resolve`."""
    pause: Pause | None = None
    last_start: Millis | None = None
    last_finish: Millis | None = None
    """Also of a slot that was turned away before it began."""
    last_success: Millis | None = None
    last_status: str = ""
    last_error: str = ""
    error_class: str = ""
    started: int = 0
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0
    mean_ms: float = 0.0
    found_id: str = ""
    """Subject of the last success."""
    found_digest: str = ""
    covers: str = ""
    covered_for: str = ""
    """Target of the last success: what was covered there says nothing about another one."""
    open_digest: str = ""
    """Subject digest of the open slot's attempts so far."""
    result: Mapping[str, object] = NO_RESULT
    """What the last successful run reported (its attestation)."""

    @property
    def under_way(self) -> bool:
        """The open slot itself has begun: with `overlap: allow` the runs of others may go on beside it."""
        return any(run.slot == self.slot for run in self.runs)

    def without(self, run: Run) -> "JobState":
        """Its intent is settled."""
        return self._replace(runs=tuple(known for known in self.runs if known.id != run.id))
