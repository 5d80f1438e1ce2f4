"""Reading YAML: what is ambiguous, broken or hostile is refused with its place, and nothing else comes out."""

import hashlib
import re
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.near_yaml import BYTES, check_bytes
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.yaml_file import parse


def read(text: str | bytes) -> Any:
    return parse(text.encode() if isinstance(text, str) else text, "f.yaml").data


def problems(text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        read(text)
    assert refused.value.exit == 78
    return refused.value.problems


@pytest.fixture(params=["libyaml", "python"])
def either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML can be built without libyaml."""
    if request.param == "python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)


@pytest.mark.usefixtures("either_parser")
def test_plain_data_with_places() -> None:
    raw = b"name: caf\xc3\xa9\nlist:\n  - 1\n  - {a: -2.5, b: ~, c: true}\n? k\n: \nempty: {}\n"
    found = parse(raw, "f.yaml")
    assert found.data == {
        "name": "caf\u00e9",
        "list": [1, {"a": -2.5, "b": None, "c": True}],
        "k": None,
        "empty": {},
    }
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    assert found.marks.key(("list",)) == (2, 1)
    assert found.marks.value(("list",)) == (3, 3)
    assert found.marks.value(("list", 1, "a")) == (4, 9)
    assert found.marks.key(("list", 1, "b")) == (4, 15)


def test_a_place_that_does_not_exist_is_its_deepest_parent() -> None:
    found = parse(b"a:\n  b: 1\n", "f.yaml")
    for path in [("a", "x"), ("a", 0), ("a", "x", "y")]:
        assert found.marks.value(path) == (2, 3)
    assert found.marks.value(("a", "b", "c")) == (2, 6)
    assert found.problem(("a", "b"), "wrong", at_key=True) == "f.yaml:2:3: a.b: wrong"


@pytest.mark.usefixtures("either_parser")
def test_aliases_of_whole_values() -> None:
    assert read("a: &x [1, {b: 2}]\nc: *x\nd: &y text\ne: *y\n") == {
        "a": [1, {"b": 2}],
        "c": [1, {"b": 2}],
        "d": "text",
        "e": "text",
    }


def test_quoted_text_is_text() -> None:
    assert read("a: '1:30'\nb: \"yes\"\nc: !!str 010\nd: ! 1\ne: |\n  no\n") == {
        "a": "1:30",
        "b": "yes",
        "c": "010",
        "d": "1",
        "e": "no\n",
    }


@pytest.mark.parametrize(
    ("text", "value"), [("!!int 7", 7), ("!!float 7", 7.0), ("!!bool true", True), ("!!null ~", None)]
)
def test_a_tag_may_say_what_is_so(text: str, value: object) -> None:
    found = read(f"a: {text}\nm: !!map {{}}\ns: !!seq []\n")
    assert found == {"a": value, "m": {}, "s": []}
    assert type(found["a"]) is type(value)


@pytest.mark.parametrize(
    "text",
    ["!!int text", "!!int true", "!!int 1.5", "!!bool 1", "!!null x", "!!binary aGk=", "!!timestamp 2026-01-01",
     "!!python/object/apply:os.system [id]", "!secret x", "!!set {a}", "!!seq {a: 1}"],
)  # fmt: skip
def test_any_other_tag_is_refused_and_not_repeated(text: str) -> None:
    (problem,) = problems(f"a: {text}\n")
    assert problem.startswith("f.yaml:1:4: a")
    assert "tag" in problem
    assert "secret" not in problem


C5 = {
    "a: 1\nb: 2\na: 3\n": "f.yaml:3:1: a: duplicate key on lines 1 and 3",
    "n:\n  x: {}\n  y: {}\n  x: {}\n": "f.yaml:4:3: n.x: duplicate key on lines 2 and 4",
    "{a: 1, 'a': 2}": "f.yaml:1:8: a: duplicate key on lines 1 and 1",
    "l:\n  - a: 1\n    a: 1\n": "f.yaml:3:5: l[0].a: duplicate key on lines 2 and 3",
    "b: &b {x: 1}\nc: {<<: *b, x: 2}\n": "f.yaml:2:5: c: merge keys (<<) are not supported; "
    "write the keys out or alias a whole value",
}


@pytest.mark.parametrize("text", C5)
def test_c5_duplicate_keys_are_refused_with_both_lines(text: str) -> None:
    assert problems(text) == (C5[text],)


def test_c5_the_library_alone_takes_the_last_one_and_says_nothing() -> None:
    assert [yaml.safe_load(text) for text in C5] == [
        {"a": 3, "b": 2},
        {"n": {"x": {}, "y": {}}},
        {"a": 2},
        {"l": [{"a": 1}]},
        {"b": {"x": 1}, "c": {"x": 2}},
    ]


def test_c5_a_quoted_merge_sign_is_a_key_like_any_other() -> None:
    assert read("'<<': 1\n") == {"<<": 1}


C6_TRAPS = ["1:30", "12:30:45", "-1:30", "1:30.5", "yes", "No", "ON", "off", "010", "09", "0o10", "0x1F", "0b11"]
C6_TRAPS += ["1_000", ".inf", "-.INF", ".NaN", "1e3", "1.5e-3", "+5", "1.", ".5", "=", "99:00:00", "2024-13-45"]
C6_TRAPS += ["2026-11-20", "2026-11-20T10:00:00Z", "2026-11-20 10:00:00", "9" * 22, "1." + "0" * 22]
C6_TEXT = ["89s", "34*fast", "eip155:8453", "127.0.0.1", "127.0.0.1:9090", "1.2.3", "y", "n", "Norway", "-x", "0x"]
C6_TEXT += ["1-2", "v1.10", "12h", "nullish", "2026-11", "1e", "1:99:x"]
C6_PLAIN: dict[str, object] = {"0": 0, "-7": -7, "1.10": 1.1, "-0.5": -0.5, "true": True, "FALSE": False}
C6_PLAIN |= {"~": None, "null": None, "": None}


@pytest.mark.parametrize("scalar", C6_TRAPS)
def test_c6_what_yaml_readers_disagree_about_is_refused(scalar: str) -> None:
    (problem,) = problems(f"every: {scalar}\n")
    assert problem.startswith("f.yaml:1:8: every: ")
    assert "quote it" in problem
    assert read(f"every: '{scalar}'\n") == {"every": scalar}


def test_c6_the_library_alone_reads_them_as_something_else() -> None:
    """Ninety seconds, eight, false, a date, an error: all but the few that only others misread."""
    harmless = {scalar for scalar in C6_TRAPS if _library(scalar) == scalar}
    assert harmless == {"09", "0o10", "1e3"}
    assert (_library("1:30"), _library("010"), _library("off"), _library("1_000")) == (90, 8, False, 1_000)
    assert len(C6_TRAPS) - len(harmless) >= 20


def _library(scalar: str) -> object:
    try:
        return yaml.safe_load(f"every: {scalar}\n")["every"]
    except (ValueError, yaml.YAMLError) as error:
        return error


@pytest.mark.parametrize("scalar", C6_TEXT)
def test_c6_what_looks_a_little_like_it_stays_text(scalar: str) -> None:
    assert read(f"every: {scalar}\n") == {"every": scalar}


@pytest.mark.parametrize("scalar", C6_PLAIN)
def test_c6_what_all_agree_about_is_taken(scalar: str) -> None:
    found = read(f"a: {scalar}\n")["a"]
    assert (found, type(found)) == (C6_PLAIN[scalar], type(C6_PLAIN[scalar]))


def test_c6_every_trap_is_listed_at_once_by_line() -> None:
    found = problems("a: 1:30\nno: x\n12: y\nb: [yes, {c: 0x10}]\n")
    assert [problem.partition(": ")[0] for problem in found] == [
        "f.yaml:1:4",
        "f.yaml:2:1",
        "f.yaml:3:1",
        "f.yaml:4:5",
        "f.yaml:4:14",
    ]
    assert all("quote it" in problem for problem in found)


def test_no_more_problems_are_listed_than_help() -> None:
    found = problems("".join(f"k{n}: 0x1\n" for n in range(500)))
    assert 100 <= len(found) <= 101
    assert any("the rest of the file was not read" in problem for problem in found)


@pytest.mark.parametrize(
    "text", ["1: a", "1.5: a", "true: a", "~: a", ": a", "[a]: b", "{a: b}: c", "&k k: v", "a: &x b\n*x : c"]
)
def test_keys_are_text(text: str) -> None:
    assert any("key" in problem for problem in problems(text))


C7 = [
    b"a: 2024-13-45",
    b"a: 99:00:00",
    b"a: " + b"9" * 5_000,
    b"a: 0." + b"9" * 5_000,
    b"a: !!int ''",
    b"a: !!float x",
    b"a: !!timestamp x",
    b"- !!omap [1]",
    b'a: "\\x"',
    b'a: "\\ud800"',
    b"a: *nowhere",
    b"a: &",
    b"%YAML 9.9\n---\na: 1",
    b"a: [",
    b"a: {b",
    b"a: 'open",
    b"a: b: c",
    b"@",
    b"a: !<",
]


def test_c7_the_library_alone_lets_other_errors_out() -> None:
    escaped = set()
    for raw in C7:
        try:
            yaml.load(raw, Loader=yaml.SafeLoader)
        except yaml.YAMLError:
            continue
        except Exception as error:
            escaped.add(type(error))
    assert escaped >= {ValueError, IndexError}


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("raw", C7)
def test_c7_whatever_breaks_the_library_is_a_problem_with_a_place(raw: bytes) -> None:
    for problem in problems(raw):
        assert re.match(r"f\.yaml:[12]:\d+: ", problem)


@pytest.mark.parametrize("error", [ValueError, IndexError, OverflowError, RecursionError, MemoryError, yaml.YAMLError])
def test_c7_whatever_escapes_the_library_is_the_same_error(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error("hunter2")

    monkeypatch.setattr(yaml, "parse", broken)
    (problem,) = problems("a: 1")
    assert problem.startswith("f.yaml:1:1: ")
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("a: \u00e9".encode("latin-1"), "f.yaml:1:4: not UTF-8; save the file as UTF-8 at byte offset 3"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4: not UTF-8; save the file as UTF-8 at byte offset 8"),
        (b"a: x\x00y", "f.yaml:1:5: NUL byte (is this UTF-16? save the file as UTF-8) at byte offset 4"),
        ("a: 1".encode("utf-16"), "f.yaml:1:1: UTF-16 or UTF-32 at byte offset 0; save the file as UTF-8"),
        (
            "a: 1".encode("utf-16-le"),
            "f.yaml:1:2: NUL byte (is this UTF-16? save the file as UTF-8) at byte offset 1",
        ),
        ("a: 1".encode("utf-32"), "f.yaml:1:1: UTF-16 or UTF-32 at byte offset 0; save the file as UTF-8"),
        (b"a:\n\tb: 1\n", "f.yaml:2:1: tab used for indentation; use spaces"),
        (b"\xef\xbb\xbfa: \x07", "f.yaml:1:7: control character U+0007 at byte offset 6"),
    ],
)
def test_c8_encodings(raw: bytes, expected: str) -> None:
    assert problems(raw) == (expected,)


def test_c8_the_library_alone_takes_utf_16() -> None:
    assert yaml.safe_load("a: 1".encode("utf-16")) == {"a": 1}


def test_c8_a_byte_order_mark_is_no_part_of_the_first_key() -> None:
    found = parse(b"\xef\xbb\xbfa: 1\n", "f.yaml")
    assert found.data == {"a": 1}
    assert found.marks.key(("a",)) == (1, 1)


@pytest.mark.parametrize("text", ["- a", "text", "42", "[a]", "", "# only words\n", "---\n...\n", "~"])
def test_the_top_level_is_a_mapping(text: str) -> None:
    (problem,) = problems(text)
    assert problem.startswith("f.yaml:1:")
    assert "mapping" in problem


def test_comments_alone_are_nothing_where_that_is_allowed() -> None:
    assert parse(b"# only words\n", "f.yaml", empty_ok=True).data == {}


def test_one_document_per_file() -> None:
    assert problems("a: 1\n---\nb: 2\n") == ("f.yaml:2:1: more than one document (---); one file holds one",)


def test_depth_counts_what_aliases_add() -> None:
    deep = "a: " + "[" * 31 + "]" * 31
    assert read(deep)
    assert "nested too deep" in problems("a: " + "[" * 32 + "]" * 32)[0]
    chain = "a0: &a0 []\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 40))
    assert "aliases followed" in problems(chain)[0]


def test_a_key_in_a_message_is_printable_and_short() -> None:
    (problem,) = problems('"a\\nb": 0x1\n')
    assert problem.startswith("f.yaml:1:9: a...: ")
    (problem,) = problems('"\u00e9\u202e": 0x1\n')
    assert problem.startswith("f.yaml:1:7: \u00e9...: ")
    (long,) = problems(f"{'k' * 500}: 0x1\n")
    assert len(long) < 250


SECRETS = [
    "token: hunter2: x",
    "token: *hunter2",
    "token: !hunter2 x",
    "token: 'hunter2",
    "token: [hunter2",
    "token: 0xdeadbeef",
    "token: !hunter2!x y",
    "token: |hunter2\n x",
    "token: %hunter2",
    "token: hunter2\n oops: y",
]


@pytest.mark.usefixtures("either_parser")
@pytest.mark.parametrize("text", SECRETS)
def test_c12_no_message_repeats_a_value(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(text)
    said = f"{refused.value} {refused.value.problems}"
    assert "hunter2" not in said
    assert "deadbeef" not in said
    assert refused.value.__cause__ is None


def test_c12_the_library_alone_repeats_it() -> None:
    with pytest.raises(yaml.YAMLError, match="hunter2"):
        yaml.load(SECRETS[1], Loader=yaml.SafeLoader)


@settings(max_examples=300, deadline=None)
@given(BYTES)
def test_c7_fuzz_a_document_or_a_config_error(raw: bytes) -> None:
    check_bytes(raw)


JSON_LIKE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON_LIKE, max_size=4))
def test_what_is_written_quoted_is_read_back(data: dict[str, Any]) -> None:
    written = yaml.safe_dump(data, default_style='"', allow_unicode=False)
    assert parse(written.encode(), "f.yaml").data == data
