"""`${NAME}` in values: filled in after parsing, never read as YAML again."""

import pytest

from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.expand import expand
from vmsh_scheduler.sources.yaml_file import Document, parse

ENVIRON = {"A": "one", "EMPTY": "", "YAML": "x: [1]\nyes", "NUMBER": "12"}


def expanded(text: str) -> Document:
    return expand(parse(text.encode(), "f.yaml"), ENVIRON)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("${A}", "one"),
        ("<${A}-${A}>", "<one-one>"),
        ("${EMPTY}", ""),
        ("${A:-other}", "one"),
        ("${NO:-other}", "other"),
        ("${EMPTY:-other}", "other"),
        ("${NO:-}", ""),
        ("${TSA_POLICY_OID:-''}", ""),
        ("${NO:-'a } b'}", "a } b"),
        ("${NO:-it is}", "it is"),
        ("$$", "$"),
        ("$${A}", "${A}"),
        ("$HOME costs $5", "$HOME costs $5"),
        ("^exit [0-9]+$", "^exit [0-9]+$"),
        ("${YAML}", "x: [1]\nyes"),
        ("${NUMBER}", "12"),
        ("no dollar", "no dollar"),
    ],
)
def test_values(written: str, value: str) -> None:
    assert expanded(f'k: "{written}"').data == {"k": value}


def test_a_default_in_double_quotes_loses_them() -> None:
    assert expanded("""k: ${TSA_POLICY_OID:-""}\nl: '${NO:-"x y"}'\n""").data == {"k": "", "l": "x y"}


def test_keys_and_other_kinds_stay() -> None:
    text = "'${A}': 1\nl: [true, ~, 2.5, '${A}']\nm: &m {x: '${A}'}\nn: *m\n"
    assert expanded(text).data == {"${A}": 1, "l": [True, None, 2.5, "one"], "m": {"x": "one"}, "n": {"x": "one"}}


def test_values_that_are_one_reference_are_marked() -> None:
    found = expanded("a: ${NUMBER}\nb: x${NUMBER}\nc: [$$, '${NO:-5}']\nd: plain\n")
    assert found.expanded == {("a",), ("c", 1)}


def test_nothing_to_expand_is_the_same_document() -> None:
    document = parse(b"a: &x [1]\nb: [*x, *x]\n", "f.yaml")
    assert expand(document, ENVIRON) is document


def test_all_problems_at_once_with_their_places() -> None:
    with pytest.raises(ConfigError) as refused:
        expanded("a: ${NO}\nb:\n  - ${A:?x}\n  - ${1}\n  - '${A'\n  - ${NO:-${A}}\n")
    malformed = "malformed reference; write ${NAME}, ${NAME:-default}, or $$ for a dollar sign"
    assert refused.value.problems == (
        "f.yaml:1:4: a: environment variable NO is not set; set it, or write ${NO:-default}",
        f"f.yaml:3:5: b[0]: {malformed}",
        f"f.yaml:4:5: b[1]: {malformed}",
        f"f.yaml:5:5: b[2]: {malformed}",
        f"f.yaml:6:5: b[3]: {malformed}",
    )


def test_what_is_filled_in_is_bounded() -> None:
    document = parse(b"a: ${A}\nb: ${A}\nc: ${A}\n", "f.yaml")
    with pytest.raises(ConfigError) as refused:
        expand(document, {"A": "x" * 6_000_000})
    assert refused.value.problems == ("f.yaml:2:4: b: expanded values are too long: over 10,000,000 characters in all",)


def test_a_variable_that_is_no_text_is_refused() -> None:
    document = parse(b"a: ${A}\n", "f.yaml")
    with pytest.raises(ConfigError, match="environment variable A is not UTF-8"):
        expand(document, {"A": "\udcff"})
