"""The table of the cadence grammar, targets, names, and periods that lean on each other."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsh_scheduler.sources import grammar
from vmsh_scheduler.sources.grammar import Every, GrammarError, periods

DAY = 86_400_000


def of(**levels: str) -> dict[str, Every]:
    return {name: grammar.every(text) for name, text in levels.items()}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("89s", 89),
        ("5m", 300),
        ("1h", 3_600),
        ("1d", 86_400),
        ("12h", 43_200),
        ("5M", 300),
        ("1S", 1),
        ("2H", 7_200),
        ("1D", 86_400),
        ("007s", 7),
        ("3653d", 3_653 * 86_400),
    ],
)
def test_a_period_is_a_whole_number_and_a_unit_in_either_case(text: str, seconds: int) -> None:
    assert periods({"fast": grammar.every(text)}) == ({"fast": seconds * 1000}, {})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "fast",
        "1w",
        "1.5h",
        " 5m",
        "5 m",
        "5m ",
        "5",
        "s",
        "-5s",
        "+5s",
        "5m30s",
        "٥s",
        "5ms",
        "34 * fast",
        "34*",
        "*fast",
        "34*Fast",
        "3*34*fast",
        "1e3s",
        "0x5s",
        "5m\n",
        "34*fast\n",
    ],
)
def test_anything_else_is_no_period(text: str) -> None:
    with pytest.raises(GrammarError, match="not a period"):
        grammar.every(text)


@pytest.mark.parametrize("value", [89, 1.5])
def test_a_bare_number_is_told_that_it_lacks_a_unit(value: object) -> None:
    with pytest.raises(GrammarError, match=r"no unit.*89s"):
        grammar.every(value)


@pytest.mark.parametrize("value", [None, True, ["89s"], {}])
def test_other_types_are_no_period(value: object) -> None:
    with pytest.raises(GrammarError):
        grammar.every(value)


@pytest.mark.parametrize("text", ["0s", "0d", "0*fast", "00*fast"])
def test_zero_is_refused(text: str) -> None:
    with pytest.raises(GrammarError, match="more than 0"):
        grammar.every(text)


def test_more_than_ten_years_is_refused_also_when_multiplied() -> None:
    with pytest.raises(GrammarError, match="10 years"):
        grammar.every("3654d")
    _, wrong = periods(of(fast="1d", cold="3654*fast"))
    assert list(wrong) == ["cold"]
    assert "10 years" in wrong["cold"]


@pytest.mark.parametrize(("fast", "factor", "seconds"), [("89s", 34, 3026), ("90s", 34, 3060), ("120s", 17, 2040)])
def test_multiples_of_fast(fast: str, factor: int, seconds: int) -> None:
    found, _ = periods(of(fast=fast, strong=f"{factor}*fast"))
    assert found["strong"] == seconds * 1000


def test_multiples_of_any_level_resolve_in_every_order_of_the_file() -> None:
    levels = of(fast="10s", strong="6*fast", cold="7*strong", weekly="2*cold")
    wanted = {"fast": 10_000, "strong": 60_000, "cold": 420_000, "weekly": 840_000}
    for order in itertools.permutations(levels):
        assert periods({name: levels[name] for name in order}) == (wanted, {})


def test_a_level_that_is_a_multiple_of_itself_is_refused() -> None:
    found, wrong = periods(of(fast="34*fast", strong="2*fast"))
    assert found == {}
    assert list(wrong) == ["fast"]
    assert "itself" in wrong["fast"]


def test_a_circle_is_named_at_each_of_its_levels_and_nowhere_else() -> None:
    found, wrong = periods(of(fast="89s", a="2*b", b="2*c", c="2*a", leans="2*a"))
    assert found == {"fast": 89_000}
    assert set(wrong) == {"a", "b", "c"}
    assert "a -> b -> c -> a" in wrong["a"]


def test_an_unknown_level_is_refused_with_the_nearest_known_one() -> None:
    _, wrong = periods(of(fast="89s", strong="34*fats"))
    assert wrong == {"strong": "there is no level `fats` here (did you mean fast?)"}


def test_a_level_that_cannot_be_read_is_not_blamed_a_second_time() -> None:
    assert periods(of(strong="34*fast"), {"fast", "strong"}) == ({}, {})


def test_a_chain_of_ten_thousand_levels_needs_no_stack() -> None:
    chain = {f"l{n}": Every(1, of=f"l{n + 1}") for n in range(10_000)} | {"l10000": Every(1, unit=1_000)}
    found, wrong = periods(chain)
    assert (len(found), wrong) == (10_001, {})


@given(st.dictionaries(st.sampled_from("abcdef"), st.sampled_from(["1s", *(f"2*{c}" for c in "abcdefg")])))
def test_every_level_has_a_period_or_a_reason_in_its_chain(levels: dict[str, str]) -> None:
    cadence = of(**levels)
    found, wrong = periods(cadence)
    assert not found.keys() & wrong.keys()
    for name in cadence.keys() - found.keys():
        seen = set()
        while name not in wrong:
            assert name not in seen
            seen.add(name)
            name = cadence[name].of
    for name, period in found.items():
        parent = cadence[name].of
        assert period == (cadence[name].number * found[parent] if parent else 1_000)


@pytest.mark.parametrize(("text", "ms"), [("250ms", 250), ("250MS", 250), ("3s", 3_000), ("1d", DAY)])
def test_lengths_of_time_of_our_own_fields_may_be_in_milliseconds(text: str, ms: int) -> None:
    assert grammar.duration(text) == ms


@pytest.mark.parametrize("text", ["", "1", "1.5s", "s", "ms", "1 s", "1y", "1000000000000000000s"])
def test_other_lengths_of_time_are_refused(text: str) -> None:
    with pytest.raises(GrammarError):
        grammar.duration(text)


@pytest.mark.parametrize(
    "text",
    [
        "eip155:1",
        "eip155:8453",
        "btc:mainnet",
        "btc:testnet",
        "btc:testnet4",
        "btc:signet",
        "btc:regtest",
        "rfc3161:tsa",
        "rfc3161:Free_TSA-1.x",
        "local:demo",
        "local:a",
    ],
)
def test_targets(text: str) -> None:
    found = grammar.target(text)
    assert f"{found.scheme}:{found.entry}" == text


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("eip155:", "chain id"),
        ("eip155:0", "chain id"),
        ("eip155:01", "chain id"),
        ("eip155:base", "chain id"),
        ("eip155:1\n", "chain id"),
        ("eip155:٥", "chain id"),
        ("eip155", "chain id"),
        ("btc:", "mainnet"),
        ("btc:mainet", "did you mean mainnet"),
        ("rfc3161:", "TSA"),
        ("rfc3161:a b", "TSA"),
        ("local:", "ledger"),
        ("local:../x", "ledger"),
        ("local:a..b", "ledger"),
        ("local:.hidden", "ledger"),
        ("local:" + "a" * 65, "ledger"),
        ("eip15:1", "did you mean eip155"),
        ("EIP155:1", "must begin with"),
        ("file:///etc", "must begin with"),
        ("", "must begin with"),
        (8453, "must begin with"),
    ],
)
def test_other_targets_are_refused_by_their_scheme(text: object, hint: str) -> None:
    with pytest.raises(GrammarError, match=hint):
        grammar.target(text)


@pytest.mark.parametrize("name", ["dao:vaultmesh:", "fin:clearing", "x", "a/b", "Ünïcode", "with space"])
def test_a_namespace_keeps_its_name(name: str) -> None:
    assert grammar.namespace(name) == name


@pytest.mark.parametrize("name", ["", "_jobs", "_", " x", "x ", "a\nb", "a\x1b[31m", "n" * 201, "\u202eabc"])
def test_other_names_of_namespaces_are_refused(name: str) -> None:
    with pytest.raises(GrammarError):
        grammar.namespace(name)


@pytest.mark.parametrize("name", ["Fast", "1st", "", "a/b", "a b", "-a", "l" * 65, "ä"])
def test_other_names_of_levels_are_refused(name: str) -> None:
    with pytest.raises(GrammarError, match="level's name"):
        grammar.level(name)


def test_refusals_never_repeat_the_value() -> None:
    for check in (grammar.every, grammar.duration, grammar.target, grammar.namespace, grammar.level):
        with pytest.raises(GrammarError) as refused:
            check("_ hunter2 \n")
        assert "hunter2" not in str(refused.value)
