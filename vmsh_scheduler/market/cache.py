"""Values that are expensive to get: kept for a while, looked up by one flight at a time."""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

MOST_ENTRIES = 20_000
MOST_FLIGHTS = 1_024

T = TypeVar("T")


class Crowded(Exception):
    """As many look-ups are under way as may be."""


class Abandoned(Exception):
    """The flight was called off while somebody waited for it."""


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """A value and when it arrived, on the clock that never steps."""

    value: T
    stamp: int


@dataclass(frozen=True, slots=True)
class Counts:
    """Since the start. A miss begins a flight; `errors` counts flights, `inflight` those who joined one, `stale`
    the failures that an old value covered."""

    hits: int = 0
    inflight: int = 0
    misses: int = 0
    errors: int = 0
    stale: int = 0


class Cache(Generic[T]):
    """Least recently used entries leave first, at O(1) an insert (D28). Errors reach all who wait and are not kept."""

    def __init__(
        self,
        elapsed: Callable[[], int],
        *,
        ttl_ms: int,
        stale_if_error_ms: int = 0,
        most: int = MOST_ENTRIES,
        most_flights: int = MOST_FLIGHTS,
    ) -> None:
        self._elapsed = elapsed
        self._ttl_ms = ttl_ms
        self._stale_ms = stale_if_error_ms
        self._most = most
        self._most_flights = most_flights
        self._entries: OrderedDict[str, Held[T]] = OrderedDict()
        self._flights: dict[str, asyncio.Task[Held[T]]] = {}
        self._counted: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def counts(self) -> Counts:
        return Counts(**self._counted)

    def age(self, key: str) -> int | None:
        """Milliseconds since the value arrived, fresh or not; None without one."""
        held = self._entries.get(key)
        return None if held is None else self._elapsed() - held.stamp

    def fresh(self, key: str) -> Held[T] | None:
        """Without waiting; whoever uses it says so (`took`)."""
        held = self._entries.get(key)
        return held if held is not None and self._elapsed() - held.stamp < self._ttl_ms else None

    def took(self, key: str) -> None:
        """A hit."""
        self._counted["hits"] += 1
        self._entries.move_to_end(key)

    async def get(self, key: str, load: Callable[[], Awaitable[T]]) -> Held[T]:
        """A fresh value. Whoever is cancelled here leaves the flight to the others, also the one who began it."""
        held = self.fresh(key)
        if held is not None:
            self.took(key)
            return held
        flight = self._join(key, load)
        await asyncio.wait((flight,))
        if flight.cancelled():
            raise Abandoned("This operation was aborted")
        return flight.result()

    async def close(self) -> None:
        """Calls off every flight; whoever waits for one gets `Abandoned`."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)

    def _join(self, key: str, load: Callable[[], Awaitable[T]]) -> asyncio.Task[Held[T]]:
        flight = self._flights.get(key)
        self._counted["misses" if flight is None else "inflight"] += 1
        return self._begin(key, load) if flight is None else flight

    def _begin(self, key: str, load: Callable[[], Awaitable[T]]) -> asyncio.Task[Held[T]]:
        if len(self._flights) >= self._most_flights:
            self._counted["errors"] += 1
            raise Crowded(f"{self._most_flights} look-ups are under way already; try again in a moment")
        flight = asyncio.create_task(self._fly(key, load))
        self._flights[key] = flight
        flight.add_done_callback(lambda done: self._landed(key, done))
        return flight

    async def _fly(self, key: str, load: Callable[[], Awaitable[T]]) -> Held[T]:
        try:
            held = Held(await load(), self._elapsed())
        except Exception:
            self._counted["errors"] += 1
            old = self._covering(key)
            if old is None:
                raise
            self._counted["stale"] += 1
            return old
        self._keep(key, held)
        return held

    def _covering(self, key: str) -> Held[T] | None:
        """The old value while it may stand in for an error (RFC 5861 section 4)."""
        held = self._entries.get(key)
        if held is None or self._elapsed() - held.stamp >= self._ttl_ms + self._stale_ms:
            return None
        return held

    def _keep(self, key: str, held: Held[T]) -> None:
        self._entries[key] = held
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def _landed(self, key: str, flight: asyncio.Task[Held[T]]) -> None:
        del self._flights[key]
        if not flight.cancelled():
            flight.exception()  # looked at, so that asyncio does not complain when all who waited are gone
