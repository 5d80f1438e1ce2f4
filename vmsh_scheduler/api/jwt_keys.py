"""Signatures of JWTs, and the public keys that an issuer publishes (RFC 7517, OpenID Connect Discovery 1.0)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import jwt

from vmsh_scheduler.api.principal import LONGEST_KID, AuthSettings, url_problem
from vmsh_scheduler.api.tokens import unique_json
from vmsh_scheduler.domain.trigger import Millis

Fetch = Callable[[str, int], Awaitable[tuple[int, bytes]]]
"""(URL, most bytes of the body) -> status and body. Follows no redirect, and raises when the body is longer."""

MOST_BYTES = 256 * 1024
MOST_KEYS = 100
COOL_DOWN_MS = 30_000
"""Between two fetches that a token brought about, and after one that failed (D23)."""
STALE_FACTOR = 10
"""Keys are kept for so many times their TTL while the issuer does not answer."""
RSA_BITS = range(2048, 8193)
"""Shorter ones are broken, longer ones make every check slow."""

_ALGORITHMS = {"RSA": "RS256", "EC": "ES256"}
_ALONE = {
    name: jwt.PyJWS(algorithms=[name], options={"verify_signature": True, "enforce_minimum_key_length": True})
    for name in ("HS256", *_ALGORITHMS.values())
}
_Keys = Mapping[tuple[str, str], jwt.PyJWK]


def signed_payload(token: str, key: jwt.PyJWK | bytes, algorithm: str) -> bytes | None:
    """What is signed, if it is signed with this key by this one algorithm; the header has no say in it."""
    try:
        payload: bytes = _ALONE[algorithm].decode(token, key, algorithms=[algorithm])
    except jwt.PyJWTError:
        return None
    return payload


def parse_keys(body: bytes) -> dict[tuple[str, str], jwt.PyJWK]:
    """By kid and algorithm, those that can check a signature; the first of a name wins. Raises ValueError."""
    document = unique_json(body)
    entries = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(entries, list) or len(entries) > MOST_KEYS:
        raise ValueError(f"the key set is no object with a list of at most {MOST_KEYS} keys")
    found: dict[tuple[str, str], jwt.PyJWK] = {}
    for entry in entries:
        if (named := _named(entry)) is not None and (key := _key(entry, named[1])) is not None:
            found.setdefault(named, key)
    return found


def _named(entry: object) -> tuple[str, str] | None:
    """None: not meant for signatures of ours. One that shows its private part is everybody's."""
    if not isinstance(entry, dict) or "d" in entry:
        return None
    kid, kty = entry.get("kid"), entry.get("kty")
    algorithm = _ALGORITHMS.get(kty, "") if isinstance(kty, str) else ""
    if not isinstance(kid, str) or not 0 < len(kid) <= LONGEST_KID or entry.get("alg", algorithm) != algorithm:
        return None
    return (kid, algorithm) if algorithm and _may_verify(entry) else None


def _may_verify(entry: Mapping[str, object]) -> bool:
    uses = entry.get("key_ops", ["verify"])
    return entry.get("use", "sig") == "sig" and isinstance(uses, list) and "verify" in uses


def _key(entry: dict[str, object], algorithm: str) -> jwt.PyJWK | None:
    try:
        key = jwt.PyJWK(entry, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, OverflowError):
        return None  # what the library makes of junk in the numbers of a key
    fits = key.key.key_size in RSA_BITS if algorithm == "RS256" else entry.get("crv") == "P-256"
    return key if fits else None


