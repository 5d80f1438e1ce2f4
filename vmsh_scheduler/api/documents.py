"""What the API says of itself: `/openapi.json` (OpenAPI 3.1) from the routes and models, `/docs` for people."""

import asyncio
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from vmsh_scheduler.api.docs_page import HEADERS, PAGE
from vmsh_scheduler.api.principal import AuthSettings
from vmsh_scheduler.api.scopes import NOTHING, Need, required
from vmsh_scheduler.api.surface import BODY_LIMIT, JSON_TYPE, REQUEST_ID, Call, Route, Text
from vmsh_scheduler.domain.json_text import encoded

if TYPE_CHECKING:
    from pydantic import BaseModel

    from vmsh_scheduler.api.schemas import Contract

Node = dict[str, object]

OPENAPI = "/openapi.json"
DOCS = "/docs"
LOCKED = AuthSettings(tokens=("x",), auth_reads=True)
"""Everything that can need a token needs one: what scope it would be."""

_SECURITY_SCHEMES: Node = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A shared token, a service token or a JWT."},
    "schedulerToken": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Scheduler-Token",
        "description": "The same, where Authorization is taken already.",
    },
}
_HEADERS: Node = {
    "RequestId": {"description": "As it was sent, or a new one.", "schema": {"type": "string"}},
    "RetryAfter": {"description": "Seconds.", "schema": {"type": "integer"}},
    "Authenticate": {"description": "RFC 9110 section 11.6.1.", "schema": {"const": "Bearer"}},
}
_USER: Node = {
    "name": "X-User-Id",
    "in": "header",
    "required": False,
    "description": "The agent's owner: where access is open, or for administrators.",
    "schema": {"type": "string", "maxLength": 120},
}


def with_documents(routes: tuple[Route, ...], settings: AuthSettings, version: str) -> tuple[Route, ...]:
    """The routes, and the two that describe them all; read like any other GET (api.scopes)."""
    every: list[Route] = []
    description = _Once(lambda: encoded(document(tuple(every), settings, version)))

    async def openapi(_: Call) -> Text:
        return Text(await description(), JSON_TYPE)

    async def docs(_: Call) -> Text:
        return Text(PAGE, "text/html; charset=utf-8", HEADERS)

    every += [
        *routes,
        Route("GET", OPENAPI, openapi, "This description"),
        Route("GET", DOCS, docs, "This description, for people"),
    ]
    return tuple(every)


def document(routes: tuple[Route, ...], settings: AuthSettings, version: str) -> Node:
    """OpenAPI 3.1.1; `security` is what this daemon asks for, `x-scope` what it asks for with access control on."""
    from vmsh_scheduler.api.schemas import CONTRACTS  # loads pydantic and builds every model

    paths: dict[str, Node] = {}
    for route in routes:
        contract = CONTRACTS[route.label]
        paths.setdefault(route.template, {})[route.method.lower()] = _operation(route, contract, settings)
    return {
        "openapi": "3.1.1",
        "info": {"title": "vmsh-scheduler", "version": version, "description": _ABOUT},
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": _SECURITY_SCHEMES, "headers": _HEADERS},
    }


_ABOUT = (
    "Agents that are woken with a market snapshot, and the health of the scheduler. Every refusal is"
    ' `{"error": {"message": code}}`. OPTIONS is answered 204 on every path.'
)


class _Once:
    """Made off the loop when it is first asked for: it takes a while, and nobody may ever ask."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._made: bytes | None = None

    async def __call__(self) -> bytes:
        async with self._lock:
            if self._made is None:
                self._made = await asyncio.to_thread(self._make)
            return self._made


def _schemas() -> Node:
    from pydantic.json_schema import models_json_schema

    from vmsh_scheduler.api.schemas import CONTRACTS, Error

    models: list[type[BaseModel]] = [Error]
    for contract in CONTRACTS.values():
        models += [each for each in (contract.reply, contract.request) if isinstance(each, type)]
    _, found = models_json_schema(
        [(model, "validation") for model in models], ref_template="#/components/schemas/{model}"
    )
    return dict(found["$defs"])


def _operation(route: Route, contract: "Contract", settings: AuthSettings) -> Node:
    need = required(route.method, route.template, settings)
    locked = required(route.method, route.template, LOCKED)
    made: Node = {
        "operationId": _name(route),
        "summary": route.summary,
        "parameters": _parameters(route, contract),
        "responses": _responses(contract, locked),
        "security": [{name: [need.scope] if need.scope else []} for name in _SECURITY_SCHEMES] if need.auth else [],
    }
    if locked != NOTHING:
        made |= {"x-scope": locked.scope, "x-quota": locked.bucket}
    if contract.request is not None:
        made["requestBody"] = {
            "description": f"At most {BODY_LIMIT} bytes; of any content type, unless a browser sends it.",
            "required": True,
            "content": {JSON_TYPE: {"schema": _reference(contract.request.__name__)}},
        }
    return made


def _name(route: Route) -> str:
    words = [word.strip("{}") for word in route.template.replace(".", "/").replace("-", "/").split("/")]
    return route.method.lower() + "".join(word.capitalize() for word in words if word)


def _parameters(route: Route, contract: "Contract") -> list[Node]:
    holes = [part[1:-1] for part in route.template.split("/") if part.startswith("{")]
    found: list[Node] = [
        {"name": hole, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for hole in holes
    ]
    for name, about in (contract.query or {}).items():
        found.append(
            {"name": name, "in": "query", "required": True, "description": about, "schema": {"type": "string"}}
        )
    return found if contract.request is None else [*found, _USER]


def _responses(contract: "Contract", locked: Need) -> Node:
    told: dict[str, Node] = {"200": _success(contract)}
    for status, codes in sorted(_refusals(contract, locked).items()):
        told[str(status)] = _refusal(status, codes)
    return dict(told)


def _refusals(contract: "Contract", locked: Need) -> dict[int, tuple[str, ...]]:
    from vmsh_scheduler.api.schemas import EVERYWHERE

    found = dict(contract.refusals)
    asked = {401: locked.auth, 403: bool(locked.scope), 429: bool(locked.bucket)}
    for status, codes in EVERYWHERE.items():
        if asked.get(status, True):
            found[status] = (*found.get(status, ()), *codes)
    return found


def _success(contract: "Contract") -> Node:
    if isinstance(contract.reply, str):
        return _answer("As asked for.", contract.reply, {})
    return _answer(contract.reply.__doc__ or "", JSON_TYPE, _reference(contract.reply.__name__))


def _refusal(status: int, codes: tuple[str, ...]) -> Node:
    texts = sorted(code for code in codes if code != "*")
    about = f"{HTTPStatus(status).phrase}: {', '.join(texts)}" if texts else HTTPStatus(status).phrase
    made = _answer(about, JSON_TYPE, _reference("Error"))
    made["x-codes"] = sorted(codes)
    extra = {429: ("Retry-After", "RetryAfter"), 401: ("WWW-Authenticate", "Authenticate")}.get(status)
    if extra is not None:
        made["headers"] = {**_headers(), extra[0]: {"$ref": f"#/components/headers/{extra[1]}"}}
    return made


def _answer(about: str, content_type: str, schema: Mapping[str, object]) -> Node:
    return {"description": about, "headers": _headers(), "content": {content_type: {"schema": schema}}}


def _headers() -> Node:
    return {REQUEST_ID: {"$ref": "#/components/headers/RequestId"}}


def _reference(name: str) -> Node:
    return {"$ref": f"#/components/schemas/{name}"}
