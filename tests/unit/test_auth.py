"""Who is let in, and who is not: shared and service tokens, HS256 tokens, scopes, owners."""

import asyncio
import hmac
import json
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import pytest

from tests.support import tokens as forge
from tests.support.tokens import NOW_MS, NOW_S, SECRET, b64, claims, hs256, rs256, unsigned
from vmsh_scheduler.api.auth import Authenticator, owner, visible_to
from vmsh_scheduler.api.principal import AuthSettings, Principal
from vmsh_scheduler.api.scopes import Need, required
from vmsh_scheduler.api.tokens import parse_service_tokens

HOUR_S = 3600
SERVICE = '{"svc-token": {"sub": "bot", "scopes": "agent:read"}}'

Record = Callable[[str, object], None]


def asked(settings: AuthSettings, headers: Mapping[str, str]) -> Principal | None:
    return asyncio.run(Authenticator(settings, None, lambda: NOW_MS).authenticate(headers))


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def by_jwt(token: str, **settings: Any) -> Principal | None:
    return asked(AuthSettings(hs256_secret=SECRET, **settings), bearer(token))


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({"authorization": "Bearer secret-1"}, True),
        ({"authorization": "bEARER   secret-2  "}, True),
        ({"authorization": "Basic abc", "x-scheduler-token": "secret-1"}, True),
        ({"x-scheduler-token": " secret-1 "}, True),
        ({"authorization": "Bearer wrong", "x-scheduler-token": "secret-1"}, False),
        ({"authorization": "secret-1"}, False),
        ({"authorization": "Bearer secret-"}, False),
        ({"authorization": "Bearer secret-11"}, False),
        ({"authorization": "Bearer "}, False),
        ({"authorization": "Bearer sécret\udce9"}, False),
        ({}, False),
    ],
)
def test_shared_tokens(headers: dict[str, str], *, let_in: bool) -> None:
    found = asked(AuthSettings(tokens=("secret-1", "secret-2")), headers)
    assert (found is not None) == let_in
    if found is not None:
        assert (found.sub, found.is_admin) == ("scheduler-admin", True)
        assert found.allows("metrics:read")


def test_service_tokens() -> None:
    settings = AuthSettings(tokens=("shared",), service_tokens=parse_service_tokens(SERVICE))
    found = asked(settings, bearer("svc-token"))
    assert found == Principal("bot", frozenset({"agent:read"}), "service")
    assert [found.allows(scope) for scope in ("", "agent:read", "agent:write", "admin")] == [True, True, False, False]


def test_without_any_setting_nobody_is_known() -> None:
    assert asked(AuthSettings(), bearer(hs256(claims(), b""))) is None


def test_d22_a5_every_token_is_compared_in_constant_time(
    monkeypatch: pytest.MonkeyPatch, record_property: Record
) -> None:
    """Whichever matches: as many compares, of digests of one length."""
    seen: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        seen.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    settings = AuthSettings(tokens=("first", "second", "third"), service_tokens=parse_service_tokens(SERVICE))
    for token in ("first", "third", "svc-token", "none-of-them", "x" * 8000):
        seen.clear()
        asked(settings, bearer(token))
        assert seen == [(32, 32)] * 4
    record_property("A5", "whichever token matches or none: 4 compares of digests of one length, in constant time")


def test_a_jwt() -> None:
    token = hs256(claims(scope="agent:read, agent:write x"))
    assert by_jwt(token) == Principal("ana", frozenset({"agent:read", "agent:write", "x"}), "jwt")


@pytest.mark.parametrize(
    ("given", "scopes"),
    [
        ({"scopes": ["a b", "c", 1], "scope": "d"}, {"a b", "c"}),
        ({"scope": "a,b", "scopes": "c"}, {"a", "b"}),
        ({"scopes": "c d"}, {"c", "d"}),
        ({"scope": ["a"]}, {"a"}),
        ({"scope": {"a": 1}}, set()),
        ({}, set()),
    ],
)
def test_scopes_of_a_jwt(given: dict[str, Any], scopes: set[str]) -> None:
    found = by_jwt(hs256(claims(scope=None) | given))
    assert found is not None
    assert found.scopes == scopes


GOOD_HEADER = {"alg": "HS256", "typ": "JWT"}
GOOD = hs256(claims())
HEAD, BODY, SIGNATURE = GOOD.split(".")


