"""Snapshots for agents on virtual time, from an upstream that does what a script says."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.market import BALANCE, DAG, DOWN, PRICE, WALL, WALLET, Upstream, failure, market, settle
from vmsh_scheduler.market.snapshot import valid_address


async def test_the_snapshot_of_the_contract() -> None:
    upstream = Upstream()
    assert json.dumps(await market(upstream).snapshot(f"  {WALLET.upper()} ")) == json.dumps(
        {
            "ts": WALL,
            "address": WALLET,
            "priceUsd": 0.12,
            "dag": {"daaScore": 98765432, "network": "kaspa-mainnet"},
            "walletKas": 2.5,
        }
    )
    assert sorted(upstream.asked) == sorted([PRICE, DAG, BALANCE])


async def test_the_reply_says_how_old_each_value_is() -> None:
    upstream = Upstream()
    shop = market(upstream, market_ttl_ms=1_000, balance_ttl_ms=300)
    await shop.reply(WALLET)
    upstream.pass_time(400)
    reply: Any = await shop.reply(WALLET)
    assert reply["cache"] == {"priceAgeMs": 400, "blockdagAgeMs": 400, "balanceAgeMs": 0}
    assert reply["snapshot"]["ts"] == WALL + 400


async def test_every_age_is_of_its_own_value() -> None:
    upstream = Upstream()
    upstream.hold(DAG, BALANCE)
    waiting = asyncio.create_task(market(upstream, market_ttl_ms=9_000).reply(WALLET))
    await settle()
    upstream.pass_time(100)
    upstream.release()
    upstream.hold(BALANCE)
    await settle()
    upstream.pass_time(20)
    upstream.release()
    assert (await waiting)["cache"] == {"priceAgeMs": 120, "blockdagAgeMs": 20, "balanceAgeMs": 0}


async def test_health_sees_ages_and_the_number_of_balances() -> None:
    upstream = Upstream()
    shop = market(upstream)
    assert shop.view() == {"priceAgeMs": None, "blockdagAgeMs": None, "balanceEntries": 0}
    await shop.snapshot("kaspa:a")
    upstream.pass_time(60_000)
    assert shop.view() == {"priceAgeMs": 60_000, "blockdagAgeMs": 60_000, "balanceEntries": 1}


async def test_the_three_values_are_asked_for_at_once() -> None:
    upstream = Upstream()
    upstream.hold()
    waiting = asyncio.create_task(market(upstream).snapshot(WALLET))
    await settle()
    assert sorted(upstream.asked) == sorted([PRICE, DAG, BALANCE])
    upstream.release()
    await waiting


async def test_a_failure_is_told_while_the_others_still_run() -> None:
    upstream = Upstream({PRICE: DOWN})
    upstream.hold(DAG, BALANCE)
    shop = market(upstream)
    assert await failure(shop.snapshot(WALLET)) == DOWN
    await settle()
    assert len(asyncio.all_tasks()) == 1 + 2, "this test, and the two requests that run on"
    await shop.close()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (f" {WALLET}\n", WALLET),
        ("KaspaTest:QQ", "kaspatest:qq"),
        ("kaspa:", "kaspa:"),
        ("kaspa:" + "q" * 194, "kaspa:" + "q" * 194),
        ("kaspa:" + "q" * 195, ""),
        ("kaspa:q" + " " * 1_000_000, ""),
        ("", ""),
        ("abc", ""),
        ("bitcoin:abc", ""),
        ("kaspadev:q", ""),
        ("x kaspa:q", ""),
        ("kaspa:q\r\nHost: x", ""),
        ("kaspa:q\x00", ""),
        ("kaspa:\udcff", ""),
        ("kaspa:é", ""),
        ("\u212aaspa:q", "kaspa:q"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert valid_address(text) == address


async def test_what_is_no_address_asks_nobody() -> None:
    upstream = Upstream()
    assert await failure(market(upstream).snapshot("kaspadev:q")) == "address_required"
    assert await failure(market(upstream).reply("")) == "address_required"
    assert upstream.asked == []


async def test_an_address_stays_one_segment_of_the_path() -> None:
    upstream = Upstream()
    await market(upstream).snapshot("kaspa:../a?b#c%2f")
    assert upstream.asked[-1] == "/addresses/kaspa%3A..%2Fa%3Fb%23c%252f/balance"
