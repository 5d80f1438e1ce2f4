"""A circuit breaker: whoever fails on and on is left alone for a while, then asked once."""

from collections.abc import Callable

FAILURES = 5
WAIT_MS = 5_000


class Breaker:
    """Closed -> open after `failures` in a row -> half-open after `wait_ms`: one probe decides. Time is injected."""

    def __init__(self, elapsed: Callable[[], int], *, failures: int = FAILURES, wait_ms: int = WAIT_MS) -> None:
        self._elapsed = elapsed
        self._most = failures
        self._wait_ms = wait_ms
        self._failures = 0
        self._opened_at = 0
        self._era = 0
        self._open = False
        self._probing = False
        self.last_error = ""
        """Why it opened, or what failed last: what a refused caller is told."""

    @property
    def state(self) -> str:
        """`closed`, `open` or `half-open`."""
        if not self._open:
            return "closed"
        return "half-open" if self._elapsed() - self._opened_at >= self._wait_ms else "open"

    def admit(self) -> int | None:
        """A ticket to settle the call with, None if it must not be made."""
        state = self.state
        if state == "open" or self._probing:
            return None
        self._probing = state == "half-open"
        return self._era

    def succeeded(self, ticket: int) -> None:
        """Any answer that shows the other side to be well."""
        if ticket != self._era:
            return
        self._failures = 0
        if self._open:
            self._turn(opened=False)

    def failed(self, ticket: int, error: str) -> None:
        """One more in a row, or a probe without luck: then the wait begins anew."""
        if ticket != self._era:
            return
        self.last_error = error
        self._failures += 1
        if self._open or self._failures >= self._most:
            self._turn(opened=True)

    def abandoned(self, ticket: int) -> None:
        """The call was given up and proves nothing: if it was the probe, the next one may be it."""
        if ticket == self._era:
            self._probing = False

    def _turn(self, *, opened: bool) -> None:
        """Calls that began in an earlier era say nothing about this one: their tickets are void from here."""
        self._era += 1
        self._open = opened
        self._probing = False
        self._opened_at = self._elapsed()