class KeySet:
    """The issuer's keys, fetched when they are asked for; however many ask, one fetch goes on."""

    def __init__(
        self,
        settings: AuthSettings,
        fetch: Fetch,
        elapsed: Callable[[], Millis],
        *,
        cool_down_ms: Millis = COOL_DOWN_MS,
    ) -> None:
        self.fetches = 0
        self.fetch_errors = 0
        self.cache_hits = 0
        self.discovery_fetches = 0
        self.discovery_errors = 0
        self.discovery_cache_hits = 0
        self.last_error = ""
        self._settings = settings
        self._fetch = fetch
        self._elapsed = elapsed
        self._cool_down_ms = cool_down_ms
        self._allowed = frozenset(settings.allowed_kids)
        self._wanted: frozenset[str] | None = None
        """Other pins, of which no known key has one yet."""
        self._keys: _Keys = {}
        self._loaded_at: Millis | None = None
        self._tried_at: Millis | None = None
        self._failed = False
        self._uri = ""
        self._uri_at: Millis = 0
        self._flight: asyncio.Task[None] | None = None

    async def verified(self, token: str, kid: str, algorithm: str) -> bytes | None:
        """The payload, if the issuer signed it. An unknown kid or a bad signature may have the keys fetched anew."""
        if self._is_foreign(kid):
            return None
        key = await self._current(kid, algorithm)
        payload = None if key is None else signed_payload(token, key, algorithm)
        if payload is not None:
            return payload
        await self._refresh()
        newer = self._known(kid, algorithm)
        return None if newer is None or newer is key else signed_payload(token, newer, algorithm)

    @property
    def pinned(self) -> int:
        """How many kids count; 0 = all."""
        return len(self._allowed)

    @property
    def pins_wait(self) -> bool:
        """`repin` asked for pins that would lock everybody out."""
        return self._wanted is not None

    async def repin(self, kids: Iterable[str]) -> str:
        """Other pins from now on, if a key of the issuer has one of them; the text says why not ("" = done). The
        former ones stay until it publishes one."""
        wanted = frozenset(kids)
        if not wanted:
            return "no kid is pinned: the former pins stay"
        self._wanted = None if wanted == self._allowed else wanted
        self._adopt()
        if self._wanted is not None:
            await self._refresh()
        if self._wanted is None:
            return ""
        if not self._keys:
            return "no key of the issuer is known that could have a pinned kid: the former pins stay until one has"
        return "no key that the issuer publishes now has a pinned kid: the former pins stay until one has"

    def _adopt(self) -> None:
        if self._wanted is not None and any(kid in self._wanted for kid, _ in self._keys):
            self._allowed, self._wanted = self._wanted, None

    async def close(self) -> None:
        """Ends a fetch that is going on."""
        if self._flight is not None:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    async def _current(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        if self._is_due():
            await self._refresh()
            return self._known(kid, algorithm)
        key = self._known(kid, algorithm)
        self.cache_hits += key is not None
        return key

    def _known(self, kid: str, algorithm: str) -> jwt.PyJWK | None:
        if self._loaded_at is None or self._elapsed() - self._loaded_at > STALE_FACTOR * self._settings.jwks_ttl_ms:
            return None
        return self._keys.get((kid, algorithm))

    def _is_foreign(self, kid: str) -> bool:
        waits = self._wanted is not None and kid in self._wanted  # the issuer may be asked for it
        return bool(self._allowed) and kid not in self._allowed and not waits

    def _has_usable(self) -> bool:
        return any(not self._is_foreign(kid) for kid, _ in self._keys)

    def _is_due(self) -> bool:
        return self._loaded_at is None or self._elapsed() - self._loaded_at >= self._settings.jwks_ttl_ms

    def _may_fetch(self) -> bool:
        """Keys past their TTL are fetched at once, unless that failed a moment ago; all else waits for its turn."""
        rested = self._tried_at is None or self._elapsed() - self._tried_at >= self._cool_down_ms
        return rested or (self._is_due() and not self._failed)

    async def _refresh(self) -> None:
        """Shared by all who wait, and not ended by one of them who goes away."""
        if self._flight is None or self._flight.done():
            if not self._may_fetch():
                return
            self._flight = asyncio.create_task(self._load(forced=not self._is_due()))
        await asyncio.shield(self._flight)

    async def _load(self, *, forced: bool) -> None:
        self._tried_at = self._elapsed()
        try:
            self._take(await self._fetched_keys(forced=forced))
        except Exception as error:  # whatever the injected fetch raises: the keys that are known go on
            self.fetch_errors += 1
            self._failed = True
            self.last_error = _told(error)

    def _take(self, keys: _Keys) -> None:
        """An answer without a key that may be used counts, as one that withdraws all, but is not cached."""
        self._keys, self._loaded_at = keys, None
        self._adopt()
        if not self._has_usable():
            raise ValueError("the key set holds no key that may be used")
        self._loaded_at, self._failed, self.last_error = self._elapsed(), False, ""

    async def _fetched_keys(self, *, forced: bool) -> _Keys:
        uri = self._settings.jwks_url or await self._discovered(forced=forced)
        self.fetches += 1
        return parse_keys(await self._body(uri))

    async def _discovered(self, *, forced: bool) -> str:
        """Where discovery said the keys are; while it is down, where it said so last."""
        if self._uri and not forced and self._elapsed() - self._uri_at < self._settings.discovery_ttl_ms:
            self.discovery_cache_hits += 1
            return self._uri
        self.discovery_fetches += 1
        try:
            self._uri, self._uri_at = await self._discover(), self._elapsed()
        except Exception:
            self.discovery_errors += 1
            if not self._uri:
                raise
        return self._uri

    async def _discover(self) -> str:
        """OpenID Connect Discovery 1.0 section 4.3: a document that names another issuer is nobody's."""
        ours = self._settings.oidc_issuer.rstrip("/")
        document = unique_json(await self._body(f"{ours}/.well-known/openid-configuration"))
        issuer, uri = (document.get(name) if isinstance(document, dict) else None for name in ("issuer", "jwks_uri"))
        if not isinstance(issuer, str) or issuer.rstrip("/") != ours:
            raise ValueError("the discovery document names another issuer")
        if not isinstance(uri, str) or not uri or url_problem(uri):
            raise ValueError("the discovery document's jwks_uri may not be used: https, or http on loopback")
        if uri.startswith("http:") and not ours.startswith("http:"):
            raise ValueError("the discovery document's jwks_uri leaves https")
        return uri

    async def _body(self, url: str) -> bytes:
        async with asyncio.timeout(self._settings.http_timeout_ms / 1000):
            status, body = await self._fetch(url, MOST_BYTES)
        if status != 200:
            raise ValueError(f"the issuer answered {status}")
        if len(body) > MOST_BYTES:
            raise ValueError(f"the issuer's answer is longer than {MOST_BYTES} bytes")
        return body


def _told(error: Exception) -> str:
    """Texts of others may quote an address with secrets in it."""
    return str(error) if type(error) is ValueError else type(error).__name__
