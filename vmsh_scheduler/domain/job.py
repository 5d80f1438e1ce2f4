"""What is scheduled. A Job is compiled from a source and never stored."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vmsh_scheduler.domain.action import Action
from vmsh_scheduler.domain.retry import Retry
from vmsh_scheduler.domain.trigger import Millis, Trigger

AGENT_PREFIX = "_agents/"
"""Of the ids of agents' cycles; no namespace begins with `_`."""


class Origin(Enum):
    """Where a job's document lives."""

    FILE = "file"
    API = "api"
    SYSTEM = "system"


class Overlap(Enum):
    """What a slot does that comes due while a run of the same job is not over."""

    SKIP = "skip"
    WAIT = "wait"
    ALLOW = "allow"


class CatchUp(Enum):
    """Which of several slots that passed undecided is run."""

    ONCE = "once"
    SKIP = "skip"
    ALL = "all"


class OnUnknown(Enum):
    """What to do with a run whose end nobody saw."""

    RETRY = "retry"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Policy:
    """How a job is treated; defaults belong to each source."""

    retry: Retry
    timeout: Millis
    misfire_grace: Millis
    """Slots older than this are not run any more."""
    overlap: Overlap = Overlap.SKIP
    catch_up: CatchUp = CatchUp.ONCE
    on_unknown: OnUnknown = OnUnknown.RETRY
    crash_exact: bool = False
    """The outcome survives the daemon's death (run record); its intent is durable before it starts."""
    priority: int = 2
    """Lower goes first when permits are short."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What a job's runs are about and where that is found; None on a Job means: nothing."""

    kind: str
    """"batches": the pending batches of `namespace`; "seal": the same after sealing `files` first; "journal": after
    sealing the heads of the journal `base`; "open": what is not final yet at `target`."""
    namespace: str
    directory: str
    """Where batch files live."""
    files: tuple[str, ...] = ()
    """Globs to seal."""
    base: str = "."
    """What the globs are relative to."""
    target: str = ""
    """Where it goes; what counts as covered, counts per target."""
    reanchor: bool = False
    """Run again though nothing changed."""

    @property
    def seals(self) -> bool:
        """Its batches are its own: those of nobody are not for it."""
        return self.kind in ("seal", "journal")


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to run: when (trigger), what (action), how (policy), about what (subject)."""

    id: str
    name: str
    lane: str
    """Runs of one lane never overlap."""
    trigger: Trigger
    action: Action
    policy: Policy
    revision: str
    """Hash of trigger, action, policy and subject: a job with another one is planned anew."""
    origin: Origin = Origin.FILE
    subject: Subject | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """namespace, cadence, target (anchors); user, agent (agents)."""
    enabled: bool = True
    pool: str = ""
    """Whose permits its runs take (engine.Bounds)."""
    share: str = ""
    """Within a pool, those who wait take turns by share: nobody's thousands keep another's five waiting."""
    host: str = ""
    """Where its runs go, "" = nowhere in particular: within a pool, no host gets all permits while there are others."""
