"""Words that instances call to each other, so that nobody has to look all the time. A lost one costs a second."""

import asyncio
from collections.abc import Callable

from vmsh_scheduler.errors import StoreDown, StoreRefuses
from vmsh_scheduler.stores.redis import refusals
from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.keys import Keys

AGAIN_S = 0.5
"""After the connection was lost."""

Heard = Callable[[str], None]


class Wakes:
    """Pub/sub on one channel. `heard` is called for every word, and once with "" after each time of deafness."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def say(self, word: str) -> None:
        """Raises StoreDown."""
        await guarded(self._client.publish(self._keys.wake, word))

    async def listen(self, heard: Heard) -> None:
        """For ever."""
        while True:
            try:
                await self._listen(heard)
            except StoreDown as down:
                if isinstance(down, StoreRefuses):
                    why = f"the Redis user may not SUBSCRIBE to {self._keys.wake}, so all is found up to a second late"
                    refusals.refused(self._client, "listen", f"{why}: {down.message}")
                await asyncio.sleep(AGAIN_S)

    async def _listen(self, heard: Heard) -> None:
        async with self._client.pubsub(ignore_subscribe_messages=True) as channel:
            await guarded(channel.subscribe(self._keys.wake))
            heard("")
            while True:
                message = await guarded(channel.get_message(timeout=1.0))
                refusals.done(self._client, "listen")  # the first answer is the one to SUBSCRIBE
                if message is not None and isinstance(message.get("data"), str):
                    heard(message["data"])
