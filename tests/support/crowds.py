"""Many requests at one API: of three principals that share nothing, and of strangers with made-up keys."""

import http.client
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.contract import World, world
from tests.support.daemon import until
from tests.support.forge import Stub, stub
from tests.support.tokens import claims as made_claims
from tests.support.tokens import rs256, rsa_jwk, unsigned

WHO = ("ann", "bob", "eve")
LIMIT = 300
"""Reads in one window, which is longer than any test."""
READ = "/v1/agents"


@dataclass(frozen=True, slots=True)
class Shares:
    """How many requests of each principal passed, and how many were told 429."""

    passed: Mapping[str, int]
    refused: int
    without_retry_after: int

    @property
    def error(self) -> float:
        """Of the worst share, as a part of what is due."""
        return max(abs(count - LIMIT) for count in self.passed.values()) / LIMIT

    def __str__(self) -> str:
        total = sum(self.passed.values()) + self.refused
        each = ", ".join(map(str, self.passed.values()))
        return (
            f"{total:,} requests of 3 principals at once, {LIMIT} due to each: {each} passed (error {self.error:.1%}), "
            f"{self.refused:,} x 429, all with Retry-After"
        )


@contextmanager
def shared(root: Path) -> Iterator[World]:
    """Three who may read, each LIMIT times."""
    tokens = ",".join(f'"token-of-{sub}": {{"sub": "{sub}", "scopes": ["agent:read"]}}' for sub in WHO)
    environ = {
        "SCHEDULER_SERVICE_TOKENS_JSON": "{" + tokens + "}",
        "SCHEDULER_AUTH_READS": "true",
        "SCHEDULER_QUOTA_READ_MAX": str(LIMIT),
        "SCHEDULER_QUOTA_WINDOW_MS": str(24 * 3_600_000),
    }
    with world(root, **environ) as made:
        yield made


def ask_all(it: World, count: int) -> Shares:
    """A third of them each, over two connections each."""
    lines = [sub for sub in WHO for _ in range(2)]
    with ThreadPoolExecutor(len(lines)) as pool:
        found = list(pool.map(lambda sub: _ask(it.api.port, sub, count // len(lines)), lines))
    passed = {sub: sum(one[200] for of, one in zip(lines, found, strict=True) if of == sub) for sub in WHO}
    return Shares(passed, sum(one[429] for one in found), sum(one[0] for one in found))


def _ask(port: int, sub: str, count: int) -> Counter[int]:
    """By status; 0: a 429 that does not say when to come again."""
    seen: Counter[int] = Counter()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        for _ in range(count):
            connection.request("GET", READ, headers={"Authorization": f"Bearer token-of-{sub}"})
            reply = connection.getresponse()
            reply.read()
            seen[reply.status] += 1
            seen[0] += reply.status == 429 and int(reply.headers.get("Retry-After", "0")) < 1
    return seen


@contextmanager
def issued(root: Path) -> Iterator[tuple[World, Stub]]:
    """Who may read is said by an issuer's keys; it has one, of kid `one`, and has been asked for it."""
    with stub(**{"/jwks": {"keys": [rsa_jwk("one")]}}) as issuer:
        environ = {"SCHEDULER_JWKS_URL": f"{issuer.url}/jwks", "SCHEDULER_AUTH_READS": "true"}
        with world(root, **environ) as it:
            assert enters(it, good("one"))
            yield it, issuer


def claims() -> Mapping[str, object]:
    return made_claims(exp=int(time.time()) + 600)


def good(kid: str, key: int = 0) -> str:
    return rs256(dict(claims()), kid, key=key)


def enters(it: World, token: str) -> bool:
    return it.api.ask("GET", READ, Authorization=f"Bearer {token}").status == 200


def flood_of_kids(it: World, count: int) -> float:
    """Seconds it took for each of them to be refused."""
    signature, payload, began = good("one").rpartition(".")[2], claims(), time.monotonic()
    with closing(http.client.HTTPConnection("127.0.0.1", it.api.port, timeout=20)) as connection:
        for number in range(count):
            token = f"{unsigned({'alg': 'RS256', 'kid': f'kid-{number}'}, payload)}.{signature}"
            connection.request("GET", READ, headers={"Authorization": f"Bearer {token}"})
            reply = connection.getresponse()
            reply.read()
            assert reply.status == 401
    return time.monotonic() - began


def rotated(it: World, issuer: Stub) -> float:
    """Seconds until a new key of the issuer is taken; the old one is not any more."""
    issuer.answers["/jwks"] = {"keys": [rsa_jwk("two", key=1)]}
    fresh, began = good("two", key=1), time.monotonic()
    until(lambda: enters(it, fresh), "the new key to be taken", 60)
    assert not enters(it, good("one"))
    return time.monotonic() - began
