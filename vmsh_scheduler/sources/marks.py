"""Where things stand in a config file, and how a problem with one of them is written."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from vmsh_scheduler.errors import ConfigError

Path = tuple[str | int, ...]

_NO_NAME = re.compile(r"[^\w.-].*", re.DOTALL)

MOST_LISTED = 1_000
"""Problems of one error; more help nobody."""


class Mark(NamedTuple):
    """A place in a file; both count from 1, columns in characters."""

    line: int
    column: int


START = Mark(1, 1)


class Spot(NamedTuple):
    """Where a value stands, where its key stands (its own place in a list), and what is inside it."""

    key: Mark
    value: Mark
    inside: "Mapping[str, Spot] | list[Spot] | None" = None


class Marks(NamedTuple):
    """Path -> place. A path that does not exist is at the deepest of its parents that does."""

    root: Spot

    def key(self, path: Path) -> Mark:
        spot, found = self._walk(path)
        return spot.key if found == len(path) else spot.value

    def value(self, path: Path) -> Mark:
        return self._walk(path)[0].value

    def _walk(self, path: Path) -> tuple[Spot, int]:
        spot, found = self.root, 0
        for part in path:
            below = _inside(spot, part)
            if below is None:
                break
            spot, found = below, found + 1
        return spot, found


def _inside(spot: Spot, part: str | int) -> Spot | None:
    if isinstance(spot.inside, list):
        return spot.inside[part] if isinstance(part, int) and 0 <= part < len(spot.inside) else None
    return spot.inside.get(part) if spot.inside is not None and isinstance(part, str) else None


def problem_at(name: str, mark: Mark, path: Path, message: str) -> str:
    where = f"{name}:{mark.line}:{mark.column}: "
    return f"{where}{dotted(path)}: {message}" if path else where + message


def dotted(path: Path) -> str:
    """`namespaces.dao:x.cadence.fast`, `agents[3].name`; unprintable characters escaped, long keys cut."""
    text = ""
    for depth, part in enumerate(path):
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{shown(part if depth == 1 and path[0] == 'namespaces' else _name(part))}"
    return text.removeprefix(".")


def _name(key: str) -> str:
    """`{TOKEN=x}` and `{TOKEN:x}` are keys to YAML: what follows the name may be a secret."""
    return _NO_NAME.sub("...", key, count=1)


def shown(key: str) -> str:
    """A key as it may stand in a message: printable and short."""
    key = key if len(key) <= 80 else key[:77] + "..."
    return key if key.isprintable() and key else repr(key)


def config_error(problems: Iterable[str]) -> ConfigError:
    """One error for all problems, which stand in `problems`; a single one is its message too."""
    found = tuple(problems)
    listed = found[:MOST_LISTED]
    if len(found) > MOST_LISTED:
        listed += (f"and {len(found) - MOST_LISTED} more problems",)
    return ConfigError(found[0] if len(found) == 1 else f"{len(found)} problems in the configuration", problems=listed)
