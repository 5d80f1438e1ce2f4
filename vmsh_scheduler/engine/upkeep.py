"""What has to be done now and then so that nothing grows for ever."""

from collections.abc import Collection, Mapping

from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, Millis

KEPT: Millis = 30 * DAY
"""At least so long is the state of a job kept that is configured no more, should it come back."""


MOST_KEPT = 10_000
"""So many are kept for ever: the clock that says how long ago it was may be wrong, and what then comes back would run
its last slot again."""


def forgotten(
    states: Mapping[str, JobState], configured: Collection[str], now: Millis, *, most: int = MOST_KEPT
) -> list[str]:
    """Jobs whose state may go: not configured, nothing open, nothing happened or was planned for them for `KEPT`, and
    `most` others were seen later."""
    idle = [id for id, state in states.items() if id not in configured and not state.runs and not state.held]
    idle.sort(key=lambda id: _last_seen(states[id]))
    return [id for id in idle[: max(0, len(idle) - most)] if _last_seen(states[id]) < now - KEPT]


def _last_seen(state: JobState) -> Millis:
    """Until its next slot is past, a job that comes back would run the last one again."""
    planned = state.upcoming.due if state.upcoming is not None else 0
    return max(state.last_finish or 0, state.last_start or 0, state.first_seen or 0, planned)
