"""Whether a server may have forgotten what it acknowledged: it is another one than before, or was started again."""

from vmsh_scheduler.errors import StoreRefuses
from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script

FIELD = "history"

_HISTORY = Script("dispatch_history")


class History:
    """The replication id: a replica gets a new one when it is promoted, and a server when it starts."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def look(self) -> tuple[str, bool]:
        """Its name, and whether a leader settled with another one. ("", False) where INFO may not be asked.
        Raises StoreDown."""
        known = await guarded(self._client.hget(self._keys.meta, FIELD))
        name = await self._name()
        return name, bool(known) and name not in ("", known)

    async def settle(self, lock: str, name: str) -> None:
        """As the leader, once everything that was open is accounted for since `look` gave this name. Raises StoreDown
        and NotLeading."""
        if name:
            await _HISTORY.run(self._client, [self._keys.meta, self._keys.leader_lock], [lock, FIELD, name])

    async def _name(self) -> str:
        try:
            found = await guarded(self._client.info("replication"))
        except StoreRefuses:
            return ""
        return str(found.get("master_replid", ""))
