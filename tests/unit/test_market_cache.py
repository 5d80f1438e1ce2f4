"""How often the upstream is asked, and what its answers are kept for; virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.support.market import BALANCE, DAG, DOWN, PRICE, WALLET, Upstream, failure, market, settle
from vmsh_scheduler.market.cache import Cache, Counts, Crowded


async def test_40_requests_at_once_cost_one_fetch_each() -> None:
    upstream = Upstream()
    upstream.hold()
    shop = market(upstream)
    crowd = [asyncio.create_task(shop.snapshot(WALLET)) for _ in range(40)]
    await settle()
    upstream.release()
    shots = await asyncio.gather(*crowd)
    assert sorted(upstream.asked) == sorted([PRICE, DAG, BALANCE])
    assert all(shot == shots[0] for shot in shots)
    assert shop.counts() == dict.fromkeys(("price", "blockdag", "balance"), Counts(inflight=39, misses=1))


async def test_values_are_kept_for_their_time_and_no_longer() -> None:
    upstream = Upstream()
    shop = market(upstream, market_ttl_ms=2_000, balance_ttl_ms=2_500)
    await shop.snapshot(WALLET)
    upstream.pass_time(1_999)
    await shop.snapshot(WALLET)
    assert len(upstream.asked) == 3
    upstream.pass_time(1)
    await shop.snapshot(WALLET)
    assert sorted(upstream.asked[3:]) == sorted([PRICE, DAG])
    upstream.pass_time(500)
    await shop.snapshot(WALLET)
    assert upstream.asked[5:] == [BALANCE]
    assert shop.counts()["price"] == Counts(hits=2, misses=2)


async def test_age_counts_from_arrival() -> None:
    upstream = Upstream()
    upstream.hold()
    waiting = asyncio.create_task(market(upstream).reply(WALLET))
    await settle()
    upstream.pass_time(3_000)
    upstream.release()
    assert (await waiting)["cache"] == {"priceAgeMs": 0, "blockdagAgeMs": 0, "balanceAgeMs": 0}


async def test_balances_are_by_address_and_counted_without_it() -> None:
    """D25: an address is no label."""
    upstream = Upstream()
    shop = market(upstream)
    await shop.snapshot("kaspa:a")
    await shop.snapshot("kaspa:b")
    assert [path for path in upstream.asked if "addresses" in path] == [
        "/addresses/kaspa%3Aa/balance",
        "/addresses/kaspa%3Ab/balance",
    ]
    assert shop.counts()["balance"] == Counts(misses=2)
    assert set(shop.counts()) == {kind for kind, _, _ in upstream.observed} == {"price", "blockdag", "balance"}


async def test_joiners_share_the_error_and_it_is_not_kept() -> None:
    upstream = Upstream({PRICE: DOWN})
    upstream.hold()
    shop = market(upstream)
    crowd = [asyncio.create_task(failure(shop.snapshot(WALLET))) for _ in range(5)]
    await settle()
    upstream.release()
    assert await asyncio.gather(*crowd) == [DOWN] * 5
    assert upstream.asked.count(PRICE) == 1
    upstream.answers[PRICE] = b'{"price": 1}'
    assert (await shop.snapshot(WALLET))["priceUsd"] == 1
    assert shop.counts()["price"] == Counts(inflight=4, misses=2, errors=1)


@pytest.mark.parametrize("leaving", [0, 1])
async def test_whoever_is_cancelled_leaves_the_flight_to_the_others(leaving: int) -> None:
    upstream = Upstream()
    upstream.hold()
    shop = market(upstream)
    crowd = [asyncio.create_task(shop.snapshot(WALLET)) for _ in range(3)]
    await settle()
    crowd[leaving].cancel()
    await settle()
    assert crowd[leaving].cancelled()
    upstream.release()
    rest = [task for task in crowd if task is not crowd[leaving]]
    assert [shot["walletKas"] for shot in await asyncio.gather(*rest)] == [2.5, 2.5]
    assert len(upstream.asked) == 3


async def test_a_flight_lands_though_everybody_left() -> None:
    upstream = Upstream()
    upstream.hold()
    shop = market(upstream)
    alone = asyncio.create_task(shop.snapshot(WALLET))
    await settle()
    alone.cancel()
    await settle()
    upstream.release()
    await settle()
    await shop.snapshot(WALLET)
    assert len(upstream.asked) == 3
    assert shop.counts()["balance"] == Counts(hits=1, misses=1)


async def test_a_flight_that_fails_when_everybody_left_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    upstream = Upstream({PRICE: DOWN, DAG: DOWN, BALANCE: DOWN})
    upstream.hold()
    alone = asyncio.create_task(market(upstream).snapshot(WALLET))
    await settle()
    alone.cancel()
    await settle()
    upstream.release()
    await settle()
    del alone
    assert complaints == []
    assert caplog.records == []


async def test_close_ends_the_flights_and_says_so_to_those_who_wait() -> None:
    upstream = Upstream()
    upstream.hold()
    shop = market(upstream)
    waiting = asyncio.create_task(failure(shop.snapshot(WALLET)))
    await settle()
    await shop.close()
    assert await waiting == "This operation was aborted"
    assert upstream.given_up == 3


async def test_an_old_value_stands_in_for_an_error_for_as_long_as_it_may() -> None:
    upstream = Upstream()
    shop = market(upstream, market_ttl_ms=1_000, balance_ttl_ms=60_000, stale_if_error_ms=5_000, breaker_failures=100)
    await shop.snapshot(WALLET)
    upstream.answers[PRICE] = DOWN
    upstream.pass_time(5_999)
    reply: Any = await shop.reply(WALLET)
    assert (reply["snapshot"]["priceUsd"], reply["cache"]["priceAgeMs"]) == (0.12, 5_999)
    upstream.pass_time(1)
    assert await failure(shop.snapshot(WALLET)) == DOWN
    assert shop.counts()["price"] == Counts(misses=3, errors=2, stale=1)


async def test_by_default_no_old_value_stands_in() -> None:
    upstream = Upstream()
    shop = market(upstream)
    await shop.snapshot(WALLET)
    upstream.answers[PRICE] = DOWN
    upstream.pass_time(2_000)
    assert await failure(shop.snapshot(WALLET)) == DOWN


def constant(value: int) -> Callable[[], Awaitable[int]]:
    async def load() -> int:
        return value

    return load


async def test_d28_the_cache_is_bounded_and_what_was_used_last_stays() -> None:
    cache: Cache[int] = Cache(lambda: 0, ttl_ms=1_000, most=3)
    for key in ("a", "b", "c", "a", "d"):
        await cache.get(key, constant(1))
    assert [cache.age(key) for key in "abcd"] == [0, None, 0, 0]
    assert len(cache) == 3


async def test_what_was_looked_up_anew_counts_as_used() -> None:
    now = 0
    cache: Cache[int] = Cache(lambda: now, ttl_ms=10, most=2)
    for key in ("a", "b", "a", "c"):
        now += 10
        await cache.get(key, constant(1))
    assert [cache.age(key) for key in "abc"] == [10, None, 0]


@pytest.mark.no_cover  # what it runs is measured with others, and measuring takes twice as long
async def test_d28_balances_beyond_20000_push_out_the_oldest() -> None:
    upstream = Upstream()
    shop = market(upstream)
    for number in range(20_050):
        await shop.snapshot(f"kaspa:q{number}")
    assert shop.view()["balanceEntries"] == 20_000
    await shop.snapshot("kaspa:q20049")
    await shop.snapshot("kaspa:q0")
    assert shop.counts()["balance"] == Counts(hits=1, misses=20_051)


async def test_only_so_many_flights_at_once() -> None:
    gate = asyncio.Event()

    async def load() -> int:
        await gate.wait()
        return 1

    cache: Cache[int] = Cache(lambda: 0, ttl_ms=1_000, most_flights=2)
    two = [asyncio.create_task(cache.get(key, load)) for key in "ab"]
    await settle()
    with pytest.raises(Crowded):
        await cache.get("c", load)
    joined = asyncio.create_task(cache.get("a", load))
    await settle()
    gate.set()
    await asyncio.gather(*two, joined)
    assert (await cache.get("c", load)).value == 1
    assert cache.counts == Counts(inflight=1, misses=4, errors=1)
