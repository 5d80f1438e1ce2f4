"""JSON Schema of each file, from the models; draft 7, which yaml-language-server reads."""

from typing import Any, Literal, cast

from pydantic import BaseModel

from vmsh_scheduler.errors import Usage
from vmsh_scheduler.settings_file import SettingsFile
from vmsh_scheduler.sources.documents import AgentsFile, NamespacesFile
from vmsh_scheduler.sources.rails import AnchorsFile

Which = Literal["namespaces", "agents", "anchors", "scheduler"]


def schema(which: str) -> dict[str, Any]:
    """Raises Usage for any other name."""
    models: dict[str, type[BaseModel]] = {
        "namespaces": NamespacesFile,
        "agents": AgentsFile,
        "anchors": AnchorsFile,
        "scheduler": SettingsFile,
    }
    if which not in models:
        raise Usage(f"there is no file {which!r}", hint=f"one of {', '.join(models)}")
    generated = models[which].model_json_schema(ref_template="#/definitions/{model}")
    return cast("dict[str, Any]", _plain({"$schema": "http://json-schema.org/draft-07/schema#", **generated}))


def _plain(node: object) -> object:
    """Draft 7 calls `$defs` definitions; generated titles only repeat names; null is not written in files."""
    if isinstance(node, list):
        return [_plain(item) for item in node]
    if not isinstance(node, dict):
        return node
    renamed = {"definitions" if key == "$defs" else key: value for key, value in node.items()}
    kept = {key: _plain(value) for key, value in renamed.items() if not _is_noise(key, value)}
    return _without_null(kept)


def _is_noise(key: str, value: object) -> bool:
    return (key == "title" and isinstance(value, str)) or (key == "default" and value is None)


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    """`anyOf` of a type and null is the type."""
    choices = node.get("anyOf")
    if choices is None:
        return node
    left = [choice for choice in choices if choice != {"type": "null"}]
    rest = {key: value for key, value in node.items() if key != "anyOf"}
    return {**left[0], **rest} if len(left) == 1 else {**rest, "anyOf": left}
