"""The JSON Schemas: draft 7, complete, and the ones that are shipped beside the files."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmsh_scheduler.errors import Usage
from vmsh_scheduler.sources.schema import schema

CONFIG = Path(__file__).parents[2] / "config"
FILES = ("namespaces", "agents", "anchors", "scheduler")


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


@pytest.mark.parametrize("which", FILES)
def test_it_is_draft_7_and_closed(which: str) -> None:
    found = schema(which)
    assert found["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert "$defs" not in json.dumps(found)
    for node in nodes(found):
        assert node.get("type") != "null"
        if node.get("type") == "object" and "properties" in node:
            assert node["additionalProperties"] is False
        if "$ref" in node:
            assert node["$ref"].removeprefix("#/definitions/") in found["definitions"]


@pytest.mark.parametrize("which", FILES)
def test_the_shipped_schema_is_this_one(which: str) -> None:
    shipped = json.loads((CONFIG / "schema" / f"{which}.json").read_text())
    assert shipped == schema(which), f"vmsh-scheduler schema {which} > config/schema/{which}.json"


@pytest.mark.parametrize("which", FILES)
def test_the_shipped_file_names_its_schema(which: str) -> None:
    first = (CONFIG / f"{which}.yaml").read_text().splitlines()[0]
    assert first == f"# yaml-language-server: $schema=schema/{which}.json"


def test_it_knows_what_the_models_know() -> None:
    cadence = schema("namespaces")["definitions"]["CadenceSpec"]
    assert cadence["required"] == ["target", "every"]
    assert {"policyOID", "catch_up", "reanchor", "limits"} <= cadence["properties"].keys()
    assert cadence["properties"]["timeout"]["type"] == "string"
    levels = schema("namespaces")["definitions"]["NamespaceSpec"]["properties"]["cadence"]
    assert levels["required"] == ["fast"]
    agent = schema("agents")["definitions"]["AgentSpec"]
    assert set(agent["required"]) == {"agentId", "walletAddress", "callback"}


def test_another_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Usage, match="namespaces, agents, anchors, scheduler"):
        schema("tasks")
