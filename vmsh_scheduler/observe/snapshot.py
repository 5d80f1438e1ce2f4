"""What one scrape shows: copied from the live numbers, so that it can be rendered beside the loop."""

from collections.abc import Mapping
from typing import NamedTuple

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.observe.histogram import Histogram

AGENTS = "_agents"
"""All agents' delays are one series under this namespace name; no configured one may begin with `_`."""


class CadenceSample(NamedTuple):
    """One configured cadence; its counts come from its state, so they go on after a restart."""

    namespace: str
    cadence: str
    target: str
    attempted: int
    succeeded: int
    failed: int
    backoff: int
    last_success: Millis | None
    period: Millis
    durations: Mapping[str, Histogram]
    """By status success | failure; only what was observed."""
    delay: Histogram | None


class AttestationSample(NamedTuple):
    """One target whose anchors take their time."""

    target: str
    phases: Mapping[str, int]
    oldest_s: float
    overdue: int
    reorgs: int
    final: Histogram | None


class Snapshot(NamedTuple):
    """Every number of a scrape."""

    at: Millis
    build: Mapping[str, str]
    cadences: tuple[CadenceSample, ...]
    agents_delay: Histogram | None
    agents: int
    last_tick: Millis | None
    running: int
    held: int
    paused: int
    ready: int
    decisions: Mapping[tuple[str, str], int]
    runs: Mapping[str, int]
    recovered: Mapping[str, int]
    reloads: Mapping[str, int]
    last_reload: Millis | None
    config_valid: bool
    write_errors: int
    writes: int
    write_seconds: float
    clock_steps: int
    troubles: Mapping[str, int]
    log_lines_dropped: int
    attestations: tuple[AttestationSample, ...] = ()
