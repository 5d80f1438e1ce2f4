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

    async def is_another(self) -> bool:
        """Than the one that a leader settled with. Not where INFO may not be asked. Raises StoreDown."""
        known = await guarded(self._client.hget(self._keys.meta, FIELD))
        return bool(known) and await self._name() not in ("", known)

    async def settle(self, lock: str) -> None:
        """As the leader, once everything that was open is accounted for. Raises StoreDown and NotLeading."""
        name = await self._name()
        if name:
            await _HISTORY.run(self._client, [self._keys.meta, self._keys.leader_lock], [lock, FIELD, name])

    async def _name(self) -> str:
        """ "" where it is not said."""
        try:
            found = await guarded(self._client.info("replication"))
        except StoreRefuses:
            return ""
        return str(found.get("master_replid", ""))
