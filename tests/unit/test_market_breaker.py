"""An upstream that fails on and on is left alone, then asked once; virtual time."""

import asyncio

import pytest

from tests.support.market import BALANCE, DAG, DOWN, PRICE, WALLET, Upstream, failure, market, settle, tried
from vmsh_scheduler.market.breaker import Breaker


class Switch:
    """A breaker of two failures and 100 ms, and its time."""

    def __init__(self) -> None:
        self.time = 0
        self.breaker = Breaker(lambda: self.time, failures=2, wait_ms=100)

    def ticket(self) -> int:
        ticket = self.breaker.admit()
        assert ticket is not None
        return ticket

    def trip(self) -> None:
        for number in range(2):
            self.breaker.failed(self.ticket(), f"error {number}")


def test_a_breaker_opens_after_failures_in_a_row_only() -> None:
    switch = Switch()
    switch.breaker.failed(switch.ticket(), "a")
    switch.breaker.succeeded(switch.ticket())
    switch.breaker.failed(switch.ticket(), "b")
    assert switch.breaker.state == "closed"
    switch.breaker.failed(switch.ticket(), "c")
    assert (switch.breaker.state, switch.breaker.admit(), switch.breaker.last_error) == ("open", None, "c")


def test_a_breaker_lets_exactly_one_probe_through() -> None:
    switch = Switch()
    switch.trip()
    switch.time = 99
    assert switch.breaker.admit() is None
    switch.time = 100
    assert switch.breaker.state == "half-open"
    probe = switch.ticket()
    assert [switch.breaker.admit() for _ in range(3)] == [None] * 3
    switch.time = 10_000
    assert switch.breaker.admit() is None
    switch.breaker.succeeded(probe)
    assert switch.breaker.state == "closed"
    assert None not in [switch.breaker.admit() for _ in range(3)]


def test_a_closed_breaker_begins_to_count_anew() -> None:
    switch = Switch()
    switch.trip()
    switch.time = 100
    switch.breaker.succeeded(switch.ticket())
    switch.breaker.failed(switch.ticket(), "x")
    assert switch.breaker.state == "closed"


def test_a_probe_without_luck_begins_the_wait_anew() -> None:
    switch = Switch()
    switch.trip()
    switch.time = 150
    switch.breaker.failed(switch.ticket(), "still")
    assert (switch.breaker.admit(), switch.breaker.last_error) == (None, "still")
    switch.time = 249
    assert switch.breaker.admit() is None
    switch.time = 250
    assert switch.breaker.admit() is not None


def test_a_probe_that_was_given_up_makes_room_for_the_next() -> None:
    switch = Switch()
    switch.trip()
    switch.time = 100
    switch.breaker.abandoned(switch.ticket())
    assert switch.breaker.admit() is not None
    assert switch.breaker.admit() is None


def test_calls_of_an_earlier_era_decide_nothing() -> None:
    switch = Switch()
    late = [switch.ticket() for _ in range(3)]
    switch.trip()
    switch.time = 100
    switch.ticket()
    switch.breaker.succeeded(late[0])
    switch.breaker.abandoned(late[1])
    assert (switch.breaker.state, switch.breaker.admit()) == ("half-open", None)
    switch.breaker.failed(late[2], "old news")
    assert (switch.breaker.state, switch.breaker.last_error) == ("half-open", "error 1")


async def test_d30_a_dead_upstream_is_left_alone_and_then_asked_once() -> None:
    upstream = Upstream({PRICE: DOWN, DAG: DOWN, BALANCE: DOWN})
    shop = market(upstream, breaker_failures=5, breaker_wait_ms=5_000)
    for _ in range(50):
        assert await failure(shop.snapshot(WALLET)) == DOWN
    assert [upstream.asked.count(path) for path in (PRICE, DAG, BALANCE)] == [5, 5, 5]
    upstream.pass_time(5_000)
    upstream.hold()
    wallets = [f"kaspa:{number}" for number in range(40)]
    crowd = [asyncio.create_task(failure(shop.snapshot(wallet))) for wallet in wallets]
    await settle()
    upstream.release()
    assert set(await asyncio.gather(*crowd)) == {DOWN}
    assert len(upstream.asked) == 15 + 2  # no balance is asked for before the others are there


