"""What the engine tells the outside while it works; observe/ turns it into metrics and log lines."""

from dataclasses import dataclass, field

from vmsh_scheduler.domain.decision import Decision
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Execution, Run
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis


@dataclass(frozen=True, slots=True)
class Decided:
    """Acknowledged: the decision is in the log of changes."""

    job: Job
    decision: Decision


@dataclass(frozen=True, slots=True)
class Queued:
    """A slot waits for a permit of its pool from now on."""

    at: Millis
    job: Job


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Too many wait already; the slot is tried again a little later."""

    at: Millis
    job: Job


@dataclass(frozen=True, slots=True)
class Started:
    """The process of a run was started."""

    job: Job
    run: Run
    start_delay: Millis


@dataclass(frozen=True, slots=True)
class Finished:
    """Acknowledged: a run's outcome is durable."""

    job: Job
    execution: Execution
    state: JobState
    retry_at: Millis | None = None


@dataclass(frozen=True, slots=True)
class Ticked:
    """One look at the agenda is over."""

    at: Millis
    started: int
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class Synced:
    """A job set took effect; ids of what changed."""

    at: Millis
    config_hash: str
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ConfigRejected:
    """A configuration was refused; the last good one stays. `problems`: file:line:col: path: message."""

    at: Millis
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClockStepped:
    """The wall clock moved against elapsed time by `by` ms (also: the machine slept)."""

    at: Millis
    by: Millis


@dataclass(frozen=True, slots=True)
class StateFailed:
    """A change could not be written; nothing starts until one can."""

    at: Millis
    error: str


@dataclass(frozen=True, slots=True)
class StateRestored:
    """Writing works again."""

    at: Millis


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of the runs that were open when the last daemon died."""

    at: Millis
    finished: int = 0
    never_began: int = 0
    adopted: int = 0
    unknown: int = 0
    pending: int = 0
    """Not known, or not written, when this was told: their end is told as that of any run."""


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """This instance leads from now on, under this fence."""

    at: Millis
    instance: str
    fence: int


@dataclass(frozen=True, slots=True)
class Trouble:
    """Something worth a log line and a counter that is none of the above."""

    at: Millis
    what: str
    details: dict[str, object] = field(default_factory=dict)


Event = (
    Decided
    | Queued
    | TurnedAway
    | Started
    | Finished
    | Ticked
    | Synced
    | ConfigRejected
    | ClockStepped
    | StateFailed
    | StateRestored
    | Recovered
    | LeaderChanged
    | Trouble
)