def padded(token: str) -> str:
    return token + "=" * (-len(token.rpartition(".")[2]) % 4)


def headed(**more: Any) -> str:
    return hs256(claims(), header=GOOD_HEADER | more)


def last_bit_flipped() -> str:
    """43 characters hold 258 bits, 256 count: another text of the same signature."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return GOOD[:-1] + alphabet[alphabet.index(GOOD[-1]) ^ 1]


FORGED = {
    "alg none, no signature": f"{unsigned({'alg': 'none'}, claims())}.",
    "alg NoNe": f"{unsigned({'alg': 'NoNe'}, claims())}.",
    "alg none, a signature": hs256(claims(), header={"alg": "none"}),
    "alg none, the good signature": f"{unsigned({'alg': 'none'}, claims())}.{SIGNATURE}",
    "alg in lower case": hs256(claims(), header={"alg": "hs256"}),
    "alg HS512 with the bytes of HS256": hs256(claims(), header={"alg": "HS512"}),
    "no alg": hs256(claims(), header={"typ": "JWT"}),
    "alg a list": hs256(claims(), header={"alg": ["HS256"]}),
    "alg twice": hs256(claims(), header='{"alg":"none","alg":"HS256"}'),
    "crit": headed(crit=["exp"]),
    "crit, empty": headed(crit=[]),
    "b64 false": headed(b64=False, crit=["b64"]),
    "b64 true": headed(b64=True),
    "embedded jwk": hs256(
        claims(), b"k" * 32, GOOD_HEADER | {"jwk": {"kty": "oct", "k": b64(b"k" * 32), "alg": "HS256"}}
    ),
    "a good one with a jwk": headed(jwk={"kty": "oct"}),
    "x5u": headed(x5u="https://evil.example/chain"),
    "jku": headed(jku="https://evil.example/keys"),
    "the key set's public key as secret": hs256(claims(), forge.public_pem(), GOOD_HEADER | {"kid": "one"}),
    "RS256 where there are no keys": rs256(claims()),
    "another secret": hs256(claims(), b"x" * 32),
    "the empty secret": hs256(claims(), b""),
    "signature cut": GOOD[:-2],
    "claims of another token": f"{HEAD}.{hs256(claims(sub='root')).split('.')[1]}.{SIGNATURE}",
    "two segments": f"{HEAD}.{BODY}",
    "four segments": f"{GOOD}.x",
    "five segments (JWE)": f"{GOOD}.x.y",
    "header no object": hs256(claims(), header="[]"),
    "header no JSON": hs256(claims(), header="{"),
    "header nested deep": hs256(claims(), header="[" * 4000),
    "not base64": "a.b.c",
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_a1_forged_tokens_are_refused(token: str) -> None:
    assert by_jwt(token) is None
    assert by_jwt(token, legacy_claims=True) is None


def test_a1_the_corpus_is_large_enough_and_its_model_is_good(record_property: Record) -> None:
    assert len(set(FORGED.values())) >= 25
    assert by_jwt(GOOD) is not None
    assert by_jwt(headed()) is not None
    accepted = sum(by_jwt(token) is not None for token in FORGED.values())
    record_property("A1", f"{len(FORGED)} forged tokens, {accepted} accepted")


@pytest.mark.parametrize(
    "token",
    [
        padded(GOOD),
        GOOD + "=",
        f"{HEAD}=.{BODY}.{SIGNATURE}",
        last_bit_flipped(),
        f" {GOOD[:-1]} {GOOD[-1]}",
        f"{GOOD}\n.",
        GOOD.replace(".", ". "),
        GOOD.translate({ord("-"): "+", ord("_"): "/"}) + "+",
    ],
)
def test_a2_a_token_has_one_spelling(token: str) -> None:
    assert token != GOOD
    assert by_jwt(token) is None


def test_a2_a_token_is_bounded() -> None:
    """Just under the bound it is taken."""
    near = hs256(claims(padding="x" * 5_900))
    assert 7_900 < len(near) <= 8_192
    assert by_jwt(near) is not None
    assert by_jwt(hs256(claims(padding="x" * 6_200))) is None


def test_a2_duplicate_claims_are_refused(record_property: Record) -> None:
    text = json.dumps(claims())[:-1] + ', "scope": "admin"}'
    assert json.loads(text)["scope"] == "admin"
    assert by_jwt(hs256(text)) is None
    record_property("A2", "missing or odd claims, other spellings, duplicate claims, short secrets: 0 taken")


@pytest.mark.parametrize("text", ["[]", "1", "{", "", '{"sub": NaN}', "[" * 5000, '{"exp":' + "9" * 5000 + "}"])
def test_claims_that_are_no_object_are_refused(text: str) -> None:
    assert by_jwt(hs256(text)) is None


@pytest.mark.parametrize(
    ("changes", "let_in"),
    [
        ({"exp": None}, False),
        ({"exp": 0}, False),
        ({"exp": ""}, False),
        ({"exp": str(NOW_S + HOUR_S)}, False),
        ({"exp": True}, False),
        ({"exp": NOW_S + 60.5}, False),
        ({"exp": [NOW_S + 60]}, False),
        ({"exp": NOW_S - 1}, False),
        ({"exp": NOW_S}, False),
        ({"exp": NOW_S + 1}, True),
        ({"exp": NOW_S + 24 * HOUR_S}, True),
        ({"exp": NOW_S + 25 * HOUR_S}, False),
        ({"exp": NOW_S + 300 * 365 * 24 * HOUR_S}, False),
        ({"exp": 10**300}, False),
        ({"iat": NOW_S - 24 * HOUR_S}, False),
        ({"iat": NOW_S - 22 * HOUR_S}, True),
        ({"iat": NOW_S + 10**9, "exp": NOW_S + 10**9 + 60}, False),
        ({"iat": "now"}, False),
        ({"nbf": NOW_S}, True),
        ({"nbf": NOW_S + 1}, False),
        ({"nbf": "0"}, False),
        ({"sub": None}, False),
        ({"sub": None, "userId": "bob"}, False),
        ({"sub": ""}, False),
        ({"sub": 7}, False),
        ({"sub": ["ana"]}, False),
        ({"sub": "a" * 120}, True),
        ({"sub": "a" * 121}, False),
        ({"sub": "a\r\nb"}, False),
        ({"sub": "\ud800"}, False),
        ({"sub": "Łucja"}, True),
    ],
)
def test_a2_d22_claims(changes: dict[str, Any], *, let_in: bool) -> None:
    assert (by_jwt(hs256(claims(**changes))) is not None) == let_in


@pytest.mark.parametrize(
    ("changes", "sub"),
    [
        ({"exp": None}, "ana"),
        ({"exp": NOW_S + 300 * 365 * 24 * HOUR_S}, "ana"),
        ({"sub": None}, "jwt-user"),
        ({"sub": None, "userId": "bob"}, "bob"),
        ({"sub": "a" * 200}, "a" * 120),
        ({"exp": NOW_S - 1}, None),
        ({"exp": 0}, None),
        ({"exp": "never"}, None),
        ({"nbf": NOW_S + 1}, None),
        ({"sub": 7}, None),
    ],
)
def test_legacy_claims(changes: dict[str, Any], sub: str | None) -> None:
    found = by_jwt(hs256(claims(**changes)), legacy_claims=True)
    assert (None if found is None else found.sub) == sub


@pytest.mark.parametrize(
    ("iss", "let_in"),
    [("https://i.example", True), ("https://i.example//", True), ("https://i.example.evil", False), (None, False)],
)
@pytest.mark.parametrize("setting", ["issuer", "oidc_issuer"])
def test_issuer(iss: str | None, setting: str, *, let_in: bool) -> None:
    found = by_jwt(hs256(claims(iss=iss)), **{setting: "https://i.example/"})
    assert (found is not None) == let_in


@pytest.mark.parametrize(
    ("aud", "let_in"),
    [("forge", True), (["x", "forge"], True), ("forge2", False), (["x"], False), ({"forge": 1}, False), (None, False)],
)
def test_audience(aud: object, *, let_in: bool) -> None:
    token = hs256(claims(aud=aud))
    assert (by_jwt(token, audience="forge") is not None) == let_in
    assert by_jwt(token) is not None


def test_a3_the_kid_of_an_hs256_token_is_not_looked_at(record_property: Record) -> None:
    for kid in ("../../etc/passwd", "'; DROP TABLE keys; --", ""):
        assert by_jwt(headed(kid=kid)) is not None
    record_property("A3", "a path, a query and nothing as the kid of an HS256 token: not looked at")


OPEN = Need(auth=False, scope="", bucket="")
ANY = Need(auth=True, scope="", bucket="")
READ = Need(auth=True, scope="agent:read", bucket="read")
WRITE = Need(auth=True, scope="agent:write", bucket="write")
TICK = Need(auth=True, scope="scheduler:tick", bucket="tick")


@pytest.mark.parametrize(
    ("method", "path", "need", "with_reads"),
    [
        ("OPTIONS", "/v1/agents", OPEN, OPEN),
        ("GET", "/health", OPEN, OPEN),
        ("GET", "/metrics", OPEN, OPEN),
        ("GET", "/livez", OPEN, OPEN),
        ("GET", "/v1/agents", OPEN, READ),
        ("GET", "/v1/nothing", OPEN, READ),
        ("GET", "/", OPEN, ANY),
        ("GET", "/health/", OPEN, ANY),
        ("GET", "//v1/agents", OPEN, ANY),
        ("POST", "/v1/scheduler/tick", TICK, TICK),
        ("POST", "/v1/scheduler/tick/", WRITE, WRITE),
        ("POST", "/v1/agents/register", WRITE, WRITE),
        ("POST", "/v1/nothing", WRITE, WRITE),
        ("POST", "/health", ANY, ANY),
        ("HEAD", "/health", ANY, ANY),
        ("DELETE", "/v1/agents", ANY, ANY),
        ("get", "/v1/agents", ANY, ANY),
        ("BREW", "/", ANY, ANY),
    ],
)
def test_what_a_request_needs(method: str, path: str, need: Need, with_reads: Need) -> None:
    assert required(method, path, AuthSettings(tokens=("t",))) == need
    assert required(method, path, AuthSettings(tokens=("t",), auth_reads=True)) == with_reads
    assert required(method, path, AuthSettings()) == OPEN


ADMIN = Principal("scheduler-admin", frozenset({"admin"}), "shared")
BOB = Principal("bob", frozenset({"agent:write"}), "jwt")


@pytest.mark.parametrize(
    ("principal", "header", "body", "expected"),
    [
        (None, "", "", "anon"),
        (None, "", "body", "body"),
        (None, "head", "body", "head"),
        (None, " head ", "", " head "),
        (None, "h" * 121, "", "h" * 121),  # a registration refuses it (D20)
        (BOB, "", "", "bob"),
        (BOB, "ana", "ana", "bob"),
        (ADMIN, "", "", "scheduler-admin"),
        (ADMIN, "", "ana", "scheduler-admin"),
        (ADMIN, "ana", "eve", "ana"),
        (ADMIN, "a" * 121, "", "a" * 121),
    ],
)
def test_d21_owner(principal: Principal | None, header: str, body: str, expected: str) -> None:
    assert owner(principal, {"x-user-id": header} if header else {}, body) == expected


def test_d11_a_token_that_was_sent_filters_what_is_seen() -> None:
    settings = AuthSettings(tokens=("shared",), service_tokens=parse_service_tokens(SERVICE))
    seen = [visible_to(asked(settings, bearer(token))) for token in ("svc-token", "shared", "wrong")]
    assert seen == ["bot", None, None]


def test_a8_role_and_identity_headers_prove_nothing() -> None:
    claimed = {"x-role": "ADMIN", "x-user-id": "scheduler-admin", "x-forwarded-for": "127.0.0.1"}
    settings = AuthSettings(service_tokens=parse_service_tokens(SERVICE))
    assert asked(settings, claimed) is None
    found = asked(settings, claimed | bearer("svc-token"))
    assert found == Principal("bot", frozenset({"agent:read"}), "service")
    assert owner(found, claimed, "scheduler-admin") == "bot"


def test_a7_nothing_that_is_kept_shows_a_token() -> None:
    settings = AuthSettings(tokens=("canary-1",), service_tokens=parse_service_tokens('{"canary-2": {}}'))
    kept = Authenticator(settings, None, lambda: NOW_MS)
    held = chain.from_iterable(vars(part).items() for part in (kept, kept._tokens))
    assert "canary" not in repr(list(held))
