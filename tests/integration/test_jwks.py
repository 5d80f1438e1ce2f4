"""JWTs by the keys of an issuer: a real server, real signatures, virtual time."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.tokens import (
    NOW_MS,
    NOW_S,
    SECRET,
    Issuer,
    claims,
    ec_jwk,
    es256,
    fetch,
    hs256,
    public_pem,
    rs256,
    rsa_jwk,
    unsigned,
)
from vmsh_scheduler.api.auth import Authenticator
from vmsh_scheduler.api.jwt_keys import KeySet
from vmsh_scheduler.api.principal import AuthSettings

TTL_MS = 300_000
COOL_DOWN_MS = 30_000
WITHIN_S = 5


class World:
    """An authenticator with a key set, and the time that both live in."""

    def __init__(self, issuer: Issuer, /, *, discovery: bool = False, **more: Any) -> None:
        source = {"oidc_issuer": issuer.url} if discovery else {"jwks_url": f"{issuer.url}/jwks"}
        self.now = 0
        settings = AuthSettings(**(source | more))
        self.keys = KeySet(settings, fetch, lambda: self.now)
        self._authenticator = Authenticator(settings, self.keys, lambda: NOW_MS)

    async def sub(self, token: str) -> str | None:
        found = await self._authenticator.authenticate({"authorization": f"Bearer {token}"})
        return None if found is None else found.sub

    @property
    def counters(self) -> tuple[int, int, int]:
        return self.keys.fetches, self.keys.fetch_errors, self.keys.cache_hits


async def test_both_kinds_of_keys_by_one_fetch() -> None:
    async with Issuer() as issuer:
        issuer.keys = [rsa_jwk(), ec_jwk()]
        world = World(issuer)
        assert [await world.sub(token) for token in (rs256(claims()), es256(claims(sub="eve")))] == ["ana", "eve"]
        assert world.counters == (1, 0, 1)


async def test_keys_found_by_discovery() -> None:
    async with Issuer() as issuer:
        world = World(issuer, discovery=True)
        good = rs256(claims(iss=issuer.url + "/"))
        assert [await world.sub(good) for _ in range(3)] == ["ana"] * 3
        assert await world.sub(rs256(claims())) is None
        assert issuer.asked == ["/.well-known/openid-configuration", "/jwks"]


async def test_discovery_has_a_time_of_its_own() -> None:
    async with Issuer() as issuer:
        world = World(issuer, discovery=True, discovery_ttl_ms=2 * TTL_MS)
        for _ in range(4):
            await world.sub(rs256(claims(iss=issuer.url)))
            world.now += TTL_MS
        keys = world.keys
        assert (keys.fetches, keys.discovery_fetches, keys.discovery_cache_hits) == (4, 2, 2)


@pytest.mark.parametrize(
    ("switch", "value"),
    [
        ("named", "https://evil.example"),
        ("jwks_uri", "http://issuer.example/jwks"),
        ("jwks_uri", "file:///etc/passwd"),
        ("jwks_uri", "jwks"),
    ],
)
async def test_a_discovery_document_that_may_not_be_trusted(switch: str, value: str) -> None:
    async with Issuer() as issuer:
        setattr(issuer, switch, value)
        world = World(issuer, discovery=True)
        assert await world.sub(rs256(claims(iss=issuer.url))) is None
        assert issuer.asked == ["/.well-known/openid-configuration"]
        assert (world.keys.fetches, world.keys.discovery_errors) == (0, 1)
        assert "discovery document" in world.keys.last_error


async def test_discovery_over_https_does_not_lead_to_http() -> None:
    asked = []

    async def scripted(url: str, most: int) -> tuple[int, bytes]:
        asked.append(url)
        return 200, json.dumps({"issuer": "https://i.example", "jwks_uri": "http://127.0.0.1:9/jwks"}).encode()

    keys = KeySet(AuthSettings(oidc_issuer="https://i.example"), scripted, lambda: 0)
    assert await keys.verified(rs256(claims()), "one", "RS256") is None
    assert asked == ["https://i.example/.well-known/openid-configuration"]


async def test_a_ttl_below_the_cool_down_is_kept() -> None:
    async with Issuer() as issuer:
        world = World(issuer, jwks_ttl_ms=1000)
        for _ in range(3):
            assert await world.sub(rs256(claims())) == "ana"
            world.now += 1000
        assert world.keys.fetches == 3


async def test_an_issuer_that_lost_its_discovery_keeps_its_keys() -> None:
    async with Issuer() as issuer:
        world = World(issuer, discovery=True)
        good = rs256(claims(iss=issuer.url))
        assert await world.sub(good) == "ana"
        issuer.named = "https://evil.example"
        world.now += TTL_MS
        assert await world.sub(good) == "ana"
        assert (world.keys.fetches, world.keys.discovery_errors) == (2, 1)


def forged() -> dict[str, str]:
    good = rs256(claims())
    header, _, signature = good.split(".")
    return {
        "alg none": f"{unsigned({'alg': 'none', 'kid': 'one'}, claims())}.",
        "alg none, the good signature": f"{unsigned({'alg': 'none', 'kid': 'one'}, claims())}.{signature}",
        "HS256 by the public key": hs256(claims(), public_pem(), {"alg": "HS256", "kid": "one"}),
        "another claim": f"{header}.{rs256(claims(sub='root')).split('.')[1]}.{signature}",
        "another key": rs256(claims(), key=1),
        "its own key": rs256(claims(), key=1, jwk=rsa_jwk(key=1)),
        "a key from elsewhere": rs256(claims(), key=1, jku="http://127.0.0.1:9/jwks"),
        "ES256 for the RSA key": es256(claims(), "one"),
        "PS256": rs256(claims(), alg="PS256"),
        "RS512": rs256(claims(), alg="RS512"),
        "wrong kid": rs256(claims(), "two"),
        "kid a path": rs256(claims(), "../../etc/passwd"),
        "kid a query": rs256(claims(), "' OR 1=1 --"),
        "kid a URL": rs256(claims(), "http://127.0.0.1:9/key"),
        "kid empty": rs256(claims(), ""),
        "kid too long": rs256(claims(), "one" * 100),
        "crit": rs256(claims(), crit=["exp"]),
        "b64": rs256(claims(), b64=True),
        "expired": rs256(claims(exp=NOW_S - 1)),
        "without exp": rs256(claims(exp=None)),
        "not yet": rs256(claims(nbf=NOW_S + 5)),
        "for others": rs256(claims(aud="others")),
        "of another issuer": rs256(claims(iss="https://evil.example")),
        "twice the scope": rs256(json.dumps(claims(aud="forge"))[:-1] + ', "scope": "admin"}'),
        "trailing =": good + "==",
    }


RULES = {"for others": {"audience": "forge"}, "of another issuer": {"issuer": "https://i.example"}}


@pytest.mark.parametrize("name", forged().keys())
async def test_a1_a2_a3_forged_tokens_are_refused(name: str) -> None:
    async with Issuer() as issuer:
        world = World(issuer, hs256_secret=SECRET, **RULES.get(name, {}))
        assert await world.sub(forged()[name]) is None
        assert set(issuer.asked) <= {"/jwks"}
        assert await World(issuer).sub(rs256(claims())) == "ana"


async def test_audience_and_issuer_that_fit() -> None:
    async with Issuer() as issuer:
        world = World(issuer, audience="forge", issuer="https://i.example")
        assert await world.sub(rs256(claims(aud=["x", "forge"], iss="https://i.example"))) == "ana"
        assert await world.sub(rs256(claims(aud="x", iss="https://i.example"))) is None
        assert await world.sub(rs256(claims(aud="forge"))) is None


async def test_a_kid_that_is_too_long_costs_no_fetch() -> None:
    async with Issuer() as issuer:
        world = World(issuer)
        assert await world.sub(rs256(claims(), "k" * 129)) is None
        assert await world.sub(unsigned({"alg": "RS256"}, claims()) + ".AAAA") is None
        assert issuer.asked == []


async def test_a4_a_rotated_key_is_accepted_within_a_minute() -> None:
    async with Issuer() as issuer:
        world = World(issuer)
        assert await world.sub(rs256(claims())) == "ana"
        issuer.keys = [rsa_jwk("two", key=1)]
        fresh = rs256(claims(), "two", key=1)
        assert await world.sub(fresh) is None
        world.now += COOL_DOWN_MS
        assert await world.sub(fresh) == "ana"
        assert await world.sub(rs256(claims())) is None
        assert world.keys.fetches == 2


async def test_a4_a_key_rotated_under_its_kid_too() -> None:
    async with Issuer() as issuer:
        world = World(issuer)
        assert await world.sub(rs256(claims())) == "ana"
        issuer.keys = [rsa_jwk(key=1)]
        world.now += COOL_DOWN_MS
        assert await world.sub(rs256(claims(), key=1)) == "ana"
        assert await world.sub(rs256(claims())) is None


async def test_a4_d23_a_flood_of_random_kids_costs_a_fetch_per_cool_down() -> None:
    async with Issuer() as issuer:
        world = World(issuer, discovery=True)
        signature = rs256(claims()).rpartition(".")[2]
        for number in range(10_000):
            token = f"{unsigned({'alg': 'RS256', 'kid': f'kid-{number}'}, claims())}.{signature}"
            assert await world.sub(token) is None
            world.now += 6
        assert (world.keys.fetches, world.keys.discovery_fetches) == (2, 2)


async def test_d23_bad_signatures_cost_no_more() -> None:
    async with Issuer() as issuer:
        world = World(issuer)
        bad = rs256(claims(), key=1)
        for _ in range(50):
            assert await world.sub(bad) is None
        assert issuer.asked == ["/jwks"]


async def test_many_who_ask_at_once_share_one_fetch() -> None:
    async with Issuer() as issuer:
        issuer.hold = asyncio.Event()
        world = World(issuer)
        asking = [asyncio.create_task(world.sub(rs256(claims()))) for _ in range(40)]
        await asyncio.wait_for(issuer.reached.wait(), WITHIN_S)
        asking[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking[0]
        issuer.hold.set()
        assert await asyncio.gather(*asking[1:]) == ["ana"] * 39
        assert issuer.asked == ["/jwks"]


async def test_a4_an_issuer_that_is_down_keeps_its_last_keys_for_ten_ttls() -> None:
    async with Issuer() as issuer:
        world = World(issuer)
        assert await world.sub(rs256(claims())) == "ana"
        await issuer.stop()
        world.now += TTL_MS
        assert [await world.sub(rs256(claims())) for _ in range(20)] == ["ana"] * 20
        assert world.counters[:2] == (2, 1)
        world.now = 10 * TTL_MS
        assert await world.sub(rs256(claims())) == "ana"
        world.now += 1
        assert await world.sub(rs256(claims())) is None
        assert world.keys.last_error == "ClientConnectorError"


async def test_a4_an_issuer_that_comes_back_is_asked_after_the_cool_down() -> None:
    async with Issuer() as issuer:
        issuer.broken = True
        world = World(issuer)
        assert [await world.sub(rs256(claims())) for _ in range(5)] == [None] * 5
        assert (world.counters, world.keys.last_error) == ((1, 1, 0), "the issuer answered 503")
        issuer.broken = False
        world.now += COOL_DOWN_MS
        assert await world.sub(rs256(claims())) == "ana"
        assert world.keys.last_error == ""


async def test_an_issuer_that_is_slow_is_given_up() -> None:
    async with Issuer() as issuer:
        issuer.hold = asyncio.Event()
        world = World(issuer, http_timeout_ms=20)
        async with asyncio.timeout(WITHIN_S):
            assert await world.sub(rs256(claims())) is None
        assert (world.keys.fetch_errors, world.keys.last_error) == (1, "TimeoutError")
        issuer.hold.set()


async def test_a_redirect_is_not_followed() -> None:
    async with Issuer() as issuer:
        issuer.moved = True
        world = World(issuer)
        assert await world.sub(rs256(claims())) is None
        assert (issuer.asked, world.keys.last_error) == (["/jwks"], "the issuer answered 302")


@pytest.mark.parametrize(
    "body",
    [
        b"x" * (256 * 1024 + 1),
        b"[" * 200_000,
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [], "keys": []}',
        b"\xff\xfe",
    ],
    ids=lambda body: str(body[:12]),
)
async def test_an_answer_that_is_no_key_set(body: bytes) -> None:
    async with Issuer() as issuer:
        issuer.body = body
        world = World(issuer)
        assert [await world.sub(rs256(claims())) for _ in range(3)] == [None] * 3
        assert world.counters == (1, 1, 0)


async def test_a_huge_answer_is_refused_even_if_the_fetch_lets_it_through() -> None:
    async def careless(url: str, most: int) -> tuple[int, bytes]:
        return 200, json.dumps({"keys": [rsa_jwk()], "padding": "x" * most}).encode()

    keys = KeySet(AuthSettings(jwks_url="https://i.example/k"), careless, lambda: 0)
    assert await keys.verified(rs256(claims()), "one", "RS256") is None
    assert keys.last_error == "the issuer's answer is longer than 262144 bytes"


async def test_a_withdrawn_key_set_is_withdrawn() -> None:
    """The issuer answers, and names no key: that is no outage."""
    async with Issuer() as issuer:
        world = World(issuer)
        assert await world.sub(rs256(claims())) == "ana"
        issuer.keys = []
        world.now += TTL_MS
        assert await world.sub(rs256(claims())) is None


async def test_pinned_a_foreign_kid_is_refused_before_any_fetch() -> None:
    async with Issuer() as issuer:
        issuer.keys = [rsa_jwk(), rsa_jwk("two", key=1)]
        world = World(issuer, allowed_kids=("one",), require_pinned_kid=True)
        assert await world.sub(rs256(claims(), "two", key=1)) is None
        assert issuer.asked == []
        assert await world.sub(rs256(claims())) == "ana"
        assert await world.sub(rs256(claims(), "two", key=1)) is None
        assert issuer.asked == ["/jwks"]


async def test_pinned_a_key_set_without_a_pinned_key_is_an_error() -> None:
    async with Issuer() as issuer:
        world = World(issuer, allowed_kids=("two",), require_pinned_kid=True)
        assert await world.sub(rs256(claims(), "two", key=1)) is None
        assert (world.keys.fetch_errors, world.keys.last_error) == (1, "the key set holds no key that may be used")


async def test_other_pins_count_at_once() -> None:
    async with Issuer() as issuer:
        issuer.keys = [rsa_jwk(), rsa_jwk("two", key=1)]
        world = World(issuer, allowed_kids=("one",), require_pinned_kid=True)
        old, new = rs256(claims()), rs256(claims(sub="eve"), "two", key=1)
        assert await world.sub(old) == "ana"
        assert await world.keys.repin(["two"]) == ""
        assert [await world.sub(old), await world.sub(new)] == [None, "eve"]
        assert "the former pins stay" in await world.keys.repin([])
        assert [await world.sub(old), await world.sub(new)] == [None, "eve"]
        assert (issuer.asked, world.keys.pins_wait, world.keys.pinned) == (["/jwks"], False, 1)


async def test_pins_that_would_lock_everybody_out_wait_until_the_issuer_publishes_one() -> None:
    async with Issuer() as issuer:
        world = World(issuer, allowed_kids=("one",), require_pinned_kid=True)
        old, new = rs256(claims()), rs256(claims(sub="eve"), "two", key=1)
        assert await world.sub(old) == "ana"
        world.now += COOL_DOWN_MS
        assert "no key that the issuer publishes now" in await world.keys.repin(["two"])
        assert world.keys.pins_wait
        assert [await world.sub(old), await world.sub(new)] == ["ana", None]
        assert issuer.asked == ["/jwks"] * 2
        issuer.keys.append(rsa_jwk("two", key=1))
        world.now += COOL_DOWN_MS
        assert [await world.sub(new), await world.sub(old)] == ["eve", None]
        assert not world.keys.pins_wait


async def test_pins_of_a_key_that_is_newer_than_the_last_fetch_count_at_once() -> None:
    async with Issuer() as issuer:
        world = World(issuer, allowed_kids=("one",))
        assert await world.sub(rs256(claims())) == "ana"
        issuer.keys = [rsa_jwk("two", key=1)]
        world.now += COOL_DOWN_MS
        assert await world.keys.repin(["two"]) == ""
        assert await world.sub(rs256(claims(sub="eve"), "two", key=1)) == "eve"


async def test_pins_that_cannot_be_judged_wait() -> None:
    async with Issuer() as issuer:
        world = World(issuer, allowed_kids=("one",))
        issuer.broken = True
        assert "no key of the issuer is known" in await world.keys.repin(["two"])
        issuer.broken = False
        world.now += COOL_DOWN_MS
        assert "no key that the issuer publishes now" in await world.keys.repin(["two"])
        assert await world.keys.repin(["one"]) == ""
        assert await world.sub(rs256(claims())) == "ana"


async def test_closing_ends_a_fetch() -> None:
    async with Issuer() as issuer:
        issuer.hold = asyncio.Event()
        world = World(issuer)
        asking = asyncio.create_task(world.sub(rs256(claims())))
        await asyncio.wait_for(issuer.reached.wait(), WITHIN_S)
        async with asyncio.timeout(WITHIN_S):
            await world.keys.close()
            await world.keys.close()
        with pytest.raises(asyncio.CancelledError):
            await asking
        issuer.hold.set()
