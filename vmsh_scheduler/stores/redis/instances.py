"""Who is there: every instance says so once a second, and is gone when it has been silent for a while."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

from vmsh_scheduler.domain.shape import HIGHEST_FENCE
from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script
from vmsh_scheduler.stores.redis.values import Junk, Unreadable, count, document, read, shown

SILENT: Millis = 5 * SECOND
BEAT: Millis = SECOND

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
    token: str = ""
    """Of the process: what has another one under this id is another process."""
    shared_id: bool = False
    """It has seen one."""


class Instances:
    """One hash in Redis."""

    def __init__(self, client: Client, keys: Keys, junk: Junk | None = None) -> None:
        self._client = client
        self._keys = keys
        self._junk = junk or Junk()
        self._token = uuid4().hex
        self._began = False
        self._alone_for = SILENT // BEAT
        """Beats, since another process was seen under our id."""

    @property
    def shared_id(self) -> bool:
        """Another process that lives says that it is us."""
        return self._alone_for < SILENT // BEAT

    async def beat(self, me: Instance) -> list[Instance]:
        """Everybody who is there, by id, this one included. Raises StoreDown."""
        said = replace(me, token=self._token, shared_id=self.shared_id)
        other, living = await self._said(me.id, json.dumps(asdict(said)))
        # who was there before our first word may have been this instance, before it was started again
        self._alone_for = 0 if other and self._began else self._alone_for + 1
        self._began = True
        return living

    async def leave(self, id: str) -> None:
        """Raises StoreDown."""
        await self._said(id, "")

    async def _said(self, id: str, words: str) -> tuple[bool, list[Instance]]:
        """Whether another process goes by this id, and who is there."""
        other, *found = await _BEAT.run(self._client, [self._keys.instances], [id, words, SILENT, self._token])
        known: list[Instance] = []
        for id, text in zip(found[::2], found[1::2], strict=True):
            try:
                known.append(_instance(id, text))
            except Unreadable as why:
                self._junk.found(f"the entry {shown(id)} of instances", why)
        return bool(other), sorted(known, key=lambda instance: instance.id)


def living(said: Mapping[str, str], now: Millis) -> tuple[list[dict[str, object]], list[str]]:
    """Of the whole hash, for who only looks, and whose entries cannot be read; `now` is Redis's."""
    rows: list[dict[str, object]] = []
    wrong = []
    for id, text in sorted(said.items()):
        until, _, words = text.partition(" ")
        if until.isascii() and until.isdigit() and int(until[:20]) <= now:
            continue
        try:
            rows.append(asdict(_instance(id, words)))
        except Unreadable:
            wrong.append(id)
    return rows, wrong


def _instance(id: str, text: str) -> Instance:
    """Of another version too: unknown words are left out, missing ones have their default. Raises Unreadable."""
    return read(text, lambda said: _made(id, document(said)))


def _made(id: str, said: Mapping[str, Any]) -> Instance:
    return Instance(
        id=id,
        host=str(said.get("host", "")),
        config=str(said.get("config", "")),
        permits={pool: count(free) for pool, free in document(said.get("permits", {})).items()},
        running=count(said.get("running", 0)),
        fence=count(said.get("fence", 0), HIGHEST_FENCE),
        version=str(said.get("version", "")),
        started_at=count(said.get("started_at", 0)),
        shared_id=said.get("shared_id") is True,
    )
