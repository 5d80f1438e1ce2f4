"""ports.Dedupe in Redis (forge-os section 8)."""

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Known
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script

BEGIN, DONE, FAILED = Script("dedupe_begin"), Script("dedupe_done"), Script("dedupe_failed")


class RedisDedupe:
    """A key that somebody else is sending is BUSY, which is an answer and no failure (defect D6 of the original)."""

    def __init__(self, client: Client, keys: Keys, *, lease_ms: Millis, done_ms: Millis) -> None:
        self._client = client
        self._keys = keys
        self._lease_ms = lease_ms
        self._done_ms = done_ms

    async def begin(self, key: str, owner: str) -> Known:
        return Known(await BEGIN.run(self._client, self._both(key), [owner, self._lease_ms]))

    async def done(self, key: str, owner: str) -> None:
        """Raises StoreDown."""
        await DONE.run(self._client, self._both(key), [owner, self._done_ms])

    async def failed(self, key: str, owner: str) -> None:
        """Raises StoreDown: then the lease runs out by itself."""
        await FAILED.run(self._client, [self._keys.dedupe_lease(key)], [owner])

    def _both(self, key: str) -> list[str]:
        return [self._keys.dedupe_done(key), self._keys.dedupe_lease(key)]
