"""Which files a seal is about: globs under a base directory; names with a leading dot only when asked for."""

import fnmatch
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.errors import ConfigError

MAX_FILES = 200_000
_MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class Omitted:
    """A file, directory or pattern that could not be sealed, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class Matches:
    """Relative POSIX paths and where they are."""

    base: Path
    excluded: frozenset[Path] = frozenset()
    files: dict[str, Path] = field(default_factory=dict)
    omitted: list[Omitted] = field(default_factory=list)
    _seen: set[tuple[Path, tuple[str, ...]]] = field(default_factory=set)
    _listed: dict[Path, list[os.DirEntry[str]]] = field(default_factory=dict)

    def add(self, pattern: str) -> None:
        """Everything one pattern finds; one that finds nothing is reported."""
        if not self._expand(self.base, split(pattern)):
            self.omitted.append(Omitted(pattern, "no such file"))

    def _expand(self, directory: Path, segments: tuple[str, ...]) -> bool:
        """True if anything was found; never the same question twice, so `**/**` stays linear."""
        if (directory, segments) in self._seen:
            return False
        self._seen.add((directory, segments))
        first, rest = segments[0], segments[1:]
        if first != "**":
            return self._named(directory, first, rest)
        found = self._expand(directory, rest)
        for entry in self._entries(directory):
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                found |= self._expand(directory / entry.name, segments)
        return found

    def _named(self, directory: Path, pattern: str, rest: tuple[str, ...]) -> bool:
        wanted = re.compile(fnmatch.translate(pattern))
        found = False
        for entry in self._entries(directory):
            hidden = entry.name.startswith(".") and not pattern.startswith(".")
            if hidden or not wanted.match(entry.name):
                continue
            path = directory / entry.name
            if _is_directory(entry):
                found |= bool(rest) and self._expand(path, rest)
            elif not rest:
                found |= self._take(path)
        return found

    def _take(self, path: Path) -> bool:
        name = path.relative_to(self.base).as_posix()
        if len(self.files) >= MAX_FILES:
            raise Invalid(f"more than {MAX_FILES} files to seal", hint="narrow seal.files")
        if not _is_text(name):
            self.omitted.append(Omitted(ascii(name), "name is not UTF-8"))
        else:
            self.files[name] = path
        return True

    def _entries(self, directory: Path) -> list[os.DirEntry[str]]:
        if directory not in self._listed:
            self._listed[directory] = self._list(directory)
        return self._listed[directory]

    def _list(self, directory: Path) -> list[os.DirEntry[str]]:
        name = directory.relative_to(self.base).as_posix()
        if len(directory.parts) - len(self.base.parts) > _MAX_DEPTH:
            self.omitted.append(Omitted(name, f"more than {_MAX_DEPTH} directories deep"))
            return []
        try:
            with os.scandir(directory) as entries:
                return [entry for entry in entries if directory / entry.name not in self.excluded]
        except OSError as error:
            self.omitted.append(Omitted(name, error.strerror or str(error)))
            return []


def split(pattern: str) -> tuple[str, ...]:
    """Segments of a glob; ConfigError for one that is absolute, empty or climbs out of the base."""
    segments = tuple(part for part in pattern.split("/") if part != ".")
    if not segments or "" in segments or ".." in segments or "\0" in pattern:
        raise ConfigError(f"seal pattern {pattern!r} must be relative, without `..` and empty parts")
    return (*segments, "*") if segments[-1] == "**" else segments


def match(base: Path, patterns: Iterable[str], excluded: Iterable[Path] = ()) -> Matches:
    """`base` and `excluded` (trees to leave out) are real paths."""
    matches = Matches(base, frozenset(excluded))
    for pattern in patterns:
        matches.add(pattern)
    return matches


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
