"""What each request must prove, on the Forge surface."""

from typing import NamedTuple

from vmsh_scheduler.api.principal import AuthSettings

PUBLIC = frozenset({"/health", "/healthz", "/livez", "/readyz", "/metrics"})
TICK = "/v1/scheduler/tick"
VERSIONED = "/v1/"


class Need(NamedTuple):
    """`auth`: a valid token; `scope` and `bucket`: "" for none."""

    auth: bool
    scope: str
    bucket: str


NOTHING = Need(auth=False, scope="", bucket="")
ANY_TOKEN = Need(auth=True, scope="", bucket="")


def required(method: str, path: str, settings: AuthSettings) -> Need:
    """By the very path that the router matches, as sent; unknown methods and paths need a token (auth.mjs)."""
    if not settings.enabled or method == "OPTIONS":
        return NOTHING
    if method == "GET":
        return _to_read(path, settings)
    if method == "POST" and path.startswith(VERSIONED):
        return _to_write(path)
    return ANY_TOKEN


def _to_read(path: str, settings: AuthSettings) -> Need:
    if path in PUBLIC or not settings.auth_reads:
        return NOTHING
    return Need(auth=True, scope="agent:read", bucket="read") if path.startswith(VERSIONED) else ANY_TOKEN


def _to_write(path: str) -> Need:
    if path == TICK:
        return Need(auth=True, scope="scheduler:tick", bucket="tick")
    return Need(auth=True, scope="agent:write", bucket="write")
