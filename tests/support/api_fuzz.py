"""Requests made from what /openapi.json says, good and bad ones, and what every answer has to keep to."""

import http.client
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote, urlencode

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.support.forge import WALLET, Forge
from vmsh_scheduler.api import schemas

PATIENCE_S = 60.0
Node = dict[str, Any]

JUNK: SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
GOOD: Mapping[str, SearchStrategy[Any]] = {
    "agentId": st.sampled_from(["a", "b", "c/d", "%41", "é", "x" * 120, "x" * 121]) | st.integers(0, 3),
    "id": st.sampled_from(["a", "b", "e", 7, 1.5]),
    "walletAddress": st.sampled_from([WALLET, WALLET.upper(), "kaspatest:q", "kaspa:" + "q" * 300]),
    "cycleIntervalMs": st.integers(-1, 10**15) | st.sampled_from(["15000", "1e3", "x"]),
    "callbackUrl": st.sampled_from(["", "http://127.0.0.1:9/x", "http://10.0.0.1/", "ftp://x", "http://[", "x" * 600]),
    "status": st.sampled_from(["PAUSED", "paused", "RUNNING", "no"]),
    "action": st.sampled_from(["pause", "RESUME", "remove", "explode", ""]),
    "userId": st.sampled_from(["", "ann", "bob", "x" * 121]),
    "address": st.sampled_from([WALLET, "kaspa:", "kaspatest:q", "", "abc", "kaspa:../..", "kaspa:q\x00"]),
}
NEVER_CALLED = {"callbackUrl"}
"""Only what is listed above: a URL that was made up might be somebody's."""
SEGMENTS = st.text(min_size=1, max_size=20) | st.sampled_from(["a", "b", "..", "%", "%ff", "a%2Fb", "\x00"])
BROKEN = st.binary(max_size=60) | st.sampled_from(
    [b"", b" ", b"{", b"[]", b"null", b"NaN", b"[" * 5_000, b'{"a":1e999}']
)
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        "X-User-Id": st.sampled_from(["", "ann", "bob", "x" * 500, "a\tb", "\xe9"]),
        "Origin": st.sampled_from(["null", "http://localhost:1", "https://evil.example"]),
        "X-Request-Id": st.sampled_from(["abc-1", "", "a b", "x" * 500]),
        "Content-Type": st.sampled_from(["application/json", "text/plain", "", "application/json; charset=x"]),
        "Content-Encoding": st.sampled_from(["gzip", "identity", "br"]),
        "Authorization": st.sampled_from(["Bearer x", "Bearer ", "Basic eA==", "Bearer a.b.c"]),
        "Accept": st.sampled_from(["*/*", "application/openmetrics-text", "text/html;q=x"]),
    },
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request; `label` is the route it is made for."""

    label: str
    path: str
    body: bytes
    headers: Mapping[str, str]
    who: str = ""
    """Whose token it has, by the names that `fuzz` was given."""


@dataclass
class Seen:
    """Answers by status, and by who asked."""

    statuses: Counter[int] = field(default_factory=Counter)
    labels: set[str] = field(default_factory=set)
    by_token: dict[str, Counter[int]] = field(default_factory=dict)
    entered: set[tuple[str, str]] = field(default_factory=set)
    """Who was answered 200, and by which route."""

    def __str__(self) -> str:
        told = ", ".join(f"{self.statuses[status]:,} x {status}" for status in sorted(self.statuses))
        return f"{self.statuses.total():,} requests made from /openapi.json: {len(self.defects)} x 5xx, {told}"

    @property
    def defects(self) -> list[int]:
        """502 is the market's."""
        return [status for status in self.statuses.elements() if status >= 500 and status != 502]


def attempts(spec: Node, tokens: Mapping[str, str]) -> SearchStrategy[Attempt]:
    """Of every operation, equally often; with these tokens, or junk and none if there are none."""
    operations = [(method, path, op) for path, each in spec["paths"].items() for method, op in each.items()]
    made = st.sampled_from(operations).flatmap(lambda found: _attempt(spec, *found))
    return st.builds(_with_token, made, st.sampled_from(list(tokens.items()))) if tokens else made


