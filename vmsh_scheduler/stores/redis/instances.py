"""Who is there: every instance says so once a second, and is gone when it has been silent for a while."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script

SILENT: Millis = 5 * SECOND

_BEAT = Script("instance_beat")


@dataclass(frozen=True, slots=True)
class Instance:
    """What one says of itself; `permits` by pool, `fence` 0 unless it leads."""

    id: str
    host: str
    config: str
    """Hash of the job set that its files give."""
    permits: Mapping[str, int]
    running: int = 0
    fence: int = 0
    version: str = ""
    started_at: Millis = 0


class Instances:
    """One hash in Redis."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def beat(self, me: Instance) -> list[Instance]:
        """Everybody who is there, by id, this one included. Raises StoreDown."""
        return await self._said(me.id, json.dumps(asdict(me)))

    async def leave(self, id: str) -> None:
        """Raises StoreDown."""
        await self._said(id, "")

    async def _said(self, id: str, words: str) -> list[Instance]:
        found = await _BEAT.run(self._client, [self._keys.instances], [id, words, SILENT])
        known = [_instance(id, text) for id, text in zip(found[::2], found[1::2], strict=True)]
        return sorted(known, key=lambda instance: instance.id)


def living(said: Mapping[str, str], now: Millis) -> list[dict[str, object]]:
    """Of the whole hash, for who only looks; `now` is Redis's."""
    parts = {id: text.partition(" ") for id, text in said.items()}
    return [asdict(_instance(id, words)) for id, (until, _, words) in sorted(parts.items()) if int(until) > now]


def _instance(id: str, text: str) -> Instance:
    """Of another version too: unknown words are left out, missing ones have their default."""
    said = json.loads(text)
    permits = said.get("permits", {})
    return Instance(
        id=id,
        host=str(said.get("host", "")),
        config=str(said.get("config", "")),
        permits={str(pool): int(count) for pool, count in permits.items()},
        running=int(said.get("running", 0)),
        fence=int(said.get("fence", 0)),
        version=str(said.get("version", "")),
        started_at=int(said.get("started_at", 0)),
    )
