"""The audit log bounded: whoever is refused cannot fill a disk by asking again."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from vmsh_scheduler.api.surface import Audited

REFUSALS = frozenset({401, 403, 429})
"""Cost whoever sends them nothing; everything else is bounded by quotas."""
LINES = 20
"""Per status and window."""
WINDOW_S = 60.0


class Timer(Protocol):
    """asyncio.TimerHandle."""

    def cancel(self) -> None: ...


Later = Callable[[float, Callable[[], None]], Timer]


def _on_loop(seconds: float, work: Callable[[], None]) -> Timer:
    return asyncio.get_running_loop().call_later(seconds, work)


class BoundedAudit:
    """Passes on the first `LINES` refusals of a status in a window, which the first of them opens; `counted` is told
    at its end how many more there were, by status, if there were any."""

    def __init__(
        self, line: Callable[[Audited], None], counted: Callable[[Mapping[int, int]], None], later: Later = _on_loop
    ) -> None:
        self._line = line
        self._counted = counted
        self._later = later
        self._seen: dict[int, int] = {}
        self._timer: Timer | None = None

    def __call__(self, call: Audited) -> None:
        if call.status not in REFUSALS:
            self._line(call)
            return
        if self._timer is None:
            self._timer = self._later(WINDOW_S, self.close)
        self._seen[call.status] = self._seen.get(call.status, 0) + 1
        if self._seen[call.status] <= LINES:
            self._line(call)

    def close(self) -> None:
        """Ends the window."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        more = {status: count - LINES for status, count in sorted(self._seen.items()) if count > LINES}
        self._seen.clear()
        if more:
            self._counted(more)
