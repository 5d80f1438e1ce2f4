"""ports.Counters in Redis (forge-os section 4)."""

from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script

HIT = Script("counter_hit")
SPARE: Millis = SECOND
"""Past a window's length, for clocks that do not agree on its end."""


class RedisCounters:
    """A lost answer may have counted: whoever asks again counts twice, never not at all."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def hit(self, key: str, window: int, length: Millis) -> int:
        return int(await HIT.run(self._client, [self._keys.quota(key, window)], [length + SPARE]))
