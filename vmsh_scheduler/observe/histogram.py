"""A Prometheus histogram as two numbers and a list: nothing of prometheus_client is touched per run."""

from bisect import bisect_left
from itertools import accumulate


class Histogram:
    """Counts of observations by upper bound; `bounds` ascending, in the unit of what is observed."""

    __slots__ = ("_counts", "bounds", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.total = 0.0
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, the last one +Inf, as prometheus_client wants them."""
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, map(float, accumulate(self._counts)), strict=True))
