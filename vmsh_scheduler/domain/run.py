"""One start of a job and what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.trigger import Millis


class Cause(Enum):
    """Why a run starts."""

    SCHEDULE = "schedule"
    RETRY = "retry"
    MANUAL = "manual"
    CATCH_UP = "catch_up"
    NEW_ROOT = "new_root"


class Status(Enum):
    """How a run ended."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """Nobody saw the end; never folded into ok or failed."""
    SUPERSEDED = "superseded"
    """Its slot was given up because what it was about changed."""
    SKIPPED = "skipped"
    """The run itself found that there was nothing to do."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a run is about, as found when it starts: for anchors a batch."""

    id: str
    digest: str
    """Root as "sha256:<hex>"; equal digest = unchanged."""
    covers: str = ""
    """Order key of the newest thing covered: nothing at or below it is pending any more."""
    details: Mapping[str, object] = field(default_factory=dict)
    """For the command: `file`, `count`, ... (JSON values)."""
    target: str = ""
    """Where it goes."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """There is nothing to run about, and why: `no_batch`, `unchanged`, or a failure to look."""

    reason: str
    message: str = ""
    failed: bool = False
    """True: looking itself failed; counts as a failed attempt (validation)."""


@dataclass(frozen=True, slots=True)
class Run:
    """One start of a job for one slot. Idempotency key = job/slot: the same for all attempts of a slot."""

    id: str
    job_id: str
    slot: Millis
    cause: Cause
    attempt: int
    fence: int
    started_at: Millis
    deadline: Millis
    boot_id: str = ""
    recorded: bool = False
    """A run record says how it ended even if the daemon dies (crash_exact when it began)."""
    found: Found | None = None
    previous: str = ""
    """Status of the attempt before, or ""; goes to the command as VMSH_PREVIOUS_OUTCOME."""

    @property
    def key(self) -> str:
        return f"{self.job_id}/{self.slot}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt gave. Executors return it; they do not raise."""

    status: Status
    error: ErrorClass | None = None
    code: str = ""
    """Short and closed: exit, signal, timeout, spawn_error, cancelled, resources, bad_result, lost ..."""
    message: str = ""
    exit_code: int | None = None
    output: str = ""
    """Head and tail of stdout and stderr, secrets masked."""
    output_bytes: int = 0
    result: Mapping[str, object] = field(default_factory=dict)
    """Last JSON object line of stdout."""
    flags: tuple[str, ...] = ()
    """left_background, truncated, recovered, adopted ..."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One row of history: a run, its outcome, and when it ended."""

    run: Run
    outcome: Outcome
    finished_at: Millis
    worker: str = ""
    start_delay: Millis = 0
    """From due (slot or retry instant) to start."""


class Trace(Enum):
    """What is left of a run that was open when the daemon died."""

    NEVER_BEGAN = "never_began"
    RUNNING = "running"
    FINISHED = "finished"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What an executor found out about an open run; `outcome` when FINISHED."""

    trace: Trace
    outcome: Outcome | None = None
