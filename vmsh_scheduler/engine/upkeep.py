"""What has to be done now and then so that nothing grows for ever."""

from collections.abc import Collection, Mapping

from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, Millis

KEPT: Millis = 30 * DAY
"""How long the state of a job that is configured no more is kept, should it come back."""


def forgotten(states: Mapping[str, JobState], configured: Collection[str], now: Millis) -> list[str]:
    """Jobs whose state may go: not configured, nothing open, nothing happened or was planned for them for `KEPT`."""
    return [
        job_id
        for job_id, state in states.items()
        if job_id not in configured and not state.runs and not state.held and _last_seen(state) < now - KEPT
    ]


def _last_seen(state: JobState) -> Millis:
    """Until its next slot is past, a job that comes back would run the last one again."""
    planned = state.upcoming.due if state.upcoming is not None else 0
    return max(state.last_finish or 0, state.last_start or 0, state.first_seen or 0, planned)
