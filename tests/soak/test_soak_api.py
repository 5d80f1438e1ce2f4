"""The API at full figure, against a running daemon: open to all, and with access control."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.api_fuzz import Seen, fuzz
from tests.support.daemon import Place
from tests.support.forge import forge, stub
from tests.support.tokens import SECRET, hs256

Record = Callable[[str, object], None]
ROUNDS = 2_000
SERVICES = json.dumps(
    {"few-scopes-token": {"sub": "few", "scopes": ["agent:read"]}, "no-scopes-token": {"sub": "none", "scopes": []}}
)
GUARDED = {
    "SCHEDULER_AUTH_READS": "true",
    "SCHEDULER_AUTH_TOKENS": "admin-of-the-fuzz",
    "SCHEDULER_SERVICE_TOKENS_JSON": SERVICES,
    "SCHEDULER_JWT_HS256_SECRET": SECRET,
    "SCHEDULER_QUOTA_READ_MAX": "1000000",
    "SCHEDULER_QUOTA_WRITE_MAX": "1000000",
}


def tokens() -> Mapping[str, str]:
    claims = {"sub": "jay", "exp": int(time.time()) + 3_600, "scope": "agent:read agent:write"}
    return {
        "administrator": "admin-of-the-fuzz",
        "few scopes": "few-scopes-token",
        "no scopes": "no-scopes-token",
        "JWT": hs256(claims),
        "wrong": "another-token",
        "forged JWT": hs256(claims, b"x" * 32),
        "none": "",
    }


def attacked(root: Path, environ: Mapping[str, str], who: Mapping[str, str]) -> Seen:
    """After it the daemon is well, has failed at nothing, and stops in good order."""
    place = Place(root)
    try:
        with stub() as upstream:
            api = forge(place, upstream, **environ)
            seen = fuzz(api, ROUNDS, start=1, tokens=who)
            assert api.get("/health")["ok"] is True
            assert not api.daemon.lines("api failed")
            api.daemon.stop()
            return seen
    finally:
        place.close()


@pytest.mark.parametrize("guarded", [False, True], ids=["open", "guarded"])
def test_two_thousand_requests_made_from_the_description(
    tmp_path: Path, record_property: Record, *, guarded: bool
) -> None:
    who = tokens() if guarded else {}
    seen = attacked(tmp_path, GUARDED if guarded else {}, who)
    record_property("API", f"{'with tokens of 7 kinds' if guarded else 'open'}: {seen}")
    assert seen.statuses.total() >= ROUNDS
    assert seen.defects == []
    if guarded:
        strangers = {"wrong", "forged JWT", "none"}
        assert {label for who, label in seen.entered if who in strangers} == {"GET /health", "GET /metrics"}
        assert {label for who, label in seen.entered if who == "few scopes"} >= {"GET /v1/agents", "GET /health"}
        assert all(label.startswith("GET") for who, label in seen.entered if who == "few scopes")
        assert seen.by_token["few scopes"].keys() >= {200, 403}
        assert 401 not in seen.by_token["few scopes"]
