"""How many may be connected, and who goes when there are more."""

from dataclasses import dataclass, field
from typing import Protocol

from vmsh_scheduler.api.head import HeadRules


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one listener; times in seconds."""

    rules: HeadRules = field(default_factory=HeadRules)
    connections: int = 256
    head_s: float = 3.0
    body_s: float = 10.0
    exchange_s: float | None = 10.0
    """From a whole head to the last byte of the answer; None: as long as it takes."""
    spared_s: float = 0.25
    """How long an exchange is safe from newcomers when every place is taken."""
    owner_only: bool = False
    """Unix socket: only our own user and root may talk."""


class Peer(Protocol):
    """Somebody who takes up a place."""

    def drop(self) -> None:
        """End it at once; whoever drops it has taken its place away already."""


class Gate:
    """Counts a listener's connections; when full, one that only takes up room goes: the oldest that is owed no answer,
    else the oldest that has not taken its answer within `spared_s`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._owed_nothing: dict[Peer, None] = {}
        self._answering: dict[Peer, float] = {}

    def enter(self, peer: Peer, now: float) -> bool:
        """False: no place, and nobody who could go."""
        if len(self._owed_nothing) + len(self._answering) >= self.limits.connections and not self._evict(now):
            return False
        self._owed_nothing[peer] = None
        return True

    def owe(self, peer: Peer, answering: Peer, now: float) -> None:
        """`peer` has sent a whole good request; `answering` has its place from here on."""
        del self._owed_nothing[peer]
        self._answering[answering] = now

    def leave(self, peer: Peer) -> None:
        self._owed_nothing.pop(peer, None)
        self._answering.pop(peer, None)

    def close(self) -> None:
        """Whoever is owed nothing goes at once; the others get a grace."""
        for peer in tuple(self._owed_nothing):
            self.leave(peer)
            peer.drop()

    def _evict(self, now: float) -> bool:
        oldest = next(iter(self._owed_nothing), None) or self._slowest(now)
        if oldest is None:
            return False
        self.leave(oldest)
        oldest.drop()
        return True

    def _slowest(self, now: float) -> Peer | None:
        peer, since = next(iter(self._answering.items()), (None, now))
        slow = self.limits.exchange_s is not None and now - since > self.limits.spared_s
        return peer if slow else None
