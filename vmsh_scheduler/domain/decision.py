"""Why a slot ran or did not: one record per due slot, with a reason from a closed list."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis


class Verdict(Enum):
    """What became of a due slot."""

    FIRED = "fired"
    SKIPPED = "skipped"
    DEFERRED = "deferred"
    MISSED = "missed"
    SUPERSEDED = "superseded"


class Reason(Enum):
    """Why. Every one is explained in docs/decisions.md; adding one is a change of contract."""

    DUE = "due"
    FIRST_SIGHT = "first_sight"
    CATCH_UP = "catch_up"
    MANUAL = "manual"
    NEW_ROOT = "new_root"
    PAUSED = "paused"
    DISABLED = "disabled"
    OVERLAP = "overlap"
    CAPACITY = "capacity"
    BACKOFF = "backoff"
    HELD = "held"
    NO_BATCH = "no_batch"
    UNCHANGED = "unchanged"
    NOT_CONFIGURED = "not_configured"
    KILL_SWITCH = "kill_switch"
    WINDOW = "window"
    LIMIT = "limit"
    COALESCED = "coalesced"
    STATE_LOST = "state_lost"


@dataclass(frozen=True, slots=True)
class Decision:
    """`count` slots ending at `slot`, `step` ms apart, all decided alike at `at`."""

    job_id: str
    slot: Millis
    verdict: Verdict
    reason: Reason
    at: Millis
    count: int = 1
    step: Millis = 0
    run_id: str = ""
    inputs: Mapping[str, object] = field(default_factory=dict)
    """What led to it: revision, level, attempt, config, fence, clock, late_ms ..."""


def inputs_of(state: JobState) -> dict[str, object]:
    """What of the state led to a decision, for the record."""
    inputs: dict[str, object] = {"revision": state.revision}
    if state.level:
        inputs["level"] = state.level
    if state.slot is not None:
        inputs["open_slot"] = state.slot
    if state.ready_at is not None:
        inputs["ready_at"] = state.ready_at
    return inputs


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is no slot but belongs into the journal: clock_step, pause, resume, resolve, config ..."""

    kind: str
    at: Millis
    job_id: str = ""
    details: Mapping[str, object] = field(default_factory=dict)
