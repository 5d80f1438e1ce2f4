"""What the settings of the API mean together. Loads what access control is made of; neither aiohttp nor jwt."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vmsh_scheduler import redis_settings
from vmsh_scheduler.api.principal import AuthSettings
from vmsh_scheduler.api.principal import problems as auth_problems
from vmsh_scheduler.api.tokens import parse_service_tokens
from vmsh_scheduler.environment import VARIABLES
from vmsh_scheduler.net.guard import AllowList, literal_refused, url_problem

SHORTEST_SIGNING_SECRET = 16
"""Bytes; shorter ones could be guessed from one signed callback."""
OPEN = "without authentication: set SCHEDULER_AUTH_TOKENS, or api.allow_unauthenticated: true"

_NAMES = {variable.name: variable.setting for variable in reversed(VARIABLES)}
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]+\]")
_NAMED = re.compile("SCHEDULER_[A-Z0-9_]+")


def auth_settings(sections: Mapping[str, Any]) -> AuthSettings:
    """From Settings.sections, which `judge` has passed; raises ValueError for service tokens that cannot be read."""
    auth = {name.removeprefix("auth."): value for name, value in sections.items() if name.startswith("auth.")}
    return AuthSettings(
        tokens=auth["tokens"],
        service_tokens=parse_service_tokens(auth["service_tokens"]),
        hs256_secret=auth["jwt_hs256_secret"],
        issuer=auth["jwt_issuer"],
        audience=auth["jwt_audience"],
        jwks_url=auth["jwks_url"],
        oidc_issuer=auth["oidc_issuer"],
        jwks_ttl_ms=auth["jwks_ttl_ms"],
        discovery_ttl_ms=auth["oidc_ttl_ms"],
        http_timeout_ms=auth["http_timeout_ms"],
        allowed_kids=auth["allowed_kids"],
        allowed_kids_file=auth["allowed_kids_file"],
        require_pinned_kid=auth["require_pinned_kid"],
        auth_reads=auth["reads"],
        legacy_claims=auth["legacy_claims"],
    )


def secret_tokens(sections: Mapping[str, Any]) -> list[str]:
    """Each by itself: whoever masks them in logs does not meet the list."""
    settings = auth_settings(sections)
    every = [*settings.tokens, *(service.token for service in settings.service_tokens)]
    return [secret for secret in (*every, settings.hs256_secret, sections["callbacks.secret"]) if secret]


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach a listener there; of names, `localhost` alone is believed."""
    return host.lower() == "localhost" or literal_refused(host, 0, AllowList(), loopback_ok=False) == "loopback"


def judge(sections: Mapping[str, Any], origins: Mapping[str, str]) -> Iterator[str]:
    """settings_file.Judge: all for which the API must not start, each with its variable or place; shows no value."""
    for name, problem in (*_of_values(sections), *_of_access(sections, origins), *redis_settings.problems(sections)):
        yield f"{_place(name, origins)}: {problem}"


def _of_values(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Setting and problem."""
    for number, host in enumerate(sections["api.hosts"], 1):
        if not _HOST.fullmatch(host):
            yield "api.hosts", f"entry {number} is no host name: write it without scheme, port and *"
    if problem := _base_problem(sections["market.base"]):
        yield "market.base", problem
    for number, entry in enumerate(sections["callbacks.allow"], 1):
        if not _may_be_allowed(entry):
            yield "callbacks.allow", f"entry {number} is no host, host:port, address or CIDR range"
    secret = sections["callbacks.secret"]
    if secret and len(secret.encode("utf-8", "surrogatepass")) < SHORTEST_SIGNING_SECRET:
        yield (
            "callbacks.secret",
            f"needs {SHORTEST_SIGNING_SECRET} bytes or more; make one with `openssl rand -hex 32`",
        )


def _base_problem(url: str) -> str:
    problem = url_problem(url)
    if not problem and ("?" in url or "#" in url):
        problem = "has a query or a fragment: paths are added to it"
    return problem and f"must be the http:// or https:// URL of a host: {problem}"


def _may_be_allowed(entry: str) -> bool:
    try:
        AllowList.parse([entry])
    except ValueError:
        return False
    return True


def _of_access(sections: Mapping[str, Any], origins: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    try:
        settings = auth_settings(sections)
    except ValueError as error:
        return [("auth.service_tokens", str(error))]
    found = [_about(problem, origins) for problem in auth_problems(settings)]
    if origins["auth.tokens"].startswith("env ") and not settings.tokens:
        found.append(("auth.tokens", "holds no token"))
    if origins["auth.service_tokens"].startswith("env ") and not settings.service_tokens:
        found.append(("auth.service_tokens", "holds no token"))
    host = sections["api.host"]
    if not settings.enabled and not is_loopback(host) and not sections["api.allow_unauthenticated"]:
        found.append(("api.host", f"an address that others reach, {OPEN}"))
    return found


def _about(problem: str, origins: Mapping[str, str]) -> tuple[str, str]:
    """principal.problems speaks of variables, wherever the values came from: the setting meant, and the rest."""
    named = _NAMED.findall(problem)
    other = ("auth.jwt_issuer", "auth.jwt_audience") if "JWT" in problem else ("auth.tokens", "auth.service_tokens")
    candidates = [*(_NAMES.get(name, "") for name in named), *other]
    meant = next((name for name in candidates if origins.get(name, "default") != "default"), "auth.tokens")
    if named and problem.startswith(named[0]) and _NAMES.get(named[0]) == meant:
        problem = problem.removeprefix(named[0]).lstrip(": ")
    return meant, problem


def _place(name: str, origins: Mapping[str, str]) -> str:
    origin = origins[name]
    if origin.startswith("env "):
        return origin.removeprefix("env ")
    return name if origin == "default" else f"{origin}: {name}"
