"""Calls of one script that come together are sent together: a round trip costs this process more than the server."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from vmsh_scheduler.errors import StoreDown

W = TypeVar("W")
R = TypeVar("R")

Send = Callable[[Sequence[W]], Awaitable[Sequence[R]]]
"""One script for all of these; an answer to each, in their order. Raises StoreDown, which all of them get."""


class Together(Generic[W, R]):
    """Those of one turn of the loop share a script, as do those that come while one is under way."""

    def __init__(self, send: "Send[W, R]", most: int) -> None:
        self._send = send
        self._most = most
        self._waiting: list[tuple[W, asyncio.Future[R]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def ask(self, words: W) -> R:
        """Raises StoreDown."""
        answered: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((words, answered))
        if self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_all())
        return await answered

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                some, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._send_some(some)
        finally:
            self._sender = None

    async def _send_some(self, some: Sequence[tuple[W, "asyncio.Future[R]"]]) -> None:
        try:
            answers = await self._send([words for words, _ in some])
        except StoreDown as down:
            for _, answered in some:
                if not answered.done():
                    answered.set_exception(down)
            return
        for (_, answered), answer in zip(some, answers, strict=True):
            if not answered.done():
                answered.set_result(answer)
