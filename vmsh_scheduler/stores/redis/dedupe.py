"""ports.Dedupe in Redis (forge-os section 8)."""

from collections.abc import Sequence
from typing import Any

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Known
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script
from vmsh_scheduler.stores.redis.together import Together

BEGIN, DONE, FAILED = Script("dedupe_begin"), Script("dedupe_done"), Script("dedupe_failed")
AT_ONCE = 200
"""Keys of one script: well below a millisecond of the server's."""

Owned = tuple[str, str]
"""Key and owner."""


class RedisDedupe:
    """A key that somebody else is sending is BUSY, which is an answer and no failure (defect D6 of the original)."""

    def __init__(self, client: Client, keys: Keys, *, lease_ms: Millis, done_ms: Millis) -> None:
        self._client = client
        self._keys = keys
        self._lease_ms = lease_ms
        self._done_ms = done_ms
        self._beginnings: Together[Owned, str] = Together(self._begin_all, AT_ONCE)
        self._endings: Together[Owned, int] = Together(self._end_all, AT_ONCE)

    async def begin(self, key: str, owner: str) -> Known:
        return Known(await self._beginnings.ask((key, owner)))

    async def done(self, key: str, owner: str) -> None:
        """Raises StoreDown."""
        await self._endings.ask((key, owner))

    async def failed(self, key: str, owner: str) -> None:
        """Raises StoreDown: then the lease runs out by itself."""
        await FAILED.run(self._client, [self._keys.dedupe_lease(key)], [owner])

    async def _begin_all(self, some: Sequence[Owned]) -> Sequence[str]:
        return await self._run(BEGIN, self._lease_ms, some)

    async def _end_all(self, some: Sequence[Owned]) -> Sequence[int]:
        return await self._run(DONE, self._done_ms, some)

    async def _run(self, script: Script, ms: Millis, some: Sequence[Owned]) -> Sequence[Any]:
        keys = [name for key, _ in some for name in (self._keys.dedupe_done(key), self._keys.dedupe_lease(key))]
        answers: Sequence[Any] = await script.run(self._client, keys, [ms, *(owner for _, owner in some)])
        return answers
