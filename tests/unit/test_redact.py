"""Masking: exact values and what looks like a credential; the rest of the text stays."""

import pytest

from vmsh_scheduler.observe.redact import Redactor


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def.ghi", "Authorization: Bearer ***"),
        ("authorization=Basic Zm9vOmJhcg== next", "authorization=Basic *** next"),
        ('{"Authorization": "Bearer abcdefghij"}', '{"Authorization": "Bearer ***"}'),
        ("sent bearer abcdefgh12345", "sent bearer ***"),
        ("GET /?token=abc&x=1", "GET /?token=***&x=1"),
        ("apikey=abc, key = def; password='g h'", "apikey=***, key = ***; password='*** h'"),
        ('{"token": "abc", "count": 3}', '{"token": "***", "count": 3}'),
        ("https://user:pa55@rpc.example/v1", "https://***@rpc.example/v1"),
        ("redis://:pw@h:6379/0", "redis://***@h:6379/0"),
        ("key: namespaces is missing; 0xabc", "key: namespaces is missing; 0xabc"),
        ("https://rpc.example/a@b", "https://rpc.example/a@b"),
    ],
)
def test_patterns(text: str, expected: str) -> None:
    assert Redactor().mask(text) == expected


@pytest.mark.parametrize("text", ['s3 cr/t"v', "s3%20cr%2Ft%22v", 's3 cr/t\\"v'], ids=["plain", "url", "json"])
def test_exact_values_in_every_spelling(text: str) -> None:
    assert Redactor(['s3 cr/t"v']).mask(f"<{text}>") == "<***>"


def test_each_line_of_a_key_file_is_secret() -> None:
    pem = "-----BEGIN KEY-----\nAAAABBBB\nCCCCDDDD\n-----END KEY-----\n"
    assert Redactor([pem]).mask("got CCCCDDDD") == "got ***"


def test_longer_secrets_win_and_tiny_ones_are_left() -> None:
    assert Redactor(["hunter", "hunter22", "a"]).mask("a hunter22 hunter") == "a *** ***"


def test_hostile_text_costs_linear_time() -> None:
    for piece in ("token=", "://", "authorization", "bearer ", 'key"', "a"):
        Redactor(["unrelated"]).mask(piece * (72_000 // len(piece)))


def test_repr_shows_nothing() -> None:
    assert "hunter22" not in repr(Redactor(["hunter22"]))
