"""The text of scheduler.json."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.stores.local.records import Position
from vmsh_scheduler.stores.local.snapshot import Blocks, Meta, parse, place, render

IDS = st.text(min_size=1, max_size=12) | st.sampled_from(
    ["dao:x/fast", "dao:x/cold", "_agents/u/a", "a/b/c", "/x", "x/", "_"]
)
STATES = st.builds(
    lambda **known: JobState(**known),
    level=st.integers(0, 99),
    last_success=st.none() | st.integers(0, 2**50),
    last_error=st.text(max_size=20),
)


def pieces(blocks: Blocks) -> tuple[list[bytes], list[bytes]]:
    blocks.take()
    return blocks.pieces()


@given(st.dictionaries(IDS, STATES, max_size=8), st.integers(0, 2**40), st.text(max_size=9))
def test_what_goes_in_comes_out(states: dict[str, JobState], fence: int, config_hash: str) -> None:
    blocks = Blocks(states)
    meta = Meta(Position(3, 4), fence, config_hash, 5)
    found = parse(b"".join(render(meta, *pieces(blocks))))
    assert found.states == states
    assert found.meta == meta


@pytest.mark.parametrize(
    ("job_id", "where"),
    [
        ("dao:x/fast", ("dao:x", "fast")),
        ("a/b/c", ("a/b", "c")),
        ("_agents/u/a", ("", "_agents/u/a")),
        ("plain", ("", "plain")),
        ("x/", ("", "x/")),
        ("/x", ("", "/x")),
    ],
)
def test_where_a_job_stands(job_id: str, where: tuple[str, str]) -> None:
    assert place(job_id) == where


def test_the_originals_readers_find_what_they_look_for() -> None:
    fast, cold = JobState(last_success=1_700_000_000_999, level=9), JobState(level=3)
    blocks = Blocks({"dao:x/fast": fast, "dao:x/cold": cold})
    data = json.loads(b"".join(render(Meta(), *pieces(blocks))))
    assert data["dao:x"]["last"] == {"fast": 1_700_000_000}
    assert data["dao:x"]["backoff"] == 7
    assert data["dao:x"]["cadences"]["fast"]["level"] == 9


def test_only_what_changed_is_written_anew_and_what_is_gone_is_gone() -> None:
    states = {job_id: JobState(level=1) for job_id in ("a/x", "a/y", "b/x", "_j")}
    blocks = Blocks(states)
    before, _ = pieces(blocks)
    states["b/x"] = JobState(level=2)
    blocks.touch("b/x")
    after, _ = pieces(blocks)
    assert after[0] is before[0]
    assert after[1] != before[1]
    for job_id in ("a/x", "a/y", "_j", "never", "n/ever"):
        states.pop(job_id, None)
        blocks.touch(job_id)
    assert parse(b"".join(render(Meta(), *pieces(blocks)))).states == {"b/x": JobState(level=2)}
