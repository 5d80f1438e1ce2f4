"""Routes of the metrics listener: health, liveness, readiness, metrics. All read-only."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from vmsh_scheduler.api.messages import Reply, Request, Routes, json_reply
from vmsh_scheduler.api.operations import Probes
from vmsh_scheduler.domain.health import Health

T = TypeVar("T")

CACHE_FACTOR = 20
"""An answer serves for this many times what it cost to make, so that a flood costs at most 5 % of a core."""
CACHE_MOST_S = 2.0
NO_STORE = {"Cache-Control": "no-store"}


class Recent(Generic[T]):
    """Keeps one answer for as long as its price demands; who comes meanwhile waits for the same one."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._kept: tuple[str, T] | None = None
        self._until = 0.0

    async def get(self, key: str, make: Callable[[], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._kept is not None and self._kept[0] == key and loop.time() < self._until:
                return self._kept[1]
            begun = loop.time()
            value = await make()
            ended = loop.time()
            self._kept, self._until = (key, value), ended + min(CACHE_FACTOR * (ended - begun), CACHE_MOST_S)
            return value


def probe_routes(probes: Probes) -> Routes:
    healths: Recent[Health] = Recent()
    scrapes: Recent[tuple[bytes, str]] = Recent()

    async def health(request: Request) -> Reply:
        found = await healths.get("", make_health)
        strict = request.query.get("strict") == "1"
        return json_reply(found.http_status(strict=strict), found.body, NO_STORE)

    async def make_health() -> Health:
        return probes.health()

    async def live(_: Request) -> Reply:
        return json_reply(200, {"status": "ok"}, NO_STORE)

    async def ready(_: Request) -> Reply:
        conditions = dict(probes.ready())
        good = all(conditions.values())
        return json_reply(200 if good else 503, {"ready": good, **conditions}, NO_STORE)

    async def metrics(request: Request) -> Reply:
        text, content_type = await scrapes.get(request.accept, lambda: probes.metrics(request.accept))
        return Reply(200, text, content_type, NO_STORE)

    handlers = {"/health": health, "/livez": live, "/healthz": live, "/readyz": ready, "/metrics": metrics}
    return {path: {"GET": handler} for path, handler in handlers.items()}
