"""Limits of one engine."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmsh_scheduler.domain.trigger import SECOND, Millis


@dataclass(frozen=True, slots=True)
class Pool:
    """Permits of their own, and how many may wait for them."""

    concurrency: int
    capacity: int

    @property
    def to_one_host(self) -> int:
        """Permits that runs at one host may have while jobs of others are enabled: a quarter is left, at least one."""
        return max(1, self.concurrency - max(1, self.concurrency // 4))


@dataclass(frozen=True, slots=True)
class Bounds:
    """The pool of commands has no name and no end to who may wait."""

    concurrency: int = 8
    pools: Mapping[str, Pool] = field(default_factory=dict)
    nap: Millis = 10 * SECOND
    """The longest sleep, and the heartbeat behind lastTick."""

    def permits(self) -> dict[str, int]:
        return {"": self.concurrency} | {name: pool.concurrency for name, pool in self.pools.items()}
