"""Who asks, and the settings of access control. Values only: neither aiohttp nor jwt is loaded for them."""

import ipaddress
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from vmsh_scheduler.api.tokens import ServiceToken, parse_service_tokens, subject_problem, token_problem
from vmsh_scheduler.domain.trigger import Millis

SHORTEST_SECRET = 32
"""Bytes: the size of the hash (RFC 7518 section 3.2)."""
LONGEST_KID = 128
NO_ENVIRONMENT: Mapping[str, str] = {}

_NUMBERS = ("SCHEDULER_JWKS_CACHE_TTL_MS", "SCHEDULER_OIDC_DISCOVERY_TTL_MS", "SCHEDULER_AUTH_HTTP_TIMEOUT_MS")
_BOOLEANS = ("SCHEDULER_AUTH_READS", "SCHEDULER_JWKS_REQUIRE_PINNED_KID")
_BOOLEAN_TEXTS = frozenset({"", "0", "1", "false", "true", "no", "yes"})
"""Without `on`: the original took it for false."""


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who proved who they are."""

    sub: str
    scopes: frozenset[str]
    kind: str
    """shared, service or jwt."""

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    def allows(self, scope: str) -> bool:
        """The empty scope asks for a valid token and no more."""
        return not scope or self.is_admin or scope in self.scopes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthSettings:
    """Access control of the API listener; its variables are those of the Forge.OS scheduler."""

    tokens: tuple[str, ...] = field(default=(), repr=False)
    service_tokens: tuple[ServiceToken, ...] = ()
    hs256_secret: str = field(default="", repr=False)
    issuer: str = ""
    audience: str = ""
    jwks_url: str = ""
    """Wins over discovery."""
    oidc_issuer: str = ""
    """Never taken from `issuer`: that would trust the issuer's whole key set (D23)."""
    jwks_ttl_ms: Millis = 300_000
    discovery_ttl_ms: Millis = 300_000
    http_timeout_ms: Millis = 5_000
    allowed_kids: tuple[str, ...] = ()
    allowed_kids_file: str = ""
    """In place of `allowed_kids`; read by whoever watches it."""
    require_pinned_kid: bool = False
    auth_reads: bool = False
    legacy_claims: bool = False
    """Tokens without `exp` and without `sub` are taken, as by the original."""

    @property
    def verifies_jwts(self) -> bool:
        return bool(self.hs256_secret or self.fetches_keys)

    @property
    def fetches_keys(self) -> bool:
        return bool(self.jwks_url or self.oidc_issuer)

    @property
    def enabled(self) -> bool:
        return bool(self.tokens or self.service_tokens or self.verifies_jwts)


def problems(settings: AuthSettings, environ: Mapping[str, str] = NO_ENVIRONMENT) -> list[str]:
    """All for which the daemon must not start (D12, D24); never shows a secret. `environ`: texts not read yet."""
    return [*_unreadable(environ), *_token_problems(settings), *_jwt_problems(settings), *_pin_problems(settings)]


def _unreadable(environ: Mapping[str, str]) -> Iterator[str]:
    try:
        parse_service_tokens(environ.get("SCHEDULER_SERVICE_TOKENS_JSON", ""))
    except ValueError as error:
        yield f"SCHEDULER_SERVICE_TOKENS_JSON: {error}"
    for name in _NUMBERS:
        if environ.get(name, "") and not _is_number(environ[name]):
            yield f"{name}: must be a number of milliseconds"
    for name in _BOOLEANS:
        if environ.get(name, "").strip().lower() not in _BOOLEAN_TEXTS:
            yield f"{name}: write true or false"


def _is_number(text: str) -> bool:
    try:
        return "_" not in text and math.isfinite(float(text))
    except ValueError:
        return False


