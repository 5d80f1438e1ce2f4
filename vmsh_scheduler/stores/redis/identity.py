"""Which store this is: a name that Redis loses with everything else, so that its loss is seen."""

from uuid import uuid4

from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.keys import Keys

FIELD = "store"


class Identity:
    """`lost`: Redis was emptied, or is another one, since this process first saw it."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.lost = False
        self._client = client
        self._keys = keys
        self._seen = ""

    async def same(self) -> bool:
        """Whether what is known here is of this store, as far as anything is known. Raises StoreDown."""
        found = str(await guarded(self._client.hget(self._keys.meta, FIELD)) or "")
        if not self._seen:
            self._seen = found
        return self._seen == found

    async def settle(self) -> bool:
        """As the leader: it has a name from now on. False: it is not the one that was known. Raises StoreDown."""
        await guarded(self._client.hsetnx(self._keys.meta, FIELD, uuid4().hex))
        before, self._seen = self._seen, ""
        await self.same()
        self.lost = self.lost or before not in ("", self._seen)
        return before in ("", self._seen)
