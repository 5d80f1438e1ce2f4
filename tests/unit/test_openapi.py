"""The description holds every route and no other, and is sound by itself."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from http.client import HTTPMessage
from typing import Any, cast

import pytest

from tests.support.api_fuzz import Attempt, check
from vmsh_scheduler.api.documents import LOCKED, document, with_documents
from vmsh_scheduler.api.forge_routes import Forge, forge_routes
from vmsh_scheduler.api.principal import AuthSettings
from vmsh_scheduler.api.schemas import CONTRACTS
from vmsh_scheduler.api.scopes import required
from vmsh_scheduler.api.surface import Call, Route, Text


def routes(settings: AuthSettings = LOCKED) -> tuple[Route, ...]:
    return with_documents(forge_routes(cast(Forge, None), guarded=settings.enabled), settings, "1.2.3")


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    """As it is sent."""
    served = next(route for route in routes() if route.template == "/openapi.json")
    answer = asyncio.run(served.handler(Call(None, {}, {})))
    assert isinstance(answer, Text)
    return cast(dict[str, Any], json.loads(answer.body))


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def nodes(found: object) -> Iterator[dict[str, Any]]:
    if isinstance(found, dict):
        yield found
    for inner in found.values() if isinstance(found, dict) else found if isinstance(found, list) else ():
        yield from nodes(inner)


def test_it_holds_every_route_and_no_other(spec: dict[str, Any]) -> None:
    table = {route.label for route in routes()}
    assert {label for label, _ in operations(spec)} == table
    assert CONTRACTS.keys() == table


def test_a_route_without_a_contract_is_noticed() -> None:
    with pytest.raises(KeyError):
        document((*routes(), Route("GET", "/v1/forgotten", routes()[0].handler)), LOCKED, "")


def test_every_reference_leads_somewhere(spec: dict[str, Any]) -> None:
    references = {node["$ref"] for node in nodes(spec) if "$ref" in node}
    assert "#/components/schemas/AgentRecord" in references
    for reference in references:
        found: Any = spec
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_what_openapi_asks_for_is_there(spec: dict[str, Any]) -> None:
    """OpenAPI 3.1.1 section 4.8: the parts that are required, and names that are unique."""
    assert spec["openapi"].startswith("3.1.")
    assert spec["info"]["version"] == "1.2.3"
    every = dict(operations(spec))
    assert len({operation["operationId"] for operation in every.values()}) == len(every)
    for label, operation in every.items():
        holes = {part[1:-1] for part in label.split("/") if part.startswith("{")}
        assert {each["name"] for each in operation["parameters"] if each["in"] == "path"} == holes
        assert all(reply["description"] for reply in operation["responses"].values())
        for requirement in operation["security"]:
            assert requirement.keys() <= spec["components"]["securitySchemes"].keys()


@pytest.mark.parametrize(
    "settings", [LOCKED, AuthSettings(tokens=("x",)), AuthSettings()], ids=["all", "writes", "off"]
)
def test_it_asks_for_what_access_control_asks_for(settings: AuthSettings) -> None:
    for label, operation in operations(document(routes(settings), settings, "")):
        need = required(*label.split(" "), settings)
        assert bool(operation["security"]) == need.auth
        assert all(
            scopes == ([need.scope] if need.scope else []) for each in operation["security"] for scopes in each.values()
        )
        locked = required(*label.split(" "), LOCKED)
        assert (operation.get("x-scope", ""), operation.get("x-quota", "")) == (locked.scope, locked.bucket)


def test_every_change_is_audited() -> None:
    assert [route.label for route in routes() if bool(route.verb) != (route.method == "POST")] == []


def test_models_are_loaded_when_they_are_asked_for() -> None:
    code = "import sys, vmsh_scheduler.door; sys.exit('vmsh_scheduler.api.schemas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"ok":true}'),
        (200, b'{"ok":true,"ts":1,"queueDepth":0,"inFlight":0,"agents":"0"}'),
        (500, b'{"error":{"message":"internal_error"}}'),
        (400, b'{"error":{"message":"a code of another route"}}'),
        (400, b'{"message":"invalid_body"}'),
    ],
)  # fmt: skip
def test_the_fuzzer_would_notice(spec: dict[str, Any], status: int, body: bytes) -> None:
    headers = HTTPMessage()
    headers["Content-Type"], headers["X-Request-Id"] = "application/json", "x"
    attempt = Attempt("POST /v1/scheduler/tick", "/v1/scheduler/tick", b"", {})
    assert check(spec, attempt, 400, headers, b'{"error":{"message":"invalid_body"}}') == 400
    with pytest.raises((AssertionError, ValueError)):
        check(spec, attempt, status, headers, body)
