"""Snapshots over real sockets: a small upstream of aiohttp, and a fetch as the program builds it."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from tests.support.market import until
from vmsh_scheduler.market.snapshot import Market, MarketFailed

WALLET = "kaspa:qpv7fcvdlz6th4hqjtm9qkkms2dw0raem963x3hm8glu3kjgj7922vy69hv85"
BODIES = {
    "/info/price": '{"price":0.12}',
    "/info/blockdag": '{"networkName":"kaspa-mainnet","blockCount":"1234","virtualDaaScore":"98765432"}',
}


class Upstream:
    """Answers every GET; `status`, `body` and `gate` change how."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str]] = []
        self.status = 200
        self.body: str | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        app = web.Application()
        app.router.add_get("/{tail:.*}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append((request.raw_path, request.headers.get("Accept", "")))
        await self.gate.wait()
        body = BODIES.get(request.path, '{"balance":250000000}') if self.body is None else self.body
        return web.Response(status=self.status, text=body)


def fetcher(session: aiohttp.ClientSession, base: str, timeout_s: float) -> Callable[[str], Awaitable[bytes]]:
    async def fetch(path: str) -> bytes:
        try:
            # encoded: yarl would turn the %3A of an address back into a colon
            url = URL(base + path, encoded=True)
            async with asyncio.timeout(timeout_s), session.get(url, headers={"Accept": "application/json"}) as reply:
                body = await reply.read()
        except TimeoutError:
            raise RuntimeError("This operation was aborted") from None
        except aiohttp.ClientError:
            raise RuntimeError("fetch failed") from None
        if reply.status >= 300:
            raise RuntimeError(f"upstream_{reply.status}:{body.decode(errors='replace')[:180]}")
        return body

    return fetch


@asynccontextmanager
async def market_at(base: str, timeout_s: float = 10) -> AsyncIterator[Market]:
    async with aiohttp.ClientSession() as session:
        market = Market(
            fetcher(session, base, timeout_s), lambda: time.time_ns() // 10**6, lambda: time.monotonic_ns() // 10**6
        )
        yield market
        await market.close()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    upstream = Upstream()
    async with upstream.server:
        yield upstream
        upstream.gate.set()


def base_of(upstream: Upstream) -> str:
    return str(upstream.server.make_url("")).rstrip("/")


async def failure(market: Market) -> str:
    with pytest.raises(MarketFailed) as caught:
        await market.reply(WALLET)
    return str(caught.value)


async def test_a_snapshot_and_what_the_upstream_saw_of_it(upstream: Upstream) -> None:
    async with market_at(base_of(upstream)) as market:
        before = time.time_ns() // 10**6
        reply: Any = await market.reply(WALLET)
    ages = reply["cache"]
    assert set(ages) == {"priceAgeMs", "blockdagAgeMs", "balanceAgeMs"}
    assert all(0 <= age < 10_000 for age in ages.values())
    shot = reply["snapshot"]
    assert before <= shot.pop("ts") <= time.time_ns() // 10**6
    assert shot == {
        "address": WALLET,
        "priceUsd": 0.12,
        "dag": {"daaScore": 98765432, "network": "kaspa-mainnet"},
        "walletKas": 2.5,
    }
    assert sorted(upstream.requests) == [
        (f"/addresses/kaspa%3A{WALLET[6:]}/balance", "application/json"),
        ("/info/blockdag", "application/json"),
        ("/info/price", "application/json"),
    ]


async def test_40_callers_cost_the_upstream_three_requests(upstream: Upstream) -> None:
    upstream.gate.clear()
    async with market_at(base_of(upstream)) as market:
        crowd = [asyncio.create_task(market.snapshot(WALLET)) for _ in range(40)]
        await until(lambda: len(upstream.requests) >= 3)
        upstream.gate.set()
        await asyncio.gather(*crowd)
    assert len(upstream.requests) == 3


async def test_a_connection_that_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with market_at(f"http://127.0.0.1:{port}") as market:
        assert await failure(market) == "fetch failed"


async def test_an_upstream_that_is_too_slow(upstream: Upstream) -> None:
    upstream.gate.clear()
    async with market_at(base_of(upstream), timeout_s=0.05) as market:
        assert await failure(market) == "This operation was aborted"
        upstream.gate.set()


async def test_an_upstream_that_is_down(upstream: Upstream) -> None:
    upstream.status, upstream.body = 503, '{"error":"down"}'
    async with market_at(base_of(upstream)) as market:
        assert await failure(market) == 'upstream_503:{"error":"down"}'
        upstream.body = "x" * 1_000
        assert await failure(market) == "upstream_503:" + "x" * 180


async def test_an_upstream_that_answers_with_a_page(upstream: Upstream) -> None:
    upstream.body = "<html>"
    async with market_at(base_of(upstream)) as market:
        assert await failure(market) == "Unexpected token '<', \"<html>\" is not valid JSON"


async def test_d30_a_server_that_is_down_is_spared_and_found_again(upstream: Upstream) -> None:
    upstream.status, upstream.body = 503, "down"
    time_ms = 0
    async with aiohttp.ClientSession() as session:
        market = Market(fetcher(session, base_of(upstream), 10), lambda: 0, lambda: time_ms)
        for _ in range(20):
            assert await failure(market) == "upstream_503:down"
            await until(lambda: at_rest(market))
        assert len(upstream.requests) == 15
        upstream.status, upstream.body = 200, None
        time_ms = 5_000
        assert (await market.snapshot(WALLET))["walletKas"] == 2.5
        assert len(upstream.requests) == 18
        await market.close()


def at_rest(market: Market) -> bool:
    """Every flight so far has failed: also those whose caller had failed already and did not wait."""
    return all(counts.errors == counts.misses for counts in market.counts().values())
