"""How long to wait after a failure, by class of error."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from vmsh_scheduler.domain.trigger import SECOND, Millis

PHI = 1.618033988749895


class ErrorClass(Enum):
    """Why a run failed, as far as waiting is concerned (spec vaultmesh section 9)."""

    NETWORK = "network"
    AUTH = "auth"
    VALIDATION = "validation"
    UNKNOWN = "unknown"


MULTIPLIERS: Mapping[ErrorClass, float] = {
    ErrorClass.NETWORK: 1.0,
    ErrorClass.AUTH: 2.0,
    ErrorClass.VALIDATION: 0.5,
    ErrorClass.UNKNOWN: 1.0,
}


@dataclass(frozen=True, slots=True)
class PhiBackoff:
    """base * phi^k * multiplier, k capped, for ever (spec vaultmesh section 8: to the second)."""

    base_s: float = 5.0
    cap: int = 7
    multipliers: Mapping[ErrorClass, float] = field(default_factory=lambda: MULTIPLIERS)
    jitter: float = 0.0
    """At most this share of the wait is added, by the slot's own hash: a restart does not roll again."""

    def delay(self, attempt: int, level: int, error: ErrorClass) -> Millis | None:
        return self._at(level, self.multipliers.get(error, 1.0))

    def longest(self) -> Millis:
        return int(self._at(self.cap, max(self.multipliers.values(), default=1.0)) * (1 + self.jitter))

    def _at(self, level: int, multiplier: float) -> Millis:
        seconds: float = self.base_s * PHI ** min(level, self.cap) * multiplier
        return int(seconds + 0.5) * SECOND if seconds >= 1 else int(seconds * SECOND)


@dataclass(frozen=True, slots=True)
class FlatRetry:
    """The same wait after every failure, for ever (spec forge-os section 6: min(interval, 5 s))."""

    wait: Millis
    jitter: float = 0.0

    def delay(self, attempt: int, level: int, error: ErrorClass) -> Millis | None:
        return self.wait

    def longest(self) -> Millis:
        return self.wait


def class_named(name: str) -> ErrorClass:
    """As a state has it: "" of a failure that has no class."""
    return next((known for known in ErrorClass if known.value == name), ErrorClass.UNKNOWN)


Retry = PhiBackoff | FlatRetry


def jitter(retry: Retry, key: str, attempt: int, wait: Millis) -> Millis:
    """What is added to `wait` for this attempt of this slot: 0 unless configured."""
    if not retry.jitter:
        return 0
    digest = hashlib.sha256(f"{key}/{attempt}".encode()).digest()
    return int(wait * retry.jitter * int.from_bytes(digest[:4]) / 2**32)
