"""What people are shown cannot move their cursor, and what must stay secret is known by its name."""

import pytest

from vmsh_scheduler.domain.secrets import is_secret_name, secret_values
from vmsh_scheduler.domain.text import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü 漢\ttab\nline", "plain ü 漢\ttab\nline"),
        ("\x1b[1Aup", "\\x1b[1Aup"),
        ("a\rb\x00", "a\\rb\\x00"),
        ("\x9b2J", "\\x9b2J"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("half \ud800", "half \\ud800"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown
    shown.encode()


@pytest.mark.parametrize(
    "name",
    ["EVM_ANCHOR_KEY", "API_TOKEN", "INFURA_APIKEY", "DB_PASS", "DB_PASSWORD", "WALLET_MNEMONIC", "aws_secret", "KEY"],
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)
    assert secret_values({name: "s3cr3t-value"}) == ["s3cr3t-value"]


@pytest.mark.parametrize("name", ["PATH", "HOME", "KEYBOARD", "MONKEY", "COMPASS", "AUTHOR"])
def test_names_of_ordinary_things(name: str) -> None:
    assert not is_secret_name(name)
    assert secret_values({name: "ordinary-value"}) == []


def test_everyday_and_short_values_are_left_alone() -> None:
    assert secret_values({"A_KEY": "true", "B_TOKEN": "abc", "C_KEY": "default"}) == []


def test_keys_in_the_paths_of_addresses() -> None:
    found = secret_values({"EVM_RPC": "https://mainnet.example/v3/0123456789abcdef0123456789abcdef"})
    assert found == ["0123456789abcdef0123456789abcdef"]
    assert secret_values({"EVM_RPC": "http://localhost:8545/"}) == []
