"""The table of the cadence grammar, targets, names, and periods that lean on each other."""

import itertools
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.config import cadence
from vmsh_scheduler.domain.retry import ErrorClass, PhiBackoff
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


UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY}
LONGEST = 3_653 * DAY
WORDS = st.builds("{}{}".format, st.integers(0, 10**6), st.sampled_from([*UNITS, *map(str.upper, UNITS)]))
NEAR_WORDS = st.text("0123456789smhdSMHDfast*.-+ \u0665", max_size=7)


def spelled(ms: int) -> str:
    """In the largest unit that leaves nothing over."""
    unit = max((name for name in UNITS if ms % UNITS[name] == 0), key=lambda name: UNITS[name])
    return f"{ms // UNITS[unit]}{unit}"


def naive(text: str) -> int:
    """ms, by slicing; ValueError or KeyError for what is none."""
    unit = "ms" if text[-2:].lower() == "ms" else text[-1:].lower()
    number = text.removesuffix(text[-len(unit) :]) if unit else text
    if not (number.isascii() and number.isdigit() and 0 < int(number) * UNITS[unit] <= LONGEST):
        raise ValueError(text)
    return int(number) * UNITS[unit]


def upstream(text: str) -> int:
    """Seconds as the original computes them (its regex ignores case, what follows does not): capitals are days."""
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3_600}.get(text[-1], 86_400)


@given(st.integers(1, LONGEST))
def test_every_length_of_time_can_be_written_and_is_read_back(ms: int) -> None:
    text = spelled(ms)
    assert grammar.duration(text) == grammar.duration(text.upper()) == grammar.duration(f"00{text}") == ms


@given(WORDS | NEAR_WORDS)
def test_lengths_of_time_are_what_slicing_gives_or_refused(text: str) -> None:
    try:
        expected = naive(text)
    except (ValueError, KeyError):
        expected = 0
    try:
        found = grammar.duration(text)
    except GrammarError:
        found = 0
    assert found == expected
    assert 0 <= found <= LONGEST


@given(st.integers(1, 10**9), st.integers(1, 10**9), st.sampled_from([*UNITS]))
def test_more_is_never_shorter(one: int, other: int, unit: str) -> None:
    assume(one < other and other * UNITS[unit] <= LONGEST)
    assert grammar.duration(f"{one}{unit}") < grammar.duration(f"{other}{unit}")


@given(st.integers(1, 5_000), st.integers(1, 60), st.integers(1, 60))
def test_multiples_of_multiples_are_multiples(fast: int, by: int, again: int) -> None:
    """N*(M*fast) = (N*M)*fast, and N*fast + M*fast = (N+M)*fast."""
    levels = of(
        fast=f"{fast}s",
        strong=f"{by}*fast",
        cold=f"{again}*strong",
        at_once=f"{by * again}*fast",
        more=f"{again}*fast",
        both=f"{by + again}*fast",
    )
    found, wrong = periods(levels)
    assume(not wrong)
    assert found["cold"] == found["at_once"] == fast * by * again * 1_000
    assert found["both"] == found["strong"] + found["more"]


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_multiple_is_refused_exactly_when_it_is_longer_than_ten_years(fast: int, by: int) -> None:
    assume(fast * 1_000 <= LONGEST)
    found, wrong = periods(of(fast=f"{fast}s", strong=f"{by}*fast"))
    fits = fast * by * 1_000 <= LONGEST
    assert (found.get("strong"), list(wrong)) == ((fast * by * 1_000, []) if fits else (None, ["strong"]))


TABLE = {"89s": 89, "5m": 300, "1h": 3_600, "1d": 86_400, "12h": 43_200, "5M": 300, "1S": 1, "2H": 7_200}
"""Of the original's documentation; its capitals are its own defect."""


@pytest.mark.parametrize("text", TABLE)
def test_periods_are_those_of_the_original(text: str) -> None:
    assert periods({"fast": grammar.every(text)})[0]["fast"] == TABLE[text] * 1_000


def test_the_table_tells_the_originals_capitals_apart() -> None:
    wrong = {text: upstream(text) for text in TABLE if upstream(text) != TABLE[text]}
    assert wrong == {"5M": 432_000, "1S": 86_400, "2H": 172_800}


PHI = Fraction(1.618033988749895)
LADDER = {"network": (8, 13, 21, 34, 55, 90, 145), "auth": (16, 26, 42, 69, 111, 179, 290)}
LADDER |= {"unknown": LADDER["network"], "validation": (4, 7, 11, 17, 28, 45, 73)}
FACTORS = {"network": 1, "auth": 2, "validation": Fraction(1, 2), "unknown": 1}


def backoff(*lines: str) -> PhiBackoff:
    """As a file gives it."""
    found = cadence(*lines).policy.retry
    assert isinstance(found, PhiBackoff)
    return found


@pytest.mark.parametrize("name", LADDER)
def test_backoff_of_a_file_is_the_originals_to_the_second(name: str) -> None:
    rungs = [backoff().delay(level, level, ErrorClass(name)) for level in range(1, 9)]
    assert rungs == [seconds * 1_000 for seconds in (*LADDER[name], LADDER[name][-1])]


def test_a_ladder_that_rounds_down_is_another_one() -> None:
    rounded_down = [int(5 * PHI**level * factor) for level in range(1, 8) for factor in FACTORS.values()]
    assert rounded_down != [rung[level] for level in range(7) for rung in LADDER.values()]


@given(st.integers(2, 600), st.integers(0, 30), st.integers(1, 60), st.sampled_from([*FACTORS]))
def test_backoff_words_rise_to_their_cap_and_round_half_up(base: int, cap: int, level: int, name: str) -> None:
    found = PhiBackoff(base, cap)
    exact = base * PHI ** min(level, cap) * FACTORS[name]
    assume(abs(exact - int(exact) - Fraction(1, 2)) > Fraction(1, 10**6))
    waited = found.delay(level, level, ErrorClass(name))
    assert waited == int(exact + Fraction(1, 2)) * 1_000
    assert waited <= (found.delay(level + 1, level + 1, ErrorClass(name)) or 0) <= found.longest()


def test_backoff_words_are_read_as_they_are_written() -> None:
    found = backoff("retry: {base: 250ms, max: 3, jitter: 0.5, multipliers: {auth: 3}}")
    assert (found.base_s, found.cap, found.jitter, found.multipliers[ErrorClass.AUTH]) == (0.25, 3, 0.5, 3.0)
    assert backoff("retry: {base: 1H}").base_s == 3_600


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
