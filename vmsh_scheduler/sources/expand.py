"""`${NAME}` and `${NAME:-default}` in the values of a parsed file; never read as YAML again.

`$$` is a dollar sign; any other `$` stands for itself. Keys are left alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vmsh_scheduler.domain.references import fill
from vmsh_scheduler.sources.marks import Path, config_error
from vmsh_scheduler.sources.yaml_file import Document

MAX_TEXT = 10_000_000
"""Characters that all expanded values together may have."""


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
        filled = fill(text, self.environ)
        if filled.whole:
            self.whole.add(path)
        for problem in filled.problems:
            self._add(path, problem)
        self.room -= len(filled.text)
        if self.room >= 0:
            return filled.text
        if self.room + len(filled.text) >= 0:
            self._add(path, f"expanded values are too long: over {MAX_TEXT:,} characters in all")
        return ""

    def _add(self, path: Path, message: str) -> None:
        self.problems.append(self.document.problem(path, message))