def _with_token(attempt: Attempt, token: tuple[str, str]) -> Attempt:
    who, text = token
    sent = {"Authorization": f"Bearer {text}"} if text else {}
    headers = {name: value for name, value in attempt.headers.items() if name != "Authorization"}
    return replace(attempt, headers=headers | sent, who=who)


def _attempt(spec: Node, method: str, path: str, operation: Node) -> SearchStrategy[Attempt]:
    holes = [p["name"] for p in operation["parameters"] if p["in"] == "path"]
    query = [p["name"] for p in operation["parameters"] if p["in"] == "query"]

    def made(parts: list[str], asked: dict[str, Any], body: bytes, headers: dict[str, str]) -> Attempt:
        target = path
        for hole, part in zip(holes, parts, strict=True):
            target = target.replace("{" + hole + "}", quote(part, safe="%" if "%" in part else ""))
        target = quote(target, safe="/%")
        encoded = "?" + urlencode(asked, errors="surrogatepass") if asked else ""
        return Attempt(f"{method.upper()} {path}", target + encoded, body, headers)

    return st.builds(
        made,
        st.tuples(*(SEGMENTS for _ in holes)).map(list),
        st.fixed_dictionaries({}, optional={name: GOOD[name] | st.text(max_size=20) for name in query}),
        _bodies(spec, operation) if method == "post" else st.just(b""),
        HEADERS,
    )


def _bodies(spec: Node, operation: Node) -> SearchStrategy[bytes]:
    if "requestBody" not in operation:
        return BROKEN
    reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    names = spec["components"]["schemas"][reference.rpartition("/")[2]]["properties"]
    junk = {name: GOOD[name] if name in NEVER_CALLED else GOOD.get(name, JUNK) | JUNK for name in names}
    good = {name: GOOD[name] for name in names if name in GOOD}
    dumped = st.fixed_dictionaries({}, optional=junk) | st.fixed_dictionaries(good) | JUNK
    return dumped.map(lambda found: json.dumps(found).encode()) | BROKEN


def fuzz(api: Forge, rounds: int, start: int = 0, tokens: Mapping[str, str] | None = None) -> Seen:
    """Raises AssertionError for the smallest request whose answer breaks the description. `tokens`: who -> token,
    "" for none; the first may read the description."""
    first = next(iter((tokens or {}).values()), "")
    spec = api.get("/openapi.json", Authorization=f"Bearer {first}")
    seen = Seen()

    @seed(start)
    @settings(
        max_examples=rounds,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(attempts(spec, tokens or {}))
    def attack(attempt: Attempt) -> None:
        status = check(spec, attempt, *_sent(api.port, attempt))
        seen.statuses[status] += 1
        seen.labels.add(attempt.label)
        seen.by_token.setdefault(attempt.who, Counter())[status] += 1
        if status == 200:
            seen.entered.add((attempt.who, attempt.label))

    attack()
    return seen


def _sent(port: int, attempt: Attempt) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Within PATIENCE_S, or TimeoutError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        method = attempt.label.partition(" ")[0]
        connection.request(method, attempt.path, attempt.body or None, dict(attempt.headers))
        reply = connection.getresponse()
        return reply.status, reply.headers, reply.read()
    finally:
        connection.close()


def check(spec: Node, attempt: Attempt, status: int, headers: http.client.HTTPMessage, body: bytes) -> int:
    """The status, the code and the shape are ones that the description names for this route."""
    method, _, path = attempt.label.partition(" ")
    told = spec["paths"][path][method.lower()]["responses"]
    assert str(status) in told, (attempt, status, body)
    assert headers["X-Request-Id"], attempt
    content_type = headers["Content-Type"].partition(";")[0]
    assert content_type in told[str(status)]["content"], (attempt, status)
    if status == 200:
        reply = schemas.CONTRACTS[attempt.label].reply
        if not isinstance(reply, str):
            reply.model_validate_json(body)
        return status
    code = schemas.Error.model_validate_json(body).error.message
    codes = told[str(status)]["x-codes"]
    assert code in codes or "*" in codes, (attempt, status, code)
    return status
