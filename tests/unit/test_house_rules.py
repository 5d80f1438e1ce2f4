"""What CONTRIBUTING.md asks of every module, where no linter does: size, arguments, names, docstrings."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import LONGEST

pytestmark = pytest.mark.no_cover  # it reads the program rather than running it

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for package in ("vmsh_scheduler", "bench") for path in (ROOT / package).rglob("*.py"))
BESIDE = sorted(path for directory in ("tests", "docs/examples") for path in (ROOT / directory).rglob("*.py"))
"""What is not the program; of these rules it keeps the one on exemptions."""

FUNCTION_LINES = 60
FILE_LINES = 400
ARGUMENTS = 5
VAGUE_CLASS = re.compile(r"(Manager|Helper|Util|Utils|Base)(?=[A-Z_]|$)")
VAGUE_MODULE = re.compile(r"(^|_)(manager|helpers?|utils?|base|common|misc)(_|$)")
BARE = re.compile(
    r"#\s*((ruff:\s*)?noqa(:\s*[A-Z0-9, ]+)?|type:\s*ignore(\[[a-z-]+(,\s*[a-z-]+)*\])?)\s*$"
    r"|pytest\.(mark\.)?(skip|xfail|no_cover)(\(\))?$|#\s*pragma: no \w+$"
)
"""An exemption, and nothing beside it."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(tree(path)))


def functions() -> Iterator[tuple[str, Function]]:
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in SOURCES:
        for node in nodes(path):
            if isinstance(node, ast.ClassDef):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


def positional(function: Function) -> list[str]:
    """Without self and cls; keyword-only ones do not count."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def is_command(function: Function) -> bool:
    """A typer command or callback: its parameters are the options of a command line."""
    return any("typer" in ast.unparse(argument.annotation or ast.Constant(None)) for argument in function.args.args)


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def test_the_whole_program_is_looked_at() -> None:
    names = {str(path.relative_to(ROOT)) for path in SOURCES}
    assert {"vmsh_scheduler/daemon.py", "vmsh_scheduler/domain/plan.py", "vmsh_scheduler/cli/__init__.py"} <= names
    assert len(list(functions())) > 500


def test_files_that_are_to_be_tested_first_are_there() -> None:
    assert [path for path in LONGEST if path not in BESIDE] == []


def test_no_file_is_too_long() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_no_function_is_too_long() -> None:
    assert [where for where, function in functions() if length(function) > FUNCTION_LINES] == []


def test_most_functions_fit_a_glance() -> None:
    """Eight lines are the aim: the median holds it even as single functions may not."""
    lengths = sorted(length(function) for _, function in functions())
    assert lengths[len(lengths) // 2] <= 8


def test_no_function_takes_too_many_positional_arguments() -> None:
    wide = [where for where, f in functions() if len(positional(f)) > ARGUMENTS and not is_command(f)]
    assert wide == []


def test_no_name_is_vague() -> None:
    assert [where for where, node in classes() if VAGUE_CLASS.search(node.name)] == []
    assert [path.name for path in SOURCES if VAGUE_MODULE.search(path.stem)] == []


def test_every_module_says_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCES if tree(path).body and not ast.get_docstring(tree(path))]
    assert silent == []


def test_every_public_class_says_what_it_is() -> None:
    public = {id(node) for path in SOURCES for node in tree(path).body}
    silent = [
        where
        for where, node in classes()
        if id(node) in public and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert silent == []


def test_nothing_prints_on_its_own() -> None:
    """stdout belongs to results: a stray print would break every `--json`."""
    prints = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if path.is_relative_to(ROOT / "vmsh_scheduler")
        for node in nodes(path)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert [where.partition(":")[0] for where in prints] == ["vmsh_scheduler/__main__.py"]


def test_every_exemption_has_its_reason() -> None:
    """`noqa` and `type: ignore` name their rule and say why; a test that is skipped or not measured says why."""
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (*SOURCES, *BESIDE)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if BARE.search(line)
    ]
    assert found == []


def test_the_rules_bite() -> None:
    """The checks above would notice."""
    vague, wide = ast.parse("class JobManager: ...\ndef f(a, b, c, d, e, f): ...").body
    assert isinstance(vague, ast.ClassDef)
    assert VAGUE_CLASS.search(vague.name)
    assert isinstance(wide, ast.FunctionDef)
    assert len(positional(wide)) > ARGUMENTS
    assert not VAGUE_CLASS.search("Database")
    assert VAGUE_MODULE.search("http_utils")
    assert {ROOT / "tests/unit/test_house_rules.py", ROOT / "docs/examples/consumer.py"} <= set(BESIDE)


@pytest.mark.parametrize(
    "exemption",
    [
        "# noqa: E501",
        "# noqa",
        "# ruff: noqa: T201",
        "# type: ignore[arg-type, misc]",
        "@pytest.mark.skip",
        "pytest.skip()",
        "@pytest.mark.no_cover",
        "# pragma: no cover",
    ],
)
def test_a_reason_is_missed(exemption: str) -> None:
    assert BARE.search(exemption)
    assert not BARE.search(f"{exemption}  # the server has no event for it")
