"""Each check of the chaos test finds what it is there for, in a record that was doctored in that one way."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.support.judging import Call
from tests.support.ledger import Entry
from tests.support.shared_books import (
    AGENTS,
    Decided,
    Ended,
    Story,
    acknowledged_twice,
    against_consumer,
    against_ledger,
    misbooked,
    undecided,
    unexplained,
)
from vmsh_scheduler.domain.decision import Verdict
from vmsh_scheduler.domain.run import Status

JOB, AGENT = "job/fast", f"{AGENTS}user/one"
SECOND, LATER = 1_000, 10_000
Stories = dict[str, Story]


def ended(run: str, slot: int, status: Status = Status.OK, *, fence: int = 5, at: int = 0) -> Ended:
    return Ended(run, slot, status, "", fence, at or slot + 10)


def fired(slot: int, run: str) -> Decided:
    return Decided(slot, Verdict.FIRED, "due", run)


def record() -> Stories:
    """A cadence with an attempt that was lost and a slot that was skipped, and an agent: nothing is wrong with it."""
    job = Story(
        [fired(1000, "1"), Decided(2000, Verdict.SKIPPED, "overlap", ""), fired(3000, "3")],
        [ended("1", 1000, Status.UNKNOWN), ended("2", 1000), ended("3", 3000)],
    )
    agent = Story([fired(1000, "4"), fired(2010, "5")], [ended("4", 1000), ended("5", 2010, fence=6)])
    return {JOB: job, AGENT: agent}


def ledger() -> list[Entry]:
    runs = [("1", 1000, 1), ("2", 1000, 2), ("3", 3000, 1)]
    starts = [Entry("start", run, f"{JOB}/{slot}", attempt, 5, 9) for run, slot, attempt in runs]
    return [*starts, *(replace(start, kind="end") for start in starts[1:])]


def calls() -> list[Call]:
    first, again = Call(AGENT, 1000, 5, 200, True), Call(AGENT, 1000, 5, 200, False)
    return [first, again, Call(AGENT, 2010, 6, 200, True), Call(AGENT, 2010, 5, 409, False)]


def test_a_good_record_has_no_findings() -> None:
    assert unexplained(record(), LATER) == []
    assert acknowledged_twice(record()) == []
    assert misbooked(record()) == []
    assert undecided(record(), SECOND) == []
    assert against_ledger(record(), ledger()) == []
    assert against_consumer(record(), calls()) == []


def test_a_fired_slot_that_never_succeeded_is_unexplained() -> None:
    stories = record()
    del stories[JOB].ended[1]
    (finding,) = unexplained(stories, LATER)
    assert finding.startswith("job/fast/1000 was fired and never succeeded")
    assert unexplained(stories, 999) == []  # what came due after the calm may still be under way


def test_two_successes_of_one_slot() -> None:
    stories = record()
    stories[JOB].ended.append(ended("7", 3000))
    (finding,) = acknowledged_twice(stories)
    assert finding.startswith("job/fast/3000 succeeded 2 times")


def decide_nothing(story: Story) -> None:
    del story.decided[0]


def end_again(story: Story) -> None:
    story.ended.append(ended("3", 3000, Status.UNKNOWN))


def begin_never(story: Story) -> None:
    story.never.add("3")


def decide_again(story: Story) -> None:
    story.decided.append(Decided(2000, Verdict.MISSED, "coalesced", ""))


@pytest.mark.parametrize(
    ("doctor", "said"),
    [
        (decide_nothing, "no decision fired"),
        (end_again, "run 3 ended 2 times"),
        (begin_never, "run 3 never began, and ended"),
        (decide_again, "job/fast/2000 has 2 decisions"),
    ],
)
def test_rows_that_contradict_each_other(doctor: Callable[[Story], None], said: str) -> None:
    stories = record()
    doctor(stories[JOB])
    assert any(said in finding for finding in misbooked(stories))


def test_a_slot_without_a_row() -> None:
    stories = record()
    del stories[JOB].decided[1]
    assert undecided(stories, SECOND) == ["job/fast/2000 has no decision"]


def test_a_cycle_of_an_agent_that_was_left_out() -> None:
    stories = record()
    stories[AGENT].decided[1] = fired(3010, "5")
    (finding,) = undecided(stories, SECOND)
    assert "3010 follows 1000, which ended at 1010" in finding


def test_a_cycle_of_an_agent_that_was_passed_over_while_its_end_was_not_written() -> None:
    stories = record()
    stories[AGENT].decided.insert(1, Decided(2000, Verdict.SKIPPED, "overlap", "", 2020))
    stories[AGENT].decided[2] = fired(3020, "5")
    assert undecided(stories, SECOND) == []
    stories[AGENT].decided[2] = fired(3010, "5")
    (finding,) = undecided(stories, SECOND)
    assert "3010 follows 1000, which ended at 1010" in finding


def test_a_start_without_a_row() -> None:
    stories = record()
    del stories[JOB].ended[0]
    (finding,) = against_ledger(stories, ledger())
    assert finding.startswith("no execution of")


def test_a_start_of_a_run_that_is_said_to_have_never_begun() -> None:
    stories = record()
    del stories[JOB].ended[0]
    stories[JOB].never.add("1")
    assert any(finding.startswith("said to have never begun") for finding in against_ledger(stories, ledger()))


def test_a_success_that_the_command_did_not_have() -> None:
    (finding,) = against_ledger(record(), ledger()[:-1])
    assert "a success that the command did not have" in finding


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (Call(AGENT, 2010, 6, 200, True), "was accepted 2 times"),
        (Call(AGENT, 2010, 5, 200, True), "accepted after fence 6"),
        (Call(AGENT, 5000, 6, 200, True), "nobody decided"),
    ],
)
def test_a_call_that_must_not_have_been_accepted(more: Call, said: str) -> None:
    assert any(said in finding for finding in against_consumer(record(), [*calls(), more]))


def test_a_success_that_the_consumer_never_accepted() -> None:
    assert against_consumer(record(), calls()[:2]) == [f"{AGENT}/2010 succeeded and was never accepted"]
