"""Which store this is: a name that Redis loses with everything else, so that its loss is seen."""

from collections.abc import Awaitable, Callable
from uuid import uuid4

from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.keys import Keys

FIELD = "store"

Stands = Callable[[], Awaitable[bool]]
"""Asked between a look at the store and believing it."""


async def always() -> bool:
    """For whoever has nothing to lose."""
    return True


class Identity:
    """`losses`: how often, since this process first saw it, Redis was emptied or another one was put in its place."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self.losses = 0
        self._client = client
        self._keys = keys
        self._seen = ""
        self._gone = False

    async def stands(self) -> bool:
        """False: it was emptied, and no leader has given it a name since. Then what is known here is worth more than
        what it holds. Raises StoreDown."""
        seen = self._seen
        found = str(await guarded(self._client.hget(self._keys.meta, FIELD)) or "")
        if seen != self._seen:  # it got its name while we asked
            return True
        if not found and self._seen:
            self.losses += not self._gone
            self._gone = True
            return False
        self.losses += bool(self._seen) and found != self._seen and not self._gone
        self._seen, self._gone = found, False
        return True

    async def settle(self) -> None:
        """As the leader, once everything that was known stands in it: it has a name from now on. Raises StoreDown."""
        await guarded(self._client.hsetnx(self._keys.meta, FIELD, uuid4().hex))
        self._seen, self._gone = str(await guarded(self._client.hget(self._keys.meta, FIELD)) or ""), False
