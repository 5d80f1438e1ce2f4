"""SCHEDULER_SERVICE_TOKENS_JSON, and every other setting of access control that must not be misread."""

import json
from typing import Any

import pytest

from tests.support.tokens import SECRET
from vmsh_scheduler.api.principal import AuthSettings, problems
from vmsh_scheduler.api.tokens import ServiceToken, parse_service_tokens

CANARY = "canary-5f1d9c"
DEFAULT = {"agent:read", "agent:write", "scheduler:tick"}


def parsed(document: Any) -> list[tuple[str, str, set[str]]]:
    return [(one.token, one.subject, set(one.scopes)) for one in parse_service_tokens(json.dumps(document))]


def test_both_forms_give_the_same() -> None:
    entry = {"sub": "bot", "scopes": ["agent:read"]}
    expected = [("t1", "bot", {"agent:read"})]
    assert parsed([{"token": "t1"} | entry]) == parsed({"t1": entry}) == expected


@pytest.mark.parametrize(
    ("entry", "subject", "scopes"),
    [
        ({}, "service", DEFAULT),
        ({"userId": "u"}, "u", DEFAULT),
        ({"userId": "u", "sub": "s"}, "s", DEFAULT),
        ({"userId": 42}, "42", DEFAULT),
        ({"scopes": ""}, "service", DEFAULT),
        ({"scopes": []}, "service", set()),
        ({"scopes": [" admin "]}, "service", {"admin"}),
        ({"scopes": "agent:read, agent:write\tx"}, "service", {"agent:read", "agent:write", "x"}),
    ],
)
def test_subject_and_scopes(entry: dict[str, Any], subject: str, scopes: set[str]) -> None:
    assert parsed({"t": entry}) == [("t", subject, scopes)]


@pytest.mark.parametrize("text", ["", "  ", "[]", "{}"])
def test_none_are_none(text: str) -> None:
    assert parse_service_tokens(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "null",
        f'"{CANARY}"',
        f'{{"{CANARY}": {{}}',
        f'{{"{CANARY}": "agent:read"}}',
        f'{{"{CANARY}": null}}',
        f'{{"{CANARY}": {{}}, "{CANARY}": {{}}}}',
        f'{{"{CANARY}": {{"sub": "a", "sub": "b"}}}}',
        f'[{{"token": "{CANARY}"}}, {{"token": "{CANARY}"}}]',
        f'["{CANARY}"]',
        '[{"sub": "a"}]',
        '[{"token": ""}]',
        '[{"token": 7}]',
        f'[{{"token": " {CANARY}"}}]',
        f'[{{"token": "{CANARY}\\n"}}]',
        f'[{{"token": "{CANARY}é"}}]',
        f'[{{"token": "{CANARY}", "scopes": 1}}]',
        f'[{{"token": "{CANARY}", "scopes": null}}]',
        f'[{{"token": "{CANARY}", "scopes": ["a", 1]}}]',
        f'[{{"token": "{CANARY}", "scope": "agent:read"}}]',
        f'[{{"token": "{CANARY}", "sub": ["a"]}}]',
        f'[{{"token": "{CANARY}", "sub": true}}]',
        f'[{{"token": "{CANARY}", "sub": "a\\u0000"}}]',
        f'[{{"token": "{CANARY}", "sub": "{"a" * 121}"}}]',
        f'[{{"token": "{CANARY}", "x": NaN}}]',
        "[" * 100_000,
    ],
)
def test_d12_what_cannot_be_read_refuses_to_start_and_shows_no_token(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w") as caught:
        parse_service_tokens(text)
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value.__context__)
    (problem,) = problems(AuthSettings(), {"SCHEDULER_SERVICE_TOKENS_JSON": text})
    assert problem.startswith("SCHEDULER_SERVICE_TOKENS_JSON: ")
    assert CANARY not in problem


