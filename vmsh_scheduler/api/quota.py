"""How often one principal may ask, in fixed windows."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vmsh_scheduler.domain.trigger import Millis

MOST_PRINCIPALS = 5_000


class Refusal(NamedTuple):
    """The quota is used up until the window ends."""

    limit: int
    retry_after_s: int


class Quotas:
    """Every attempt counts, refused ones too; `limits` by bucket, a bucket without one is free.

    Windows are floor(now / window) as in the original (auth.mjs), so that instances agree on them."""

    def __init__(self, window_ms: Millis, limits: Mapping[str, int], now: Callable[[], Millis]) -> None:
        self._window_ms = window_ms
        self._limits = dict(limits)
        self._now = now
        self._counts: OrderedDict[str, tuple[int, dict[str, int]]] = OrderedDict()
        """By subject its last window and the attempts in it; the oldest window first."""

    def __len__(self) -> int:
        """How many principals are remembered."""
        return len(self._counts)

    def hit(self, sub: str, bucket: str) -> Refusal | None:
        """Counts one attempt; None: go on."""
        limit = self._limits.get(bucket)
        if limit is None:
            return None
        window, into = divmod(self._now(), self._window_ms)
        counts = self._of(sub, window)
        counts[bucket] = counts.get(bucket, 0) + 1
        return Refusal(limit, -((into - self._window_ms) // 1000)) if counts[bucket] > limit else None

    def _of(self, sub: str, window: int) -> dict[str, int]:
        """A new window moves its subject to the end, which keeps the order."""
        known = self._counts.get(sub)
        if known is not None and known[0] == window:
            return known[1]
        fresh: dict[str, int] = {}
        self._counts[sub] = (window, fresh)
        self._counts.move_to_end(sub)
        if len(self._counts) > MOST_PRINCIPALS:
            self._counts.popitem(last=False)
        return fresh
