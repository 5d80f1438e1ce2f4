"""How often one principal may ask, in fixed windows."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.ports import Counters

MOST_PRINCIPALS = 5_000
SPARED_S = 1.0
"""How long counters that did not answer are left alone: requests that come meanwhile do not wait for them."""


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
        if bucket not in self._limits:
            return None
        window, into = divmod(self._now(), self._window_ms)
        counts = self._of(sub, window)
        counts[bucket] = counts.get(bucket, 0) + 1
        return self._judged(bucket, counts[bucket], into)

    async def spend(self, sub: str, bucket: str) -> Refusal | None:
        """The same, for who may have to ask somebody."""
        return self.hit(sub, bucket)

    def _judged(self, bucket: str, count: int, into: Millis) -> Refusal | None:
        limit = self._limits[bucket]
        return Refusal(limit, -((into - self._window_ms) // 1000)) if count > limit else None

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


class SharedQuotas(Quotas):
    """One quota over all instances (forge-os section 4). Every attempt is counted here too: while the shared counters
    do not answer, what this instance saw itself decides."""

    def __init__(
        self, window_ms: Millis, limits: Mapping[str, int], now: Callable[[], Millis], counters: Counters
    ) -> None:
        super().__init__(window_ms, limits, now)
        self._counters = counters
        self._spared_until = 0.0

    async def spend(self, sub: str, bucket: str) -> Refusal | None:
        here = self.hit(sub, bucket)
        clock = asyncio.get_running_loop().time
        if bucket not in self._limits or clock() < self._spared_until:
            return here
        window, into = divmod(self._now(), self._window_ms)
        try:
            count = await self._counters.hit(f"{sub}:{bucket}", window, self._window_ms)
        except StoreDown:
            self._spared_until = clock() + SPARED_S
            return here
        return self._judged(bucket, count, into)
