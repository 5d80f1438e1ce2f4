"""Which values of an environment must never be shown, judged by their names."""

import re
from collections.abc import Iterable, Mapping

_SECRET_NAME = re.compile(
    r"(?i)(secret|token|passw|passphrase|credential|mnemonic|api_?key|_key$|^key$|_pass$|_pwd$|_auth$)"
)
_ADDRESS_NAME = re.compile(r"(?i)(_rpc|_url|_uri|_dsn)$")
_KEY_IN_PATH = re.compile(r"(?<=/)[A-Za-z0-9_-]{16,}(?=/|$|\?)")
SHORTEST = 6
_ORDINARY = frozenset({"true", "false", "enabled", "disabled", "default", "production", "development"})


def is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def secret_values(environ: Mapping[str, str]) -> list[str]:
    """Values under names that say so, and keys that stand in the paths of RPC addresses."""
    return [value for name, text in environ.items() for value in _secrets_in(name, text) if _worth_hiding(value)]


def _secrets_in(name: str, text: str) -> Iterable[str]:
    if is_secret_name(name):
        return (text,)
    return _KEY_IN_PATH.findall(text) if _ADDRESS_NAME.search(name) else ()


def _worth_hiding(value: str) -> bool:
    """Masking short or everyday words would eat ordinary text."""
    return len(value) >= SHORTEST and value.lower() not in _ORDINARY
