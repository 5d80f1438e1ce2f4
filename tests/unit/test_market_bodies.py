"""What the bodies of the upstream come down to, and what is told of those that are none."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.market import BALANCE, DAG, DOWN, PRICE, WALLET, Upstream, failure, market, tried
from vmsh_scheduler.errors import Unavailable
from vmsh_scheduler.market.snapshot import MarketFailed


async def value_of(body: Mapping[str, Any], path: str) -> Any:
    """What the snapshot makes of this one body, the others being empty objects."""
    upstream = Upstream({PRICE: b"{}", DAG: b"{}", BALANCE: b"{}"} | {path: json.dumps(body).encode()})
    shot: Any = await market(upstream).snapshot(WALLET)
    return {PRICE: shot["priceUsd"], DAG: shot["dag"], BALANCE: shot["walletKas"]}[path]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"price": 0.12}, 0.12),
        ({"price": "0.12"}, 0.12),
        ({"price": " 1e-3 "}, 0.001),
        ({"price": 3.0}, 3),
        ({"price": None, "priceUsd": 0.5}, 0.5),
        ({"priceUsd": ".5"}, 0.5),
        ({"price": "NaN"}, 0),
        ({"price": "Infinity"}, 0),
        ({"price": "0x10"}, 0),
        ({"price": "1_0"}, 0),
        ({"price": "٣"}, 0),
        ({"price": "9" * 200_000}, 0),
        ({"price": -0.1}, 0),
        ({"price": 1e300}, 0),
        ({"price": True}, 0),
        ({"price": "true"}, 0),
        ({"price": [1]}, 0),
        ({"price": {}}, 0),
        ({"price": ""}, 0),
        ({}, 0),
    ],
)
async def test_prices(body: Mapping[str, Any], expected: float) -> None:
    found = await value_of(body, PRICE)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"virtualDaaScore": "98765432", "headerCount": "1"}, (98765432, "")),
        ({"daaScore": None, "virtualDAAScore": 7, "network": "t"}, (7, "t")),
        ({"headerCount": "5", "blockCount": "6"}, (5, "")),
        ({"blockCount": 6.0}, (6, "")),
        ({"blockdag": {"daaScore": 1, "networkName": "n"}, "daaScore": 2}, (1, "n")),
        ({"blockdag": {}, "daaScore": 2}, (0, "")),
        ({"blockdag": "none", "daaScore": 2}, (2, "")),
        ({"daaScore": "junk", "blockCount": 6}, (0, "")),
        ({"daaScore": 2**53 - 1}, (2**53 - 1, "")),
        ({"daaScore": 2**53}, (0, "")),
        ({"networkName": 5}, (0, "")),
        ({"networkName": "a\n\u202e" + "b" * 100}, (0, "a\\n\\u202e" + "b" * 61)),
    ],
)
async def test_block_dags(body: Mapping[str, Any], expected: tuple[int, str]) -> None:
    score, network = expected
    assert await value_of(body, DAG) == {"daaScore": score, "network": network}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"balance": 250_000_000}, 2.5),
        ({"balance": "250000000"}, 2.5),
        ({"balance": 0, "sompi": 7}, 0),
        ({"balance": None, "sompi": 1}, 1e-08),
        ({"balance": 300_000_000}, 3),
        ({"balance": "2870000000000000001"}, 28_700_000_000),
        ({"balance": "18446744073709551615"}, 184_467_440_737.09552),
        ({"balance": 2**64}, 0),
        ({"balance": -1}, 0),
        ({"balance": False}, 0),
        ({}, 0),
    ],
)
async def test_balances(body: Mapping[str, Any], expected: float) -> None:
    found = await value_of(body, BALANCE)
    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize(
    "body",
    [b"[]", b"null", b"0", b'"x"', b"\xef\xbb\xbf{}", b'{"price": 1e999}', b'{"price": %s}' % (b"9" * 200_000)],
    ids=range(7),
)
async def test_json_without_a_price_is_a_price_of_nothing(body: bytes) -> None:
    shot = await market(Upstream({PRICE: body})).snapshot(WALLET)
    assert shot["priceUsd"] == 0


JSON_TEXTS = [  # bodies and texts as Node.js 20 gives them
    ("", "Unexpected end of JSON input"),
    ('{"price":', "Unexpected end of JSON input"),
    ("<html>", "Unexpected token '<', \"<html>\" is not valid JSON"),
    ("<html><body>502 Bad Gateway</body></html>", "Unexpected token '<', \"<html><bod\"... is not valid JSON"),
    ("[1,2,3,4,5,6,7,8,9,10,11,12,x]", "Unexpected token 'x', ...\",10,11,12,x]\" is not valid JSON"),
    (
        '{"a":"a long name","price":x,"b":"more of it"}',
        'Unexpected token \'x\', ..."","price":x,"b":"mor"... is not valid JSON',
    ),
    ("          x1234567890", "Unexpected token 'x', ...\"          x123456789\"... is not valid JSON"),
    ("           x123456789", "Unexpected token 'x', ...\"          x123456789\" is not valid JSON"),
    ("<2345678901234567890", "Unexpected token '<', \"<2345678901234567890\" is not valid JSON"),
    ("<23456789012345678901", "Unexpected token '<', \"<234567890\"... is not valid JSON"),
    ('{"price":}', 'Unexpected token \'}\', "{"price":}" is not valid JSON'),
]


@pytest.mark.parametrize(("body", "text"), JSON_TEXTS)
async def test_what_is_no_json_is_told_in_the_words_of_the_seed(body: str, text: str) -> None:
    assert await failure(market(Upstream({PRICE: body.encode()})).snapshot(WALLET)) == text


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"price": NaN}', "Unexpected token 'N'"),
        (b'{"price": 1} x', "in JSON at position 13"),
        (b"[" * 200_000, "nested too deeply"),
        (b" " * 262_145, "upstream_body_over_262144_bytes"),
    ],
)
async def test_hostile_bodies_fail_the_snapshot(body: bytes, part: str) -> None:
    assert part in await failure(market(Upstream({PRICE: body})).snapshot(WALLET))


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (RuntimeError(DOWN), DOWN),
        (TimeoutError(), "This operation was aborted"),
        (OSError(), "fetch failed"),
        (RuntimeError("a\nb\x1b[2J"), "a\\nb\\x1b[2J"),
        (RuntimeError("x" * 1_000_000), "x" * 240),
        (RuntimeError("\x1b" * 240), "\\x1b" * 60),
    ],
)
async def test_what_the_fetch_says_is_what_the_caller_reads(error: Exception, text: str) -> None:
    assert await failure(market(Upstream({DAG: error})).snapshot(WALLET)) == text


def test_a_failed_market_is_something_outside_that_does_not_answer() -> None:
    assert isinstance(MarketFailed("x"), Unavailable)
    assert MarketFailed.code == "market_unavailable"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["1e9", "-3", "07"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["price", "priceUsd", "blockdag", "daaScore", "blockCount", "networkName", "balance", "sompi"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


BODIES = st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode())


@settings(max_examples=300, deadline=None)
@given(BODIES, BODIES, BODIES)
def test_fuzz_any_bodies_give_sound_numbers_or_market_failed(price: bytes, dag: bytes, balance: bytes) -> None:
    async def once() -> None:
        shot, error = await tried(market(Upstream({PRICE: price, DAG: dag, BALANCE: balance})).snapshot(WALLET))
        if error is not None:
            assert 0 < len(error) <= 240
            return
        assert 0 <= shot["priceUsd"] <= 2**53
        assert 0 <= shot["dag"]["daaScore"] <= 2**53
        assert 0 <= shot["walletKas"] <= 2**64 / 1e8
        json.dumps(shot, allow_nan=False, ensure_ascii=False).encode()

    asyncio.run(once())
