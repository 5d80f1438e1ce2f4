"""YAML bytes -> plain data with line marks. Never recurses, never builds objects, refuses what is ambiguous.

It reads the parser's event stream itself (build.py), so that no input can exhaust stack or memory.
Merge keys (`<<`) are refused; aliases of whole values work."""

import hashlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import yaml

from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.build import Builder, Found, Refused
from vmsh_scheduler.sources.config_files import MAX_BYTES
from vmsh_scheduler.sources.marks import START, Mark, Marks, Path, config_error, problem_at

MAX_SEPARATORS = 1_000_000
"""Lines, commas and the like: an upper bound that is known before the first event is parsed."""

_BAD_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufffe\uffff]")
_UTF16_32 = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
_BOM = b"\xef\xbb\xbf"


class Document(NamedTuple):
    """One config file: plain dicts, lists and scalars, and where each of them stands."""

    name: str
    data: dict[str, Any]
    marks: Marks
    sha256: str
    expanded: frozenset[Path] = frozenset()
    """Values that were one `${...}` as a whole: text that may stand for a number or true/false."""

    def problem(self, path: Path, message: str, *, at_key: bool = False) -> str:
        """`file:line:col: path: message`."""
        mark = self.marks.key(path) if at_key else self.marks.value(path)
        return problem_at(self.name, mark, path, message)


def parse(raw: bytes, name: str, *, empty_ok: bool = False) -> Document:
    """Raises ConfigError with every problem; `empty_ok`: a file of comments alone is an empty mapping."""
    document, problems = read(raw, name, empty_ok=empty_ok)
    if document is None or problems:
        raise config_error(problems)
    return document


def read(raw: bytes, name: str, *, empty_ok: bool = False) -> tuple[Document | None, list[str]]:
    """The document with its problems (a scalar that needs quotes stands in it as text), so that what else is wrong
    can be told in the same breath; None: it could not be read to its end. Raises ConfigError for what is no text."""
    text = _decode(raw, name)
    builder, whole = Builder(), False
    try:
        builder.run(_events(text), empty_ok=empty_ok)
        whole = True
    except Refused as refused:
        builder.problems.append(refused.found)
    except yaml.YAMLError as error:
        builder.problems.append(_syntax(error, text))
    except Exception as error:  # whatever else the library lets escape is a fault of the file, not of ours
        found = Found(START, (), f"cannot be read as YAML ({type(error).__name__})")
        builder.problems.append(found)
    problems = [problem_at(name, found.mark, found.path, found.message) for found in sorted(builder.problems)]
    if not whole:
        return None, problems
    return Document(name, builder.data, Marks(builder.spot), hashlib.sha256(raw).hexdigest()), problems


def _events(text: str) -> Iterable[yaml.Event]:
    separators = sum(text.count(mark) for mark in ("\n", "\r", ",", "- ", "? ", ": "))
    if separators > MAX_SEPARATORS:
        raise Refused(Found(START, (), f"too many values: over {MAX_SEPARATORS:,} lines, commas and keys"))
    # libyaml is 10 times as fast; a PyYAML built without it works too
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.parse(text, Loader=loader)


def _decode(raw: bytes, name: str) -> str:
    """UTF-8 with or without BOM; anything else is refused with its byte offset."""
    if len(raw) > MAX_BYTES:
        raise config_error([f"{name}:1:1: too large: {len(raw):,} bytes, at most {MAX_BYTES:,}"])
    if raw.startswith(_UTF16_32):
        raise config_error([f"{name}:1:1: UTF-16 or UTF-32 at byte offset 0; save the file as UTF-8"])
    if (nul := raw.find(b"\x00")) >= 0:
        raise _bad_byte(raw, name, nul, "NUL byte (is this UTF-16? save the file as UTF-8)")
    try:
        text = raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _bad_byte(raw, name, error.start, "not UTF-8; save the file as UTF-8") from None
    if bad := _BAD_CHARACTER.search(text):
        before = len(text[: bad.start()].encode()) + len(_BOM) * raw.startswith(_BOM)
        raise _bad_byte(raw, name, before, f"control character U+{ord(bad[0]):04X}")
    return text


def _bad_byte(raw: bytes, name: str, offset: int, what: str) -> ConfigError:
    line = raw.count(b"\n", 0, offset) + 1
    column = offset - raw.rfind(b"\n", 0, offset)
    return config_error([f"{name}:{line}:{column}: {what} at byte offset {offset}"])


def _syntax(error: yaml.YAMLError, text: str) -> Found:
    """Says what the parser stumbled over, but quotes nothing longer than a sign: it may be a secret."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return Found(START, (), "not valid YAML")
    mark, context = error.problem_mark, error.context_mark
    place = Mark(mark.line + 1, mark.column + 1)
    if _tab_in_indent(text, mark.line, mark.column):
        return Found(place, (), "tab used for indentation; use spaces")
    problem = re.sub(r"'[^']{5,}'|\"[^\"]{5,}\"", "'...'", error.problem or "unreadable")
    since = f" ({error.context}, from line {context.line + 1})" if error.context and context else ""
    return Found(place, (), f"not valid YAML: {problem}{since}")


def _tab_in_indent(text: str, line: int, column: int) -> bool:
    start = (text.splitlines()[line : line + 1] or [""])[0][: column + 1]
    return "\t" in start and not start.strip(" \t-?:")
