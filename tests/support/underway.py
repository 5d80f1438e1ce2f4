"""A script that Redis carries out after its sender has given it up."""

from typing import Any

from redis.exceptions import TimeoutError as RedisTimeoutError

from vmsh_scheduler.stores.redis.connect import Client


class Underway:
    """A client; while `hold`, its next script stays on its way, for whoever waits for its answer too long."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.held: list[tuple[Any, ...]] = []
        self.hold = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def evalsha(self, *words: Any) -> Any:
        if not self.hold:
            return await self._client.evalsha(*words)
        self.hold = False
        self.held.append(words)
        raise RedisTimeoutError("Timeout reading from socket")

    async def arrive(self) -> Any:
        """The oldest of them."""
        return await self._client.evalsha(*self.held.pop(0))
