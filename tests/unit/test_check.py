"""A parsed file against a model: every problem at its line, for people, without the value."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import PydanticCustomError

from tests.support.config import problems
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.check import validate
from vmsh_scheduler.sources.expand import expand
from vmsh_scheduler.sources.yaml_file import parse


class Mode(Enum):
    FAST = "fast"
    SLOW = "slow"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Exit(_Strict):
    code: int


class Pattern(_Strict):
    pattern: str


class Level(_Strict):
    every: str = Field(min_length=2, max_length=9)
    confirmations: int = Field(default=0, ge=0, le=100)
    ratio: float = Field(default=1.0, gt=0, lt=10)
    command: tuple[str, ...] = Field(default=("x",), min_length=1, max_length=3)
    catch_up: Literal["once", "skip", "all"] = "once"
    mode: Mode = Mode.FAST
    reanchor: bool = False
    policy: str | None = Field(default=None, alias="policyOID")
    note: str | int = ""
    even: int = Field(default=0, multiple_of=2)
    rules: list[Exit | Pattern] = []


def _not_odd(text: str) -> str:
    if text == "odd":
        raise ValueError("odd it must not be")
    if text == "queer":
        raise PydanticCustomError("queer", "nor queer")
    assert text != "strange", "nor strange"
    return text


class Space(_Strict):
    cadence: dict[Annotated[str, Field(pattern="^[a-z]+$")], Level]
    text: Annotated[str, AfterValidator(_not_odd)] = ""
    when: bytes = b""


class File(_Strict):
    namespaces: Mapping[str, Space]


HEAD = "namespaces:\n  dao:x:\n    cadence:\n      fast:\n        every: 89s\n"


def file(more: str, environ: Mapping[str, str] | None = None) -> File:
    return validate(expand(parse((HEAD + more).encode(), "f.yaml"), environ or {}), File)


def refused(more: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as error:
        file(more, environ)
    assert error.value.__cause__ is None
    return error.value.problems


FAST = "f.yaml:6:{column}: namespaces.dao:x.cadence.fast."
C9 = {
    "cmfirmations: 1": (9, "cmfirmations: unknown key; did you mean `confirmations`?"),
    "policyoid: x": (9, "policyoid: unknown key; did you mean `policyOID`?"),
    "policy: x": (9, "policy: unknown key; did you mean `policyOID`?"),
    "Every: 3s": (9, "Every: unknown key; did you mean `every`?"),
    "zzz: 3s": (
        9,
        "zzz: unknown key; known here: catch_up, command, confirmations, even, every, mode, note, policyOID, ratio, "
        "reanchor, rules",
    ),
    "policyOID: 1.2": (20, "policyOID: must be text, not a fraction; quote it"),
    "policyOID: 12": (20, "policyOID: must be text, not a number; quote it"),
    "policyOID: true": (20, "policyOID: must be text, not true or false; quote it"),
    "policyOID: [a]": (20, "policyOID: must be text, not a list"),
    "policyOID: {a: b}": (20, "policyOID: must be text, not a mapping"),
    "confirmations: '3'": (
        24,
        "confirmations: must be a whole number, not text (unquoted, and nothing but that)",
    ),
    "confirmations: 1.5": (24, "confirmations: must be a whole number, not a fraction"),
    "confirmations: true": (24, "confirmations: must be a whole number, not true or false"),
    "confirmations:": (23, "confirmations: must be a whole number, not empty"),
    "confirmations: -1": (24, "confirmations: must be at least 0"),
    "confirmations: 101": (24, "confirmations: must be at most 100"),
    "ratio: 0": (16, "ratio: must be more than 0.0"),
    "ratio: 10": (16, "ratio: must be less than 10.0"),
    "ratio: much": (16, "ratio: must be a number, not text (unquoted, and nothing but that)"),
    "reanchor: 1": (19, "reanchor: must be true or false, not a number"),
    "reanchor: 'yes'": (19, "reanchor: must be true or false, not text (unquoted, and nothing but that)"),
    "command: ls": (18, "command: must be a list, not text"),
    "command: []": (18, "command: must have at least 1 item(s)"),
    "command: [a, b, c, d]": (18, "command: must have at most 3 items"),
    "command: [5]": (19, "command[0]: must be text, not a number; quote it"),
    "catch_up: onec": (19, "catch_up: must be 'once', 'skip' or 'all'; did you mean 'once'?"),
    "catch_up: 7": (19, "catch_up: must be 'once', 'skip' or 'all'"),
    "mode: SLOW": (15, "mode: must be 'fast' or 'slow'; did you mean 'slow'?"),
    "note: [1]": (15, "note: must be text, not a list or must be a whole number, not a list"),
    "even: 3": (15, "even: must be a multiple of 2"),
    "rules: [7]": (17, "rules[0]: must be a mapping, not a number"),
    "rules: [{coed: 7}]": (17, "rules[0].code: required key is missing"),
}


@pytest.mark.parametrize("line", C9)
def test_c9_unknown_keys_and_wrong_types(line: str) -> None:
    column, message = C9[line]
    found = refused(f"        {line}\n")
    assert FAST.format(column=column) + message in found
    assert len(found) == (1 if "coed" not in line else 3)


def test_c9_there_are_thirty_cases() -> None:
    assert len(C9) >= 30


def lax(model: type[BaseModel]) -> type[BaseModel]:
    """The same fields as a model has them that was not told to be strict."""
    fields: dict[str, Any] = {name: (field.annotation, field) for name, field in model.model_fields.items()}
    return create_model(f"Lax{model.__name__}", **fields)


def test_c9_a_model_that_is_not_told_to_be_strict_takes_many() -> None:
    careless = lax(Level)
    taken = {line for line in C9 if not _refuses(careless, {"every": "89s"} | yaml.safe_load(line))}
    assert taken >= {"cmfirmations: 1", "Every: 3s", "confirmations: '3'", "confirmations: true", "reanchor: 1"}


def _refuses(model: type[BaseModel], data: object) -> bool:
    try:
        model.model_validate(data)
    except ValidationError:
        return True
    return False


@pytest.mark.parametrize(
    "every", ["1:30", "010", "90", "1e3", "off", "1.5", ".inf", "2026-11-20", "0x5A", "1_000", "~"]
)
def test_c6_nothing_but_text_with_a_unit_is_a_period(every: str) -> None:
    """Ninety seconds by accident."""
    found = problems(f"namespaces:\n  x:\n    cadence:\n      fast: {{target: 'local:a', every: {every}}}\n")
    assert [problem.partition(".every: ")[0] for problem in found] == [
        "namespaces.yaml:4:40: namespaces.x.cadence.fast"
    ]


def test_c9_a_slip_in_a_real_file_is_named_with_its_path() -> None:
    assert "namespaces.yaml:3:5: namespaces.dao:x.cadance: unknown key; did you mean `cadence`?" in problems(
        "namespaces:\n  dao:x:\n    cadance: {fast: {target: 'local:a', every: 1m}}\n"
    )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("    text: odd\n", "f.yaml:6:11: namespaces.dao:x.text: odd it must not be"),
        ("    text: queer\n", "f.yaml:6:11: namespaces.dao:x.text: nor queer"),
        ("    text: strange\n", "f.yaml:6:11: namespaces.dao:x.text: is not valid (assertion_error)"),
        ("    when: 5\n", "f.yaml:6:11: namespaces.dao:x.when: is not valid (bytes_type)"),
        ("    cadance: {}\n", "f.yaml:6:5: namespaces.dao:x.cadance: unknown key; did you mean `cadence`?"),
        ("  y: {}\n", "f.yaml:6:3: namespaces.y.cadence: required key is missing"),
        ("  y: {cadence: x}\n", "f.yaml:6:16: namespaces.y.cadence: must be a mapping, not text"),
        ("      Slow: {every: 3s}\n", "f.yaml:6:7: namespaces.dao:x.cadence.Slow: the key has not the required form"
                                      " (pattern ^[a-z]+$)"),
        ("namespace: {}\n", "f.yaml:6:1: namespace: unknown key; did you mean `namespaces`?"),
        ("      cold: {every: s}\n",
         "f.yaml:6:21: namespaces.dao:x.cadence.cold.every: must have at least 2 character(s)"),
        ("      cold: {every: 0123456789s}\n",
         "f.yaml:6:21: namespaces.dao:x.cadence.cold.every: must have at most 9 characters"),
    ],
)  # fmt: skip
def test_c9_elsewhere(more: str, expected: str) -> None:
    assert refused(more) == (expected,)


def test_all_problems_at_once_by_line() -> None:
    found = refused("        ratio: x\n        mode: y\n      cold: {}\nother: 1\n")
    assert [int(problem.split(":")[1]) for problem in found] == [6, 7, 8, 9]


def test_lists_fill_tuples_and_texts_enums() -> None:
    level = file("        command: [a, b]\n        mode: slow\n        ratio: 2\n").namespaces["dao:x"].cadence["fast"]
    assert (level.command, level.mode, level.ratio) == (("a", "b"), Mode.SLOW, 2.0)


def test_the_environment_may_give_numbers_as_text() -> None:
    environ = {"N": "12", "R": "0.5", "T": "true"}
    more = "        confirmations: ${N}\n        ratio: ${R}\n        reanchor: ${T}\n        policyOID: ${N}\n"
    level = file(more, environ).namespaces["dao:x"].cadence["fast"]
    assert (level.confirmations, level.ratio, level.reanchor, level.policy) == (12, 0.5, True, "12")


@pytest.mark.parametrize("value", ["0x10", "10s", "1_0", "", "true", "1.5", "010"])
def test_the_environment_gives_no_numbers_by_guessing(value: str) -> None:
    (problem,) = refused("        confirmations: ${N}\n", {"N": value})
    assert problem.startswith("f.yaml:6:24: namespaces.dao:x.cadence.fast.confirmations: must be a whole number")


def test_part_of_a_text_is_no_number() -> None:
    assert refused("        confirmations: '1${N}'\n", {"N": "2"})


CANARY = "hunter2"


@pytest.mark.parametrize(
    "line",
    [f"{key}: {value}" for key in ("confirmations", "mode", "catch_up", "command", "rules", "zzz", "even", "note")
     for value in (CANARY, f"[{CANARY}, [{CANARY}]]", f"{{x: {CANARY}}}")],
)  # fmt: skip
def test_c12_no_message_repeats_a_value(line: str) -> None:
    if line in {f"note: {CANARY}"}:
        assert file(f"        {line}\n")
        return
    with pytest.raises(ConfigError) as error:
        file(f"        {line}\n")
    assert CANARY not in f"{error.value} {error.value.problems}"


def test_c12_a_model_that_is_not_told_to_hide_it_repeats_it() -> None:
    with pytest.raises(ValidationError, match=CANARY):
        Level.model_validate({"every": "89s", "confirmations": CANARY})


@pytest.mark.parametrize("key", [f"TOKEN={CANARY}", f"TOKEN:{CANARY}", f"TOKEN {CANARY}", f"TOKEN\\n{CANARY}"])
def test_c12_a_value_that_yaml_takes_for_a_key_is_cut_off(key: str) -> None:
    (problem,) = refused(f'        "{key}": x\n')
    assert problem.startswith("f.yaml:6:9: namespaces.dao:x.cadence.fast.TOKEN...: unknown key")
    assert CANARY not in problem


def test_a_file_full_of_problems_is_cut() -> None:
    more = "".join(f"  n{n}: 1\n" for n in range(1_500))
    found = refused(more)
    assert len(found) == 1_001
    assert found[-1] == "and 500 more problems"
