"""A job that the API replaced from zero while it ran: what the old run's end does to the new one."""

from dataclasses import replace

import pytest

from tests.support.builders import NOON
from vmsh_scheduler.domain import agents, plan
from vmsh_scheduler.domain.job import Job, Origin
from vmsh_scheduler.domain.run import Cause, Outcome, Run, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import HOUR, MINUTE, SECOND
from vmsh_scheduler.sources.agents import registered_job

AGENT = agents.registered({"id": "a", "walletAddress": "kaspa:q", "cycleIntervalMs": HOUR}, "u", NOON)
JOB = registered_job(AGENT, MINUTE)
OLD = Run("old", JOB.id, NOON, Cause.SCHEDULE, 1, 1, NOON, NOON + MINUTE)


def anew(runs: tuple[Run, ...] = (OLD,)) -> JobState:
    return agents.first_state(AGENT, JOB.revision, JobState(runs=runs), NOON + SECOND)


@pytest.mark.parametrize("status", [Status.OK, Status.FAILED, Status.UNKNOWN])
def test_d18_it_counts_for_nothing_and_the_new_one_is_due_as_planned(status: Status) -> None:
    before = anew()
    after = plan.settle(JOB, before, OLD, Outcome(status, message="old"), NOON + SECOND)
    assert after == before._replace(runs=(), newest_slot=OLD.slot)


def test_d18_a_new_one_that_came_due_meanwhile_is_due_a_second_later() -> None:
    state = plan.decide(JOB, anew(), NOON + 10 * SECOND).state
    assert state.upcoming is not None
    assert state.upcoming.due > NOON + MINUTE
    after = plan.settle(JOB, state, OLD, Outcome(Status.OK), NOON + 11 * SECOND)
    assert after.upcoming is not None
    assert after.upcoming.due == NOON + 12 * SECOND


def test_d18_a_run_that_nobody_remembers_changes_nothing() -> None:
    state = anew(())._replace(last_start=NOON + 2 * SECOND, last_success=NOON + 3 * SECOND)
    assert plan.settle(JOB, state, OLD, Outcome(Status.FAILED), NOON + 5 * SECOND) == state


def test_jobs_of_files_have_one_life() -> None:
    job: Job = replace(JOB, origin=Origin.FILE)
    assert plan.settle(job, anew(), OLD, Outcome(Status.OK), NOON + SECOND).succeeded == 1
