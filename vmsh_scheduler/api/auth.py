"""Who sent a request: shared token, service token, or JWT (RFC 7519), in that order."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from vmsh_scheduler.api.principal import LONGEST_KID, AuthSettings, Principal
from vmsh_scheduler.api.tokens import (
    LONGEST_SUBJECT,
    LONGEST_TOKEN,
    SCOPES,
    TokenTable,
    presented,
    split_scopes,
    subject_problem,
    unique_json,
)
from vmsh_scheduler.domain.trigger import Millis

ADMIN = Principal("scheduler-admin", frozenset({"admin", *SCOPES}), "shared")
ANYBODY = "anon"
NO_SUBJECT = "jwt-user"
LONGEST_LIFE_S = 24 * 3600
SKEW_S = 60
"""How far an issuer's clock may be ahead before its longest tokens seem to live too long."""

_SEGMENTS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_UNHEARD = frozenset({"crit", "b64", "jwk", "jku", "x5u", "x5c", "zip"})
"""Headers that would have a token say how it is to be checked (RFC 8725 section 3)."""


class Keys(Protocol):
    """jwt_keys.KeySet."""

    async def verified(self, token: str, kid: str, algorithm: str) -> bytes | None: ...


class Rules(NamedTuple):
    """What the claims of one issuer's tokens must say."""

    issuer: str
    audience: str
    legacy: bool


class Authenticator:
    """Never says why a token is refused: that would help those who forge them."""

    def __init__(self, settings: AuthSettings, keys: Keys | None, now: Callable[[], Millis]) -> None:
        self._tokens = TokenTable(_known(settings))
        self._secret = settings.hs256_secret.encode("utf-8", "surrogateescape")
        self._keys = keys
        self._now = now
        self.by_issuer = 0
        """Tokens that the key set vouched for, for metrics."""
        legacy = settings.legacy_claims
        self._ours = Rules(settings.issuer or settings.oidc_issuer, settings.audience, legacy)
        self._issuers = Rules(settings.oidc_issuer or settings.issuer, settings.audience, legacy)

    async def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        """None: no token, or not a valid one. Ask whether or not the request needs one (D11)."""
        token = presented(headers)
        if not token or len(token) > LONGEST_TOKEN:
            return None
        return self._tokens.owner(token) or await self._jwt(token)

    async def _jwt(self, token: str) -> Principal | None:
        header = read_header(token) if self._secret or self._keys is not None else None
        if header is None:
            return None
        if header.get("alg") == "HS256":
            return self._checked(self._signed_by_secret(token), self._ours)
        principal = self._checked(await self._signed_by_issuer(token, header), self._issuers)
        self.by_issuer += principal is not None
        return principal

    def _signed_by_secret(self, token: str) -> bytes | None:
        if not self._secret:
            return None
        # not above: shared tokens work without the extra that brings PyJWT
        from vmsh_scheduler.api.jwt_keys import signed_payload

        return signed_payload(token, self._secret, "HS256")

    async def _signed_by_issuer(self, token: str, header: Mapping[str, Any]) -> bytes | None:
        kid, algorithm = header.get("kid"), header.get("alg")
        if self._keys is None or algorithm not in ("RS256", "ES256"):
            return None
        if not isinstance(kid, str) or not 0 < len(kid) <= LONGEST_KID:
            return None
        return await self._keys.verified(token, kid, algorithm)

    def _checked(self, payload: bytes | None, rules: Rules) -> Principal | None:
        return None if payload is None else principal_of(payload, rules, self._now())


def owner(principal: Principal | None, headers: Mapping[str, str], body_user: str) -> str:
    """Whose agent a write is about: an admin may act for X-User-Id (D21); nobody else, unless access is open. Never
    cut: two long names would become one (D20)."""
    named = headers.get("x-user-id", "")
    if principal is None:
        return named or body_user or ANYBODY
    return named if principal.is_admin and named else principal.sub


