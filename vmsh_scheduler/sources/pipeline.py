"""One reading through parse, expand, judge, validate and compile, keeping every problem on the way."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources import agents, namespaces
from vmsh_scheduler.sources.anchors_file import AnchorsDocument, Unreadable, read_anchors
from vmsh_scheduler.sources.check import validate
from vmsh_scheduler.sources.compiled import Compiled, Flaw, JobSet, Readable, Wanted
from vmsh_scheduler.sources.documents import AgentsFile, NamespacesFile
from vmsh_scheduler.sources.expand import expand
from vmsh_scheduler.sources.marks import config_error
from vmsh_scheduler.sources.yaml_file import Document, read

MOST_PROBLEMS = 1_000
"""Of one file; more help nobody."""


class Kind(NamedTuple):
    """What is particular to one of the files."""

    role: str
    model: type[BaseModel]
    judge: Callable[[object], Iterator[Flaw]]
    doubts: Callable[[object], Iterator[Flaw]]
    compile: Callable[[Any, Wanted, Compiled], None]
    empty_ok: bool = False


KINDS = (
    Kind("namespaces", NamespacesFile, namespaces.judge, namespaces.doubts, namespaces.compile_namespaces),
    Kind("agents", AgentsFile, agents.judge, agents.doubts, agents.compile_agents, empty_ok=True),
)


def compile_all(reading: Readable, wanted: Wanted, environ: Mapping[str, str]) -> JobSet:
    """Roles other than the three are not looked at; raises ConfigError with the problems of all."""
    anchors, problems = _anchors(reading, environ)
    compiled = Compiled(rails=anchors)
    warnings: list[str] = []
    for kind in KINDS:
        if kind.role in reading.raw:
            try:
                document = _read(kind, reading, environ)
                _take(kind, document, wanted, compiled)
                warnings += _worded(document, kind.doubts(document.data))
            except ConfigError as error:
                problems += error.problems
    problems += _sorted(anchors.problems) if isinstance(anchors, AnchorsDocument) else ()
    if problems:
        raise config_error(problems)
    return JobSet(compiled.jobs, reading.sha256, tuple(warnings), _counts(compiled))


def _anchors(reading: Readable, environ: Mapping[str, str]) -> tuple[AnchorsDocument | Unreadable | None, list[str]]:
    if "anchors" not in reading.raw:
        return None, []
    try:
        return read_anchors(reading.raw["anchors"], reading.names.get("anchors", "anchors.yaml"), environ), []
    except ConfigError as error:
        return Unreadable(), _sorted(error.problems)


def _read(kind: Kind, reading: Readable, environ: Mapping[str, str]) -> Document:
    """Raises ConfigError; what the model and the rules find in a file with other problems is told along with them."""
    name = reading.names.get(kind.role, f"{kind.role}.yaml")
    document, problems = read(reading.raw[kind.role], name, empty_ok=kind.empty_ok)
    if document is None:
        raise config_error(problems)
    try:
        document = expand(document, environ)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise config_error(_sorted([*problems, *_elsewhere(_found(kind, document), problems)]))
    return document


def _found(kind: Kind, document: Document) -> list[str]:
    problems = _worded(document, kind.judge(document.data))
    try:
        validate(document, kind.model)
    except ConfigError as error:
        problems += error.problems
    return problems


def _elsewhere(problems: Iterable[str], known: Iterable[str]) -> list[str]:
    """Those at places of which nothing was said yet: the same scalar is not blamed twice."""
    places = {_position(problem) for problem in known}
    return [problem for problem in problems if _position(problem) not in places]


def _take(kind: Kind, document: Document, wanted: Wanted, into: Compiled) -> None:
    """Adds the file's jobs, or raises ConfigError with what the model and the cross-field rules found, by line."""
    problems = _worded(document, kind.judge(document.data))
    try:
        model = validate(document, kind.model)
    except ConfigError as error:
        raise config_error(_sorted([*problems, *error.problems])) from None
    if not problems:
        known = len(into.problems)  # those of the file before
        kind.compile(model, wanted, into)
        problems = _worded(document, into.problems[known:])
    if problems:
        raise config_error(_sorted(problems))


def _worded(document: Document, flaws: Iterable[Flaw]) -> list[str]:
    return [document.problem(flaw.place, flaw.message, at_key=flaw.at_key) for flaw in flaws]


def _sorted(problems: Iterable[str]) -> list[str]:
    """By line and column, which stand behind the file's name; each once."""
    ordered = sorted(dict.fromkeys(problems), key=_position)
    rest = len(ordered) - MOST_PROBLEMS
    return [*ordered[:MOST_PROBLEMS], *([f"and {rest} more problems"] if rest > 0 else [])]


def _position(problem: str) -> tuple[int, int]:
    match = re.search(r":(\d+):(\d+): ", problem)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _counts(compiled: Compiled) -> dict[str, int]:
    cadences = [job for job in compiled.jobs.values() if "namespace" in job.labels]
    return {
        "namespaces": len({job.labels["namespace"] for job in cadences}),
        "cadences": len(cadences),
        "agents": sum("agent" in job.labels for job in compiled.jobs.values()),
    }
