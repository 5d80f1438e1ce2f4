"""An upstream of market data that answers by a script, and the time it lives in."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest

from vmsh_scheduler.market.snapshot import Market, MarketFailed, MarketOptions

WALL = 1_795_196_761_942
WALLET = "kaspa:qpv7fcvdlz6th4hqjtm9qkkms2dw0raem963x3hm8glu3kjgj7922vy69hv85"
PRICE, DAG, BALANCE = "/info/price", "/info/blockdag", f"/addresses/kaspa%3A{WALLET[6:]}/balance"
DOWN = 'upstream_503:{"error":"down"}'
GOOD = {
    PRICE: b'{"price":0.12}',
    DAG: b'{"networkName":"kaspa-mainnet","blockCount":"1234","virtualDaaScore":"98765432"}',
}
FUNDS = b'{"address":"kaspa:q","balance":250000000}'

Answer = bytes | str | Exception
"""A body, or what the fetch fails with."""


async def settle() -> None:
    """Long enough for every task that can go on to have gone on."""
    for _ in range(10):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """For what real sockets bring about; fails after a while."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - plain numbers, nobody sets an event for them
            await asyncio.sleep(0.005)


class Upstream:
    """`answers` by path; what it has none for is answered well. `hold` makes requests wait for `release`."""

    def __init__(self, answers: Mapping[str, Answer] | None = None) -> None:
        self.answers = dict(answers or {})
        self.asked: list[str] = []
        self.observed: list[tuple[str, int, bool]] = []
        self.given_up = 0
        self._time = 50_000
        self._held: tuple[str, ...] | None = None
        self._gate = asyncio.Event()

    def now(self) -> int:
        return WALL - 50_000 + self._time

    def elapsed(self) -> int:
        return self._time

    def pass_time(self, ms: int) -> None:
        self._time += ms

    def hold(self, *paths: str) -> None:
        """From now on; all paths if none is named."""
        self._gate.clear()
        self._held = paths

    def release(self) -> None:
        self._held = None
        self._gate.set()

    def observe(self, kind: str, ms: int, ok: bool) -> None:
        self.observed.append((kind, ms, ok))

    async def fetch(self, path: str) -> bytes:
        self.asked.append(path)
        try:
            while self._held is not None and (not self._held or path in self._held):
                await self._gate.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        answer = self.answers.get(path, GOOD.get(path, FUNDS))
        if isinstance(answer, bytes):
            return answer
        raise answer if isinstance(answer, Exception) else RuntimeError(answer)


def market(upstream: Upstream, **options: int) -> Market:
    return Market(upstream.fetch, upstream.now, upstream.elapsed, MarketOptions(**options), observe=upstream.observe)


async def failure(call: Awaitable[object]) -> str:
    """What MarketFailed says; it is an error if the call does not fail."""
    with pytest.raises(MarketFailed) as caught:
        await call
    return str(caught.value)


async def tried(call: Awaitable[Any]) -> tuple[Any, str | None]:
    """The snapshot, or what MarketFailed says; nothing else is caught."""
    try:
        return await call, None
    except MarketFailed as error:
        return None, str(error)
