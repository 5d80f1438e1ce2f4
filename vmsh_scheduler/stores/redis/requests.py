"""What only the leader may do, asked for by any instance: a list of requests, an answer under a key of its own."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple
from uuid import uuid4

from vmsh_scheduler.domain.trigger import SECOND, Millis
from vmsh_scheduler.errors import StoreDown, Unavailable
from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Script
from vmsh_scheduler.stores.redis.values import Junk, Unreadable, document, read

Document = Mapping[str, object]
Handler = Callable[[str, Document], Awaitable[Document]]

LOOK_S = 0.25
"""Where a word was lost."""
MOST = 1_000
"""Requests that may wait."""

_ASK = Script("request_ask")
_TAKE = Script("request_take")
_REPLY = Script("request_reply")


class _Request(NamedTuple):
    id: str
    verb: str
    document: Document


class Requests:
    """`heard` has to be told what the wake channel says."""

    def __init__(self, client: Client, keys: Keys, junk: Junk | None = None) -> None:
        self._client = client
        self._keys = keys
        self._junk = junk or Junk()
        self._asked = asyncio.Event()
        self._waiting: dict[str, asyncio.Event] = {}

    def heard(self, word: str) -> None:
        verb, _, id = word.partition(" ")
        if verb in ("", "request"):
            self._asked.set()
        if verb == "reply" and id in self._waiting:
            self._waiting[id].set()

    async def ask(self, verb: str, document: Document, within: Millis) -> Document:
        """The leader's answer. Raises StoreDown, and Unavailable when nobody answered: then it may still be done,
        but is not begun any more once `within` is over."""
        id = uuid4().hex
        body = json.dumps({"id": id, "verb": verb, "document": document})
        told = self._waiting[id] = asyncio.Event()
        try:
            keys = (self._keys.requests, self._keys.wake)
            if not await _ASK.run(self._client, keys, (body, within, MOST)):
                raise Unavailable("too many requests wait for a leader", hint="try again")
            async with asyncio.timeout(within / SECOND):
                return await self._answer(id, told)
        except TimeoutError:
            raise Unavailable(
                "no leader answered", hint="a new one is elected within seconds; see whether it was done, try again"
            ) from None
        finally:
            del self._waiting[id]

    async def _answer(self, id: str, told: asyncio.Event) -> Document:
        while True:
            told.clear()
            text = await guarded(self._client.getdel(self._keys.reply(id)))
            if text is not None:
                return _reply(str(text))
            try:
                async with asyncio.timeout(LOOK_S):
                    await told.wait()
            except TimeoutError:
                continue

    async def serve(self, lock: str, answer: Handler) -> None:
        """As the leader, for ever; raises NotLeading. `answer` never raises."""
        while True:
            self._asked.clear()
            try:
                while (text := await self._take(lock)) is not None:
                    await self._serve_one(text, answer)
            except StoreDown:
                await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(1.0):
                    await self._asked.wait()
            except TimeoutError:
                continue

    async def _take(self, lock: str) -> str | None:
        keys = (self._keys.leader_lock, self._keys.requests)
        text: str | None = await _TAKE.run(self._client, keys, (lock,))
        return text

    async def _serve_one(self, text: str, answer: Handler) -> None:
        try:
            request = read(text, _request)
        except Unreadable as why:
            self._junk.found("an entry of requests", why)
            return
        reply = json.dumps(await answer(request.verb, request.document))
        keys = (self._keys.reply(request.id), self._keys.wake)
        await _REPLY.run(self._client, keys, (reply, request.id, 60 * SECOND))


def _request(value: Any) -> _Request:
    id, verb = value["id"], value["verb"]
    if not isinstance(id, str) or not isinstance(verb, str):
        raise TypeError("no request")
    return _Request(id, verb, document(value["document"]))


def _reply(text: str) -> Document:
    try:
        return read(text, document)
    except Unreadable as why:
        raise Unavailable(f"the leader's answer cannot be read: {why}", hint="see whether it was done") from None