def _token_problems(settings: AuthSettings) -> Iterator[str]:
    for number, token in enumerate(settings.tokens, 1):
        if problem := token_problem(token):
            yield f"SCHEDULER_AUTH_TOKENS: token {number} {problem}"
    for number, service in enumerate(settings.service_tokens, 1):
        for name, problem in (
            ("token", token_problem(service.token)),
            ("sub", subject_problem(service.subject)),
        ):
            if problem:
                yield f"SCHEDULER_SERVICE_TOKENS_JSON: entry {number}: its {name} {problem}"
    every = [*settings.tokens, *(service.token for service in settings.service_tokens)]
    if len(set(every)) < len(every):
        yield "one token is given twice, as a shared or a service token; leave it in one place"
    if settings.auth_reads and not settings.enabled:
        yield "SCHEDULER_AUTH_READS is set, but no token, secret or key set: nothing would be protected"


def _jwt_problems(settings: AuthSettings) -> Iterator[str]:
    yield from _secret_problems(settings.hs256_secret)
    for name in ("jwks_url", "oidc_issuer"):
        if problem := url_problem(getattr(settings, name)):
            yield f"SCHEDULER_{name.upper()} {problem}"
    if (settings.issuer or settings.audience) and not settings.verifies_jwts:
        yield (
            "a JWT issuer or audience is set, but nothing verifies JWTs: set SCHEDULER_OIDC_ISSUER to trust"
            " the keys that the issuer publishes, or SCHEDULER_JWKS_URL, or SCHEDULER_JWT_HS256_SECRET"
        )
    for name in ("jwks_ttl_ms", "discovery_ttl_ms", "http_timeout_ms"):
        if getattr(settings, name) < 1:
            yield f"{name}: must be at least 1 ms"


def _secret_problems(secret: str) -> Iterator[str]:
    size = len(secret.encode("utf-8", "surrogatepass"))
    if secret and size < SHORTEST_SECRET:
        yield (
            f"SCHEDULER_JWT_HS256_SECRET has {size} bytes and needs {SHORTEST_SECRET};"
            " make one with `openssl rand -hex 32`"
        )
    if "-----BEGIN" in secret:
        yield "SCHEDULER_JWT_HS256_SECRET is a key file, not a secret; publish public keys by SCHEDULER_JWKS_URL"


def _pin_problems(settings: AuthSettings) -> Iterator[str]:
    if settings.allowed_kids_file and settings.allowed_kids:
        yield "SCHEDULER_JWKS_ALLOWED_KIDS_FILE and SCHEDULER_JWKS_ALLOWED_KIDS are both set: keep one"
    if settings.allowed_kids_file and not settings.fetches_keys:
        yield "SCHEDULER_JWKS_ALLOWED_KIDS_FILE is set, but neither SCHEDULER_JWKS_URL nor SCHEDULER_OIDC_ISSUER"
    if settings.require_pinned_kid and not (settings.allowed_kids or settings.allowed_kids_file):
        yield "SCHEDULER_JWKS_REQUIRE_PINNED_KID is set without SCHEDULER_JWKS_ALLOWED_KIDS: name the kids"
    if settings.require_pinned_kid and not settings.fetches_keys:
        yield "SCHEDULER_JWKS_REQUIRE_PINNED_KID is set, but neither SCHEDULER_JWKS_URL nor SCHEDULER_OIDC_ISSUER"
    if any(not 0 < len(kid) <= LONGEST_KID for kid in settings.allowed_kids):
        yield f"SCHEDULER_JWKS_ALLOWED_KIDS: a kid has 1 to {LONGEST_KID} characters"


def url_problem(url: str) -> str:
    """Of an address that keys come from ("" = none, or no address): https, and http on loopback only (decision 29)."""
    if not url:
        return ""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return "is not a URL"
    if not url.isprintable() or " " in url or not host:
        return "is not a URL with a host"
    if parts.username is not None or parts.password is not None:
        return "must not carry a user name or password"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host)):
        return ""
    return "must begin with https:// (http:// is for loopback addresses only)"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
