"""The API, opened: routes over the program's parts, behind access control. Loads the HTTP library when it is on."""

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

from vmsh_scheduler import __version__
from vmsh_scheduler.api.audit import BoundedAudit
from vmsh_scheduler.api.auth import Authenticator
from vmsh_scheduler.api.documents import with_documents
from vmsh_scheduler.api.forge_routes import forge_routes
from vmsh_scheduler.api.jwt_keys import KeySet
from vmsh_scheduler.api.listener import ApiListener
from vmsh_scheduler.api.principal import AuthSettings
from vmsh_scheduler.api.quota import Quotas, SharedQuotas
from vmsh_scheduler.api.surface import Access, Audited, Surface, Tally
from vmsh_scheduler.api_settings import auth_settings, is_loopback
from vmsh_scheduler.app import App, Facts
from vmsh_scheduler.forge import ForgeView
from vmsh_scheduler.greeting import greet
from vmsh_scheduler.observe.logs import say

_AUDIT = logging.getLogger("vmsh_scheduler.audit")


class Door:
    """Closed before the engine stops, so that what was answered is done."""

    def __init__(self, listener: ApiListener, keys: KeySet | None, audit: BoundedAudit) -> None:
        self._listener = listener
        self._keys = keys
        self._audit = audit
        self.port = listener.port

    async def close(self) -> None:
        await self._listener.close()
        self._audit.close()
        if self._keys is not None:
            await self._keys.close()


async def open_door(app: App, facts: Facts, sock: socket.socket) -> Door:
    """`sock` is bound already."""
    settings = _auth(app)
    keys = _key_set(app, settings)
    authenticator, tally = Authenticator(settings, keys, app.clock.now), Tally()
    checks = _checks(authenticator, keys)
    market, meters = app.cycles.market, app.cycles.metrics
    forge = ForgeView(app, facts, market, meters, tally, lambda: _told(app, settings, keys), checks)
    app.observers.observers.append(forge.watch)
    routes = with_documents(forge_routes(forge, guarded=settings.enabled), settings, __version__)
    audit = BoundedAudit(_audit, _audit_counted)
    surface = Surface(routes, _access(app, settings, authenticator, sock), tally, audit=audit)
    door = Door(await ApiListener(surface, sock).start(), keys, audit)
    greet(sock.getsockname()[0], door.port, _greeting(app, settings))
    return door


def _auth(app: App) -> AuthSettings:
    settings = auth_settings(app.settings.sections)
    return settings if app.pins is None else replace(settings, allowed_kids=app.pins.kids)


def _access(app: App, settings: AuthSettings, authenticator: Authenticator, sock: socket.socket) -> Access:
    origins, hosts = (frozenset(app.settings.sections[name]) for name in ("api.origins", "api.hosts"))
    local = is_loopback(sock.getsockname()[0])
    named = frozenset(host.lower() for host in hosts)
    return Access(settings, authenticator, _quotas(app), origins, local=local, hosts=named)


def _greeting(app: App, settings: AuthSettings) -> dict[str, object]:
    """forge-os section 15."""
    sections = app.settings.sections
    return {
        "kas_api": sections["market.base"],
        "tick_ms": sections["agents.tick_ms"],
        "concurrency": sections["agents.concurrency"],
        "auth": "on" if settings.enabled else "off",
        "redis": "off" if app.cluster is None else "configured",
        "queue_mode": "local" if app.cluster is None else "redis-authoritative",
        "instance": app.cycles.instance,
    }


def _audit(call: Audited) -> None:
    """Never what was sent: no token, no body, no path."""
    fields = asdict(call)
    say(_AUDIT, logging.INFO, "audit", **{name: value for name, value in fields.items() if value != ""})


def _audit_counted(more: Mapping[int, int]) -> None:
    for status, count in more.items():
        say(_AUDIT, logging.WARNING, "audit lines left out", status=status, count=count)


def _key_set(app: App, settings: AuthSettings) -> KeySet | None:
    if not settings.fetches_keys:
        return None

    async def fetch(url: str, most: int) -> tuple[int, bytes]:
        timeout_s = settings.http_timeout_ms / 1000
        reply = await app.cycles.client.get(url, {"Accept": "application/json"}, timeout_s=timeout_s, limit=most)
        return reply.status, reply.head

    keys = KeySet(settings, fetch, app.clock.elapsed)
    if app.pins is not None:
        app.pins.follow(keys)
    return keys


def _checks(authenticator: Authenticator, keys: KeySet | None) -> Callable[[], Mapping[str, int]]:
    """What checking tokens took, for metrics (forge-os section 13)."""

    def counted() -> Mapping[str, int]:
        if keys is None:
            return {}
        return {
            "auth_jwks_success_total": authenticator.by_issuer,
            "jwks_fetch_total": keys.fetches,
            "jwks_fetch_errors_total": keys.fetch_errors,
            "jwks_cache_hits_total": keys.cache_hits,
            "oidc_discovery_fetch_total": keys.discovery_fetches,
            "oidc_discovery_fetch_errors_total": keys.discovery_errors,
            "oidc_discovery_cache_hits_total": keys.discovery_cache_hits,
        }

    return counted


def _quotas(app: App) -> Quotas:
    sections = app.settings.sections
    limits = {bucket: sections[f"quota.{bucket}_max"] for bucket in ("read", "write", "tick")}
    window, now = sections["quota.window_ms"], app.clock.now
    return Quotas(window, limits, now) if app.shared is None else SharedQuotas(window, limits, now, app.shared.counters)


def _told(app: App, settings: AuthSettings, keys: KeySet | None) -> Mapping[str, object]:
    """`auth` of /health (forge-os section 14)."""
    sections = app.settings.sections
    return {
        "enabled": settings.enabled,
        "requireAuthForReads": settings.auth_reads,
        "jwtEnabled": settings.verifies_jwts,
        "jwtHs256Enabled": bool(settings.hs256_secret),
        "jwksUrlConfigured": bool(settings.jwks_url),
        "oidcIssuerConfigured": bool(settings.oidc_issuer),
        "jwksPinnedKids": len(settings.allowed_kids) if keys is None else keys.pinned,
        "jwksRequirePinnedKid": settings.require_pinned_kid,
        "serviceTokens": len(settings.service_tokens),
        "quota": {
            "windowMs": sections["quota.window_ms"],
            "readMax": sections["quota.read_max"],
            "writeMax": sections["quota.write_max"],
            "tickMax": sections["quota.tick_max"],
        },
    }
