"""The file that `--env-file` names: more environment, for the settings and for commands."""

import re
from collections.abc import Iterator
from pathlib import Path

from vmsh_scheduler.sources.config_files import Watched, look
from vmsh_scheduler.sources.marks import config_error

_LINE = re.compile(r"(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*+)"[ \t]*(?:#.*)?')
_SINGLE = re.compile(r"'([^']*)'[ \t]*(?:#.*)?")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r"}


def read_env_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines, `#` comments, `export `, quotes; nothing is expanded. ConfigError with every bad line."""
    found = look([Watched("env", path)])
    if found.problems:
        raise config_error(found.problems.values())
    try:
        text = found.raw["env"].decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise config_error([f"{path}: not UTF-8 at byte offset {error.start}"]) from None
    values: dict[str, str] = {}
    problems = list(_read_lines(text, str(path), values))
    if problems:
        raise config_error(problems)
    return values


def _read_lines(text: str, name: str, into: dict[str, str]) -> Iterator[str]:
    """The problems; values go into `into`. No message repeats a value."""
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \t\r")
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        value = _value(match[2].strip(" \t")) if match else None
        if match is None:
            yield f"{name}:{number}:1: not NAME=value"
        elif value is None or "\0" in value:
            yield f"{name}:{number}:{match.start(2) + 1}: {match[1]}: quotes that do not match, or text behind them"
        elif match[1] in into:
            yield f"{name}:{number}:1: {match[1]}: set twice in this file"
        else:
            into[match[1]] = value


def _value(text: str) -> str | None:
    """None: malformed. A comment behind an unquoted value needs a blank in front."""
    if text.startswith('"'):
        match = _DOUBLE.fullmatch(text)
        return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), match[1]) if match else None
    if text.startswith("'"):
        match = _SINGLE.fullmatch(text)
        return match[1] if match else None
    return re.split(r"(?:^|[ \t])#", text, maxsplit=1)[0].strip(" \t")
