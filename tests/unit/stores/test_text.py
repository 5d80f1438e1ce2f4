"""JSON text nothing can break."""

import json
from pathlib import PurePath

import pytest

from vmsh_scheduler.domain.codec import state_from_json
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.text import canonical, change_text, state_text, to_text


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


def test_a_dropped_job_is_said_so() -> None:
    assert json.loads(change_text(Change("a/b", None), None)) == {"job": "a/b", "state": None}