async def test_d30_one_good_probe_and_the_market_is_back() -> None:
    upstream = Upstream({PRICE: DOWN})
    shop = market(upstream, breaker_failures=2)
    for _ in range(2):
        await failure(shop.snapshot(WALLET))
    upstream.answers[PRICE] = b'{"price": 2}'
    upstream.pass_time(4_999)
    assert await failure(shop.snapshot(WALLET)) == DOWN
    upstream.pass_time(1)
    assert (await shop.snapshot(WALLET))["priceUsd"] == 2
    upstream.pass_time(2_000)
    assert (await shop.snapshot(WALLET))["priceUsd"] == 2
    assert upstream.asked.count(PRICE) == 4


async def test_failures_that_are_not_in_a_row_open_nothing() -> None:
    upstream = Upstream()
    shop = market(upstream, market_ttl_ms=1, breaker_failures=2)
    for answer in (DOWN, b"{}") * 3:
        upstream.answers[PRICE] = answer
        upstream.pass_time(1)
        await tried(shop.snapshot(WALLET))
    assert upstream.asked.count(PRICE) == 6


async def test_a_probe_that_is_called_off_does_not_shut_the_market_for_good() -> None:
    upstream = Upstream({PRICE: DOWN})
    shop = market(upstream, breaker_failures=1)
    await failure(shop.snapshot(WALLET))
    upstream.pass_time(5_000)
    upstream.hold()
    waiting = asyncio.create_task(failure(shop.snapshot(WALLET)))
    await settle()
    await shop.close()
    await waiting
    upstream.release()
    upstream.answers[PRICE] = b'{"price": 2}'
    assert (await shop.snapshot(WALLET))["priceUsd"] == 2


async def test_bodies_that_are_no_json_open_the_breaker_too() -> None:
    upstream = Upstream({DAG: b"<html>"})
    shop = market(upstream, breaker_failures=2)
    for _ in range(9):
        assert "Unexpected token" in await failure(shop.snapshot(WALLET))
    assert upstream.asked.count(DAG) == 2


@pytest.mark.parametrize("status", [400, 404, 422, 429, 500, 503])
async def test_wallets_that_the_upstream_fails_for_leave_the_others_alone(status: int) -> None:
    """One user's agents, or anybody's reads, must not cost others their balances, nor show them what was said."""
    upstream = Upstream({f"/addresses/kaspa%3Aevil{n}/balance": f"upstream_{status}:evil{n}" for n in range(5)})
    shop = market(upstream, breaker_failures=3)
    for turn in range(20):
        name = f"evil{turn % 5}"
        assert await failure(shop.snapshot(f"kaspa:{name}")) == f"upstream_{status}:{name}"
        upstream.pass_time(10)
    assert (await shop.snapshot(WALLET))["walletKas"] == 2.5
    assert upstream.asked.count("/addresses/kaspa%3Aevil0/balance") == 3


async def test_a_price_that_is_not_found_opens_its_breaker() -> None:
    """A wrong base URL: nobody asked wrongly but the configuration."""
    upstream = Upstream({PRICE: "upstream_404:no"})
    shop = market(upstream, breaker_failures=2)
    for _ in range(5):
        await failure(shop.snapshot(WALLET))
    assert upstream.asked.count(PRICE) == 2


async def test_latency_is_observed_once_for_each_request_that_was_made() -> None:
    upstream = Upstream({PRICE: DOWN})
    upstream.hold()
    shop = market(upstream, breaker_failures=1)
    waiting = asyncio.create_task(failure(shop.snapshot(WALLET)))
    await settle()
    upstream.pass_time(120)
    upstream.release()
    await waiting
    await settle()
    assert sorted(upstream.observed) == [("balance", 120, True), ("blockdag", 120, True), ("price", 120, False)]
    await failure(shop.snapshot(WALLET))
    assert len(upstream.observed) == 3