def visible_to(principal: Principal | None, *, guarded: bool = False) -> str | None:
    """Whose agents a list shows; None: everybody's. `guarded`: access control is on, and to somebody without a
    token every tenant is a stranger (D11)."""
    if principal is None:
        return ANYBODY if guarded else None
    return None if principal.is_admin else principal.sub


def read_header(token: str) -> dict[str, Any] | None:
    """Of three segments, each written in the one way there is (RFC 7515 section 2): one token, one text."""
    if len(token) > LONGEST_TOKEN or not _SEGMENTS.fullmatch(token):
        return None
    segments = token.split(".")
    if not all(_is_canonical(segment) for segment in segments):
        return None
    header = _object(_decoded(segments[0]))
    return None if header is None or _UNHEARD & header.keys() else header


def principal_of(payload: bytes, rules: Rules, now: Millis) -> Principal | None:
    """None: a claim is missing, malformed or says no."""
    claims = _object(payload)
    if claims is None or not all(_hold(claims, rules, now)):
        return None
    subject = _subject(claims, legacy=rules.legacy)
    return Principal(subject, _scopes(claims), "jwt") if subject else None


def _known(settings: AuthSettings) -> Iterator[tuple[str, Principal]]:
    for token in settings.tokens:
        yield token, ADMIN
    for service in settings.service_tokens:
        yield service.token, Principal(service.subject, service.scopes, "service")


def _decoded(segment: str) -> bytes:
    return base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))


def _is_canonical(segment: str) -> bool:
    try:
        return base64.urlsafe_b64encode(_decoded(segment)).rstrip(b"=") == segment.encode()
    except binascii.Error:
        return False


def _object(text: bytes) -> dict[str, Any] | None:
    """Duplicate names: no object, as readers would differ over which one counts."""
    try:
        found = unique_json(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _hold(claims: Mapping[str, Any], rules: Rules, now: Millis) -> Iterator[bool]:
    """RFC 7519 section 4.1; no leeway. A time that is no integer is malformed, and no reason to believe for ever."""
    yield all(type(claims.get(name, 0)) is int for name in ("exp", "nbf", "iat"))
    yield "exp" not in claims or claims["exp"] * 1000 > now
    yield rules.legacy or ("exp" in claims and _is_short_lived(claims, now))
    yield claims.get("nbf", 0) * 1000 <= now
    yield not rules.issuer or _same_issuer(claims.get("iss"), rules.issuer)
    yield not rules.audience or _is_for(claims.get("aud"), rules.audience)


def _is_short_lived(claims: Mapping[str, Any], now: Millis) -> bool:
    """`iat` is the token's own word: it may shorten the life, not lengthen it."""
    end: int = claims["exp"]
    start: int = claims.get("iat", end)
    return end - now // 1000 <= LONGEST_LIFE_S + SKEW_S and end - start <= LONGEST_LIFE_S


def _same_issuer(given: object, expected: str) -> bool:
    return isinstance(given, str) and given.rstrip("/") == expected.rstrip("/")


def _is_for(given: object, audience: str) -> bool:
    return audience in given if isinstance(given, list) else isinstance(given, str) and given == audience


def _subject(claims: Mapping[str, Any], *, legacy: bool) -> str:
    """ "" = none that may be used."""
    given = claims.get("sub")
    if legacy:
        given = given or claims.get("userId") or NO_SUBJECT
        return given[:LONGEST_SUBJECT] if isinstance(given, str) and given.isprintable() else ""
    return given if isinstance(given, str) and not subject_problem(given) else ""


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """`scopes` as a list, else `scope`, else `scopes`; text is split (auth.mjs)."""
    listed = claims.get("scopes")
    given = listed if isinstance(listed, list) else claims.get("scope") or listed
    if isinstance(given, str):
        return split_scopes(given)
    return frozenset(scope for scope in given if isinstance(scope, str)) if isinstance(given, list) else frozenset()