def test_the_entry_is_named_by_its_place() -> None:
    with pytest.raises(ValueError, match="entry 2: its token is empty"):
        parse_service_tokens('[{"token": "a"}, {"token": ""}]')


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (AuthSettings(require_pinned_kid=True, jwks_url="https://i.example/k"), "ALLOWED_KIDS"),
        (AuthSettings(require_pinned_kid=True, allowed_kids=("a",), tokens=("t",)), "neither SCHEDULER_JWKS_URL"),
        (AuthSettings(jwks_url="https://i.example/k", allowed_kids=("a" * 129,)), "1 to 128 characters"),
        (AuthSettings(hs256_secret=CANARY), "has 13 bytes and needs 32"),
        (AuthSettings(hs256_secret=f"-----BEGIN PUBLIC KEY-----\n{CANARY}{CANARY}"), "is a key file"),
        (AuthSettings(jwks_url="http://issuer.example/k"), "must begin with https"),
        (AuthSettings(jwks_url="http://127.0.0.1.example/k"), "must begin with https"),
        (AuthSettings(jwks_url="file:///etc/passwd"), "SCHEDULER_JWKS_URL"),
        (AuthSettings(jwks_url="https://[::1/k"), "is not a URL"),
        (AuthSettings(jwks_url=f"https://u:{CANARY}@issuer.example/k"), "user name or password"),
        (AuthSettings(oidc_issuer="http://issuer.example"), "SCHEDULER_OIDC_ISSUER must"),
        (AuthSettings(issuer="https://issuer.example"), "SCHEDULER_OIDC_ISSUER to trust"),
        (AuthSettings(audience="forge"), "nothing verifies JWTs"),
        (AuthSettings(tokens=("a", "")), "token 2 is empty"),
        (AuthSettings(tokens=(CANARY, CANARY)), "given twice"),
        (AuthSettings(tokens=(CANARY,), service_tokens=(ServiceToken(CANARY, "a", frozenset()),)), "given twice"),
        (AuthSettings(auth_reads=True), "nothing would be protected"),
        (AuthSettings(tokens=("a",), jwks_ttl_ms=0), "jwks_ttl_ms"),
    ],
)
def test_d12_what_contradicts_itself_refuses_to_start(settings: AuthSettings, expected: str) -> None:
    (problem,) = problems(settings)
    assert expected in problem
    assert CANARY not in problem


@pytest.mark.parametrize(
    ("name", "text", "wrong"),
    [
        ("SCHEDULER_JWKS_CACHE_TTL_MS", "abc", True),
        ("SCHEDULER_OIDC_DISCOVERY_TTL_MS", "NaN", True),
        ("SCHEDULER_AUTH_HTTP_TIMEOUT_MS", "Infinity", True),
        ("SCHEDULER_AUTH_HTTP_TIMEOUT_MS", "1e3", False),
        ("SCHEDULER_JWKS_CACHE_TTL_MS", "", False),
        ("SCHEDULER_AUTH_READS", "on", True),
        ("SCHEDULER_AUTH_READS", "TRUE", False),
        ("SCHEDULER_JWKS_REQUIRE_PINNED_KID", "maybe", True),
    ],
)
def test_d24_a_value_that_does_not_parse_refuses_to_start(name: str, text: str, *, wrong: bool) -> None:
    found = problems(AuthSettings(), {name: text})
    assert [name in problem for problem in found] == [True] * wrong


def test_sound_settings_have_no_problem() -> None:
    assert problems(AuthSettings()) == []
    assert (
        problems(
            AuthSettings(
                tokens=("a",),
                service_tokens=parse_service_tokens('{"b": {}}'),
                hs256_secret=SECRET,
                issuer="https://issuer.example",
                audience="forge",
                jwks_url="http://127.0.0.1:8080/keys",
                oidc_issuer="http://[::1]:9",
                allowed_kids=("one",),
                require_pinned_kid=True,
                auth_reads=True,
            )
        )
        == []
    )


def test_a7_settings_show_no_secret() -> None:
    entries = (ServiceToken(CANARY, "bot", frozenset()),)
    shown = repr(AuthSettings(tokens=(CANARY,), service_tokens=entries, hs256_secret=CANARY))
    assert "bot" in shown
    assert CANARY not in shown


def test_an_issuer_alone_opens_nothing() -> None:
    """The original took it for discovery (D23); taking it for nothing would open the API."""
    assert not AuthSettings(issuer="https://issuer.example").enabled
    assert AuthSettings(oidc_issuer="https://issuer.example").enabled
