"""Whatever stands in Redis: each reader gives a value that can be worked with, or the one failure that is named."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.contract.world import NOW, busy_state, execution
from tests.support.near_json import harmed, texts
from vmsh_scheduler.domain import agents
from vmsh_scheduler.domain.codec import run_to_json
from vmsh_scheduler.domain.run import Outcome, Run
from vmsh_scheduler.domain.shape import fits
from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.engine.errand import errand_of
from vmsh_scheduler.errors import StoreRefuses
from vmsh_scheduler.ports import Claim, Task
from vmsh_scheduler.sources.agents import registered_job
from vmsh_scheduler.stores.local.text import state_text
from vmsh_scheduler.stores.redis.instances import Instance, living
from vmsh_scheduler.stores.redis.specs import check_agent, parse_spec
from vmsh_scheduler.stores.redis.states import parse_head, parse_state
from vmsh_scheduler.stores.redis.values import Unreadable, number

RUN = run_to_json(execution("a/b", 1).run)
AGENT = agents.registered({"agentId": "x", "walletAddress": "kaspa:q"}, "u", NOW)
SPEC = {"document": AGENT.document(), "version": 1, "created_at": NOW, "updated_at": NOW, "by": "u"}
INSTANCE = {"id": "a", "host": "h", "config": "c", "permits": {"": 1}, "running": 0, "fence": 1, "started_at": NOW}
STATE = json.loads(state_text(busy_state()))


@given(texts(STATE))
def test_a_state_is_one_or_is_unreadable(text: str) -> None:
    try:
        state = parse_state(text)
    except Unreadable:
        return
    assert fits(JobState)(state)
    assert parse_state(state_text(state)) == state


def test_a_state_of_ours_is_read_as_it_was_written() -> None:
    assert parse_state(state_text(busy_state())) == busy_state()
    assert parse_state(state_text(JobState())) == JobState()


@given(texts(SPEC))
def test_a_document_is_an_agents_or_is_unreadable(text: str) -> None:
    try:
        spec = parse_spec("agent", AGENT.job_id, text, check_agent)
    except Unreadable:
        return
    assert fits(Spec)(spec)
    assert agents.SHORTEST <= agents.stored(spec.document).interval <= agents.LONGEST


def test_a_document_of_ours_is_read_as_it_was_written() -> None:
    spec = parse_spec("agent", AGENT.job_id, json.dumps(SPEC), check_agent)
    assert agents.stored(spec.document) == AGENT


@given(st.lists(texts(INSTANCE), max_size=3), st.sampled_from(["", "99 ", "1 ", "x ", "9" * 5000 + " "]))
def test_an_instance_is_one_or_is_named(words: list[str], until: str) -> None:
    rows, wrong = living({str(n): until + text for n, text in enumerate(words)}, 50)
    for row in rows:
        assert fits(Instance)(Instance(**row))  # type: ignore[arg-type]  # a row is its fields
        assert all(free >= 0 for free in row["permits"].values())  # type: ignore[attr-defined]  # by pool
    assert {str(row["id"]) for row in rows}.isdisjoint(wrong)
    assert until != "99 " or len(rows) + len(wrong) == len(words)


def test_an_instance_of_ours_is_there_until_its_time_is_over() -> None:
    rows, wrong = living({"a": f"99 {json.dumps(INSTANCE)}", "b": f"40 {json.dumps(INSTANCE)}"}, 50)
    assert ([row["id"] for row in rows], wrong) == (["a"], [])


@given(st.text(max_size=30) | st.from_regex(r"\d+ \w+( gone)?", fullmatch=True))
def test_a_head_is_one_or_is_unreadable(text: str) -> None:
    try:
        assert parse_head(text).seq == int(text.partition(" ")[0])
    except Unreadable:
        return


@given(st.none() | st.text(max_size=20) | st.integers().map(str))
def test_a_counter_is_a_count_or_refused_with_its_way_out(text: str | None) -> None:
    try:
        found = number(text, "key", "the way out")
    except StoreRefuses as error:
        hint = error.hint
    else:
        assert text is None or (found >= 0 and str(found) == text)
        return
    assert hint == "the way out"


@given(harmed({"job": "_agents/u/x", "run": RUN, "foreign": {"enqueuedAt": 1, "leaderFenceToken": 1}}))
def test_an_errand_is_one_or_an_outcome(body: Any) -> None:
    job = registered_job(AGENT, 1_000)
    body = {**body, "revision": job.revision} if isinstance(body, dict) else {"foreign": body}
    errand = errand_of(Claim(Task("t", "agents", "u:x", body), NOW, 1, "token"), job, NOW)
    assert isinstance(errand, Outcome) or fits(Run)(errand.run)


def test_an_errand_of_ours_is_carried_out() -> None:
    job, run = registered_job(AGENT, 1_000), execution("a/b", 1).run
    body = {"revision": job.revision, "run": run_to_json(run)}
    errand = errand_of(Claim(Task("t", "agents", "u:x", body), NOW, 0, "token"), job, NOW)
    assert not isinstance(errand, Outcome)
    assert errand.run.id == run.id
