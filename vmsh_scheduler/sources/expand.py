"""`${NAME}` and `${NAME:-default}` in the values of a parsed file; never read as YAML again.

`$$` is a dollar sign; any other `$` stands for itself. Keys are left alone."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmsh_scheduler.sources.marks import Path, config_error, shown
from vmsh_scheduler.sources.yaml_file import Document

MAX_TEXT = 10_000_000
"""Characters that all expanded values together may have."""

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_DEFAULT = r"\"[^\"]*\"|'[^']*'|[^}\"'$]*"
_REFERENCE = re.compile(rf"\$\$|\$\{{({_NAME})(?::-({_DEFAULT}))?\}}|\$\{{")


def expand(document: Document, environ: Mapping[str, str]) -> Document:
    """Raises ConfigError naming every field with an unset variable or a malformed reference."""
    if not _has_dollar(document.data, set()):
        return document
    expansion = _Expansion(document, environ)
    data = expansion.of(document.data, ())
    if expansion.problems:
        raise config_error(expansion.problems)
    return document._replace(data=data, expanded=document.expanded | expansion.whole)


def _has_dollar(value: Any, seen: set[int]) -> bool:
    """Looks at every shared value once, however often it is aliased."""
    if isinstance(value, str):
        return "$" in value
    if not isinstance(value, (dict, list)) or id(value) in seen:
        return False
    seen.add(id(value))
    return any(_has_dollar(item, seen) for item in (value.values() if isinstance(value, dict) else value))


@dataclass(slots=True)
class _Expansion:
    document: Document
    environ: Mapping[str, str]
    problems: list[str] = field(default_factory=list)
    whole: set[Path] = field(default_factory=set)
    room: int = MAX_TEXT

    def of(self, value: Any, path: Path) -> Any:
        if isinstance(value, dict):
            return {key: self.of(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.of(item, (*path, index)) for index, item in enumerate(value)]
        return self._text(value, path) if isinstance(value, str) and "$" in value else value

    def _text(self, text: str, path: Path) -> str:
        match = _REFERENCE.fullmatch(text)
        if match and match[1]:
            self.whole.add(path)
        result = _REFERENCE.sub(lambda found: self._value(found, path), text)
        self.room -= len(result)
        if self.room >= 0:
            return result
        if self.room + len(result) >= 0:
            self._add(path, f"expanded values are too long: over {MAX_TEXT:,} characters in all")
        return ""

    def _value(self, found: re.Match[str], path: Path) -> str:
        name, default = found[1], found[2]
        if found[0] == "$$":
            return "$"
        if name is None:
            self._add(path, "malformed reference; write ${NAME}, ${NAME:-default}, or $$ for a dollar sign")
            return ""
        return self._checked(self.environ.get(name), default, name, path)

    def _checked(self, value: str | None, default: str | None, name: str, path: Path) -> str:
        if value is None and default is None:
            name = shown(name)
            self._add(path, f"environment variable {name} is not set; set it, or write ${{{name}:-default}}")
        elif value and not value.isascii() and re.search("[\ud800-\udfff]", value):
            self._add(path, f"environment variable {shown(name)} is not UTF-8")
        return value or _unquoted(default or "")

    def _add(self, path: Path, message: str) -> None:
        self.problems.append(self.document.problem(path, message))


def _unquoted(default: str) -> str:
    """`:-""` means nothing at all, not two quotation marks (vaultmesh section 7)."""
    quoted = len(default) >= 2 and default[0] == default[-1] and default[0] in "\"'"
    return default[1:-1] if quoted else default
