"""JSON text nothing can break."""

import json
from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.world import busy_state, decision, execution, run
from vmsh_scheduler.domain.codec import decision_from_json, execution_from_json, state_from_json
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.text import canonical, change_payload, facts_of, state_text, to_text


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (float("nan"), None),
        ({"a": [float("inf"), 1.5]}, {"a": [None, 1.5]}),
        ({1: {2}}, {"1": [2]}),
        ((PurePath("x"),), ["x"]),
        ("\ud800\x00é", "\ud800\x00é"),
        ({"deep": deep(5000)}, None),
    ],
)
def test_whatever_it_is_it_becomes_one_ascii_line(value: object, said: object) -> None:
    text = to_text(value)
    assert text.isascii()
    assert "\n" not in text
    if said is not None:
        assert json.loads(text) == said


def test_canonical_is_one_text_per_value() -> None:
    assert canonical({"b": 1, "a": [float("nan")]}) == canonical({"a": [None], "b": 1}) == '{"a":[null],"b":1}'


def test_a_mean_that_is_no_number_is_left_out() -> None:
    assert state_from_json(json.loads(state_text(JobState(level=1, mean_ms=float("nan"))))) == JobState(level=1)


def test_every_kind_of_field_comes_back() -> None:
    state = busy_state()._replace(held=run("a/b", 2), pause=Pause(1), fired=True, last_error="\ud800\n\x7f")
    assert state_from_json(json.loads(state_text(state))) == state
    assert state_text(JobState()) == "{}"


@given(
    st.builds(
        lambda **known: JobState(**known),
        slot=st.none() | st.integers(),
        last_finish=st.none() | st.integers(0, 2**60),
        started=st.integers(0, 2**60),
        mean_ms=st.floats(0, 1e15),
        fired=st.booleans(),
        last_error=st.text(),
    )
)
def test_whatever_the_values_they_come_back(state: JobState) -> None:
    assert state_from_json(json.loads(state_text(state))) == state


def test_what_the_journal_keeps_is_canonical() -> None:
    payload = change_payload(Change("a/b", busy_state(), (decision("a/b", 1),), execution("a/b", 1)))
    assert [canonical(json.loads(fact.body)) for fact in payload.facts] == [fact.body for fact in payload.facts]
    assert list(facts_of(json.loads(payload.text))) == list(payload.facts)
    assert execution_from_json(json.loads(payload.facts[1].body)) == execution("a/b", 1)
    assert decision_from_json(json.loads(payload.facts[0].body)) == decision("a/b", 1)


def test_a_dropped_job_is_said_so() -> None:
    assert json.loads(change_payload(Change("a/b", None)).text) == {"job": "a/b", "state": None}
