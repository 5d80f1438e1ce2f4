"""How long to wait after a failure, by class of error."""

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

    def delay(self, attempt: int, level: int, error: ErrorClass) -> Millis | None:
        return self._at(level, self.multipliers.get(error, 1.0))

    def longest(self) -> Millis:
        return self._at(self.cap, max(self.multipliers.values(), default=1.0))

    def _at(self, level: int, multiplier: float) -> Millis:
        seconds: float = self.base_s * PHI ** min(level, self.cap) * multiplier
        return int(seconds + 0.5) * SECOND if seconds >= 1 else int(seconds * SECOND)


@dataclass(frozen=True, slots=True)
class FlatRetry:
    """The same wait after every failure, for ever (spec forge-os section 6: min(interval, 5 s))."""

    wait: Millis

    def delay(self, attempt: int, level: int, error: ErrorClass) -> Millis | None:
        return self.wait

    def longest(self) -> Millis:
        return self.wait


Retry = PhiBackoff | FlatRetry
