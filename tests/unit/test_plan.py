"""The scheduling policy, case by case. No engine, no store: only values."""

from dataclasses import replace

import pytest

from tests.support.builders import NOON, agent, cadence, run_of
from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.decision import Reason, Verdict
from vmsh_scheduler.domain.job import CatchUp, Job, OnUnknown, Overlap, Subject
from vmsh_scheduler.domain.retry import ErrorClass, PhiBackoff
from vmsh_scheduler.domain.run import Cause, Found, Outcome, Status
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.domain.trigger import DAY, HOUR, Manual, Next
from vmsh_scheduler.domain.views import upcoming_slots

OK = Outcome(Status.OK)
NETWORK = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit", "connection refused")


def seen(job: Job, now: int = NOON) -> JobState:
    return plan.admit(job, JobState(), now)


def opened(job: Job, now: int = NOON) -> JobState:
    step = plan.decide(job, seen(job, now), now)
    assert step.start
    return step.state


def begun(job: Job, now: int = NOON) -> tuple[JobState, int]:
    state = opened(job, now)
    assert state.slot is not None
    return plan.begin(state, run_of(job, state.slot, at=now)), state.slot


def finished(job: Job, outcome: Outcome, now: int = NOON) -> JobState:
    state, _ = begun(job, now)
    return plan.settle(job, state, state.runs[0], outcome, now + 100)


def verdicts(step: plan.Step) -> list[tuple[Verdict, Reason, int]]:
    return [(d.verdict, d.reason, d.count) for d in step.decisions]


class TestAdmit:
    def test_first_sight_is_due_at_once(self) -> None:
        job = cadence(10)
        state = plan.admit(job, JobState(), NOON + 3_000)
        assert plan.next_due(job, state) == NOON
        assert state.first_seen == NOON + 3_000

    def test_unchanged_keeps_plan_and_backoff(self) -> None:
        job = cadence(10)
        state = finished(job, NETWORK)
        assert plan.admit(job, state, NOON + 200) == state

    def test_changed_is_planned_anew_and_tries_its_open_slot_at_once_under_the_same_key(self) -> None:
        job = cadence(10)
        state = finished(job, NETWORK)
        changed = replace(cadence(20), revision="r2")
        after = plan.admit(changed, state, NOON + 200)
        assert (after.level, after.slot, after.ready_at, after.revision) == (0, NOON, NOON + 200, "r2")
        assert after.upcoming == Next(NOON + 20_000, NOON + 20_000)
        assert plan.attempt_of(after) == 2
        assert plan.fired(changed, after, run_of(changed, NOON, attempt=2), {}) is None

    def test_changed_keeps_a_held_run_held(self) -> None:
        job = cadence(10, on_unknown=OnUnknown.HOLD)
        held = finished(job, Outcome(Status.UNKNOWN, code="lost"))
        after = plan.admit(replace(job, revision="r2"), held, NOON + 200)
        assert after.held == held.held
        assert not plan.decide(job, after, NOON + 200).start

    def test_another_target_has_nothing_covered(self) -> None:
        there = Subject("batches", "ns", "out/batches", target="local:a")
        job = replace(cadence(10), subject=there)
        found = Found("1", "sha256:aa", "k1", target="local:a")
        run = run_of(job, NOON, found=found)
        done = plan.settle(job, plan.begin(opened(job), run), run, OK, NOON)
        moved = replace(job, subject=replace(there, target="local:b"), revision="r2")
        assert (done.found_digest, done.covers) == ("sha256:aa", "k1")
        after = plan.admit(moved, done, NOON + 200)
        assert (after.found_digest, after.covers) == ("", "")
        late = plan.settle(moved, plan.begin(after, run), run, OK, NOON + 300)
        assert (late.found_digest, late.covers) == ("", ""), "a run for the old target covers nothing here"
        same = plan.admit(replace(job, revision="r3"), done, NOON + 200)
        assert same.found_digest == "sha256:aa"

    def test_changed_while_running_keeps_the_run(self) -> None:
        job = cadence(10)
        state, slot = begun(job)
        after = plan.admit(replace(job, revision="r2"), state, NOON + 200)
        assert after.runs == state.runs
        assert after.slot == slot

    def test_changed_never_runs_a_slot_at_or_below_the_newest_success(self) -> None:
        job = cadence(10)
        state = finished(job, OK)
        after = plan.admit(replace(cadence(5), revision="r2"), state, NOON + 200)
        assert after.upcoming == Next(NOON + 5_000, NOON + 5_000)

    def test_lost_state_waits_one_whole_period(self) -> None:
        job = cadence(10)
        for now, due in ((NOON, NOON + 10_000), (NOON + 1, NOON + 20_000), (NOON + 9_999, NOON + 20_000)):
            assert plan.next_due(job, plan.admit(job, JobState(), now, lost=True)) == due


class TestDecide:
    def test_not_due_decides_nothing(self) -> None:
        job = cadence(10)
        state = finished(job, OK)
        step = plan.decide(job, state, NOON + 5_000)
        assert not step.start
        assert step.decisions == ()

    def test_on_time(self) -> None:
        job = cadence(10)
        step = plan.decide(job, finished(job, OK), NOON + 10_000)
        assert step.start
        assert step.state.slot == NOON + 10_000
        assert step.state.upcoming == Next(NOON + 20_000, NOON + 20_000)

    def test_slots_do_not_drift_with_late_starts(self) -> None:
        job = cadence(10)
        state = finished(job, OK)
        for n in range(1, 50):
            step = plan.decide(job, state, NOON + n * 10_000 + 777)
            assert step.state.slot == NOON + n * 10_000
            run = run_of(job, NOON + n * 10_000)
            state = plan.settle(job, plan.begin(step.state, run), run, OK, NOON + n * 10_000 + 3_000)

    def test_downtime_runs_the_newest_and_accounts_for_the_rest(self) -> None:
        job = cadence(10)
        step = plan.decide(job, finished(job, OK), NOON + 55_000)
        assert step.start
        assert step.state.slot == NOON + 50_000
        assert step.state.cause == Cause.CATCH_UP.value
        assert verdicts(step) == [(Verdict.MISSED, Reason.WINDOW, 4)]

    def test_a_wider_grace_makes_older_slots_superseded_not_missed(self) -> None:
        job = cadence(10, misfire_grace=HOUR)
        step = plan.decide(job, finished(job, OK), NOON + 55_000)
        assert verdicts(step) == [(Verdict.SUPERSEDED, Reason.COALESCED, 4)]
        assert step.state.slot == NOON + 50_000

    def test_skip_runs_nothing_that_is_late(self) -> None:
        job = cadence(60, catch_up=CatchUp.SKIP, misfire_grace=10_000)
        state = finished(job, OK)
        step = plan.decide(job, state, NOON + 150_000)
        assert not step.start
        assert verdicts(step) == [(Verdict.MISSED, Reason.WINDOW, 2)]
        assert step.state.upcoming == Next(NOON + 180_000, NOON + 180_000)
        assert plan.decide(job, step.state, NOON + 180_004).start

    def test_all_runs_at_most_ten_oldest_first(self) -> None:
        job = cadence(10, catch_up=CatchUp.ALL, misfire_grace=HOUR)
        state = finished(job, OK)
        now = NOON + 150_000
        step = plan.decide(job, state, now)
        assert verdicts(step) == [(Verdict.MISSED, Reason.LIMIT, 5)]
        slots = []
        while step.start:
            slot = step.state.slot
            assert slot is not None
            slots.append(slot)
            run = run_of(job, slot, at=now)
            state = plan.settle(job, plan.begin(step.state, run), run, OK, now)
            step = plan.decide(job, state, now)
        assert slots == [NOON + n * 10_000 for n in range(6, 16)]

    def test_one_catch_up_after_a_month(self) -> None:
        job = cadence(1)
        step = plan.decide(job, finished(job, OK), NOON + 30 * DAY)
        assert step.start
        assert sum(d.count for d in step.decisions) + 1 == 30 * DAY // 1000

    @pytest.mark.parametrize(
        ("change", "verdict", "reason"),
        [
            ({"pause": Pause(NOON)}, Verdict.SKIPPED, Reason.PAUSED),
            ({"held": run_of(cadence(10), NOON), "slot": NOON}, Verdict.DEFERRED, Reason.HELD),
            ({"slot": NOON, "ready_at": NOON + 60_000}, Verdict.DEFERRED, Reason.BACKOFF),
        ],
    )
    def test_refusals(self, change: dict[str, object], verdict: Verdict, reason: Reason) -> None:
        job = cadence(10)
        state = finished(job, OK)._replace(**change)  # type: ignore[arg-type]  # a table of field values
        step = plan.decide(job, state, NOON + 10_000)
        assert verdicts(step) == [(verdict, reason, 1)]
        assert not step.start

    def test_disabled_draining_and_queued(self) -> None:
        job = cadence(10)
        state = finished(job, OK)
        at = NOON + 10_000
        assert verdicts(plan.decide(replace(job, enabled=False), state, at)) == [(Verdict.SKIPPED, Reason.DISABLED, 1)]
        assert verdicts(plan.decide(job, state, at, queued=True)) == [(Verdict.SKIPPED, Reason.CAPACITY, 1)]

    def test_a_pause_ends_by_itself(self) -> None:
        job = cadence(10)
        state = finished(job, OK)._replace(pause=Pause(NOON, until=NOON + 25_000))
        assert not plan.decide(job, state, NOON + 10_000).start
        assert plan.decide(job, state, NOON + 30_000).start

    def test_an_open_slot_waits_for_the_end_of_a_pause(self) -> None:
        job = cadence(3600)
        failed = finished(job, NETWORK)._replace(pause=Pause(NOON, until=NOON + 600_000))
        assert plan.next_due(job, failed) == NOON + 600_000
        assert plan.decide(job, failed, NOON + 600_000).start


class TestOverlap:
    def test_skip(self) -> None:
        job = cadence(10)
        state, _ = begun(job)
        step = plan.decide(job, state, NOON + 10_000)
        assert verdicts(step) == [(Verdict.SKIPPED, Reason.OVERLAP, 1)]
        assert not step.start

    def test_wait_runs_the_newest_after_the_run(self) -> None:
        job = cadence(10, overlap=Overlap.WAIT)
        state, _ = begun(job)
        assert plan.next_due(job, state) is None
        assert plan.decide(job, state, NOON + 25_000).decisions == ()
        state = plan.settle(job, state, state.runs[0], OK, NOON + 25_000)
        step = plan.decide(job, state, NOON + 25_000)
        assert step.start
        assert step.state.slot == NOON + 20_000

    def test_allow_runs_beside(self) -> None:
        job = cadence(10, overlap=Overlap.ALLOW)
        state, first = begun(job)
        step = plan.decide(job, state, NOON + 10_000)
        assert step.start
        second = run_of(job, NOON + 10_000)
        state = plan.begin(step.state, second)
        assert len(state.runs) == 2
        state = plan.settle(job, state, second, OK, NOON + 11_000)
        state = plan.settle(job, state, run_of(job, first), NETWORK, NOON + 12_000)
        assert state.runs == ()
        assert (state.newest_slot, state.failed, state.level, state.slot) == (NOON + 10_000, 1, 0, None)


class TestSettle:
    def test_success_closes_the_slot(self) -> None:
        state = finished(cadence(10), OK)
        assert (state.slot, state.ready_at, state.attempt, state.level, state.runs) == (None, None, 0, 0, ())
        assert (state.newest_slot, state.last_success, state.succeeded) == (NOON, NOON + 100, 1)

    def test_failure_keeps_slot_and_waits(self) -> None:
        job = cadence(10)
        state = finished(job, NETWORK)
        assert (state.slot, state.attempt, state.level, state.ready_at) == (NOON, 1, 1, NOON + 100 + 8_000)
        assert plan.next_due(job, state) == NOON + 8_100
        step = plan.decide(job, state, NOON + 8_100)
        assert step.start
        assert plan.attempt_of(step.state) == 2

    def test_backoff_climbs_and_success_clears_it(self) -> None:
        job = cadence(3600)
        state, now = seen(job), NOON
        waits = []
        for _ in range(9):
            state = plan.decide(job, state, now).state
            run = run_of(job, NOON, attempt=plan.attempt_of(state), at=now)
            state = plan.settle(job, plan.begin(state, run), run, NETWORK, now)
            assert state.ready_at is not None
            waits.append((state.ready_at - now) // 1000)
            now = state.ready_at
        assert waits == [8, 13, 21, 34, 55, 90, 145, 145, 145]
        state = plan.decide(job, state, now).state
        run = run_of(job, NOON, attempt=10, at=now)
        state = plan.settle(job, plan.begin(state, run), run, OK, now)
        assert (state.level, state.slot) == (0, None)

    def test_one_decision_per_slot_over_all_attempts(self) -> None:
        job = cadence(3600)
        state = opened(job)
        run = run_of(job, NOON)
        assert plan.fired(job, state, run, {}) is not None
        state = plan.settle(job, plan.begin(state, run), run, NETWORK, NOON)
        again = run_of(job, NOON, attempt=2)
        assert plan.fired(job, state, again, {}) is None

    def test_fixed_delay_counts_from_completion(self) -> None:
        job = agent(15)
        state, slot = begun(job)
        state = plan.settle(job, state, state.runs[0], OK, slot + 4_321)
        assert plan.next_due(job, state) == slot + 4_321 + 15_000

    def test_what_we_ended_ourselves_is_not_held_against_the_job(self) -> None:
        state = finished(cadence(10), Outcome(Status.FAILED, ErrorClass.UNKNOWN, plan.CANCELLED, "drain"))
        assert (state.level, state.slot, state.ready_at) == (0, NOON, NOON + 100)

    def test_mean_duration(self) -> None:
        assert finished(cadence(10), OK).mean_ms == 100


class TestUnknown:
    def test_retry_starts_the_same_slot_again(self) -> None:
        job = cadence(10)
        state = finished(job, Outcome(Status.UNKNOWN, code="lost"))
        assert (state.unknown, state.level, state.slot, state.last_status) == (1, 0, NOON, "unknown")
        assert plan.decide(job, state, NOON + 100).start
        assert plan.attempt_of(state) == 2

    def test_hold_waits_for_a_person(self) -> None:
        job = cadence(10, on_unknown=OnUnknown.HOLD)
        state = finished(job, Outcome(Status.UNKNOWN, code="lost"))
        assert state.held is not None
        assert state.held.id == f"run-{NOON}-1"
        assert not plan.decide(job, state, NOON + 9_000).start
        assert verdicts(plan.decide(job, state, NOON + 10_000)) == [(Verdict.DEFERRED, Reason.HELD, 1)]

    @pytest.mark.parametrize("verdict", ["ok", "failed", "retry"])
    def test_resolve(self, verdict: str) -> None:
        job = cadence(3600, on_unknown=OnUnknown.HOLD)
        held = finished(job, Outcome(Status.UNKNOWN, code="lost"))
        state = plan.resolve(job, held, verdict, NOON + 500)
        assert state.held is None
        expected = {"ok": (None, 0), "failed": (NOON, 1), "retry": (NOON, 0)}[verdict]
        assert (state.slot, state.level) == expected
        if verdict == "ok":
            assert state.newest_slot == NOON
        if verdict == "retry":
            assert plan.decide(job, state, NOON + 500).start

    def test_never_began_does_not_count(self) -> None:
        job = cadence(10)
        state, _ = begun(job)
        after = plan.never_began(state, state.runs[0], NOON + 50)
        assert (after.attempt, after.started, after.runs, after.ready_at) == (0, 0, (), NOON + 50)
        assert plan.decide(job, after, NOON + 50).start
        assert plan.fired(job, after, run_of(job, NOON), {}) is None, "the slot's decision was written already"


class TestClock:
    def test_back_an_hour_next_start_within_one_period(self) -> None:
        job = cadence(10)
        now = NOON - HOUR
        state = plan.clamp(job, finished(job, OK), now)
        due = plan.next_due(job, state)
        assert due is not None
        assert due <= now + 10_000
        step = plan.decide(job, state, due)
        assert step.state.slot == NOON + 10_000, "labels only rise"

    def test_back_clamps_the_backoff_too(self) -> None:
        job = cadence(10)
        now = NOON - 30 * DAY
        state = plan.clamp(job, finished(job, NETWORK), now)
        assert state.ready_at == now + 8_000, "what it waited for, not the longest there is"

    @pytest.mark.parametrize(
        ("level", "error", "waits"), [(1, "network", 8_000), (3, "auth", 42_000), (3, "", 21_000), (9, "auth", 290_000)]
    )
    def test_back_leaves_the_backoff_of_the_present_level(self, level: int, error: str, waits: int) -> None:
        job = cadence(10)
        state = finished(job, NETWORK)._replace(level=level, error_class=error)
        now = NOON - HOUR
        assert plan.clamp(job, state, now).ready_at == now + waits
        near = state._replace(ready_at=now + 500)
        assert plan.clamp(job, near, now).ready_at == now + 500

    def test_back_counts_the_jitter_of_the_backoff(self) -> None:
        job = cadence(10, retry=PhiBackoff(jitter=1.0))
        failed = finished(job, NETWORK)
        assert failed.ready_at is not None
        unstepped = plan.clamp(job, failed, NOON + 100)
        assert unstepped.ready_at == failed.ready_at > NOON + 8_100

    def test_poisoned_future_keeps_running_every_period(self) -> None:
        job = cadence(10)
        far = NOON + 4000 * DAY
        state = finished(job, OK)._replace(newest_slot=far, upcoming=Next(far + 10_000, far + 10_000))
        state, now, labels = plan.clamp(job, state, NOON), NOON, []
        for _ in range(3):
            due = plan.next_due(job, state)
            assert due is not None
            assert due - now <= 10_000
            now = due
            step = plan.decide(job, state, now)
            assert step.state.slot is not None
            labels.append(step.state.slot)
            run = run_of(job, step.state.slot, at=now)
            state = plan.settle(job, plan.begin(step.state, run), run, OK, now)
        assert labels == [far + 10_000, far + 20_000, far + 30_000]


class TestSubject:
    A, B = Found("1", "sha256:aa"), Found("2", "sha256:bb")

    def test_unchanged(self) -> None:
        job = replace(cadence(10), subject=Subject("batches", "ns", "out/batches"))
        assert job.subject is not None
        state = JobState()._replace(found_digest="sha256:aa")
        assert plan.unchanged(job, state, self.A)
        assert not plan.unchanged(job, state, self.B)
        assert not plan.unchanged(replace(job, subject=replace(job.subject, reanchor=True)), state, self.A)

    def test_another_root_replaces_an_open_slot_only_after_an_attempt(self) -> None:
        job = cadence(3600)
        state = opened(job)
        assert not plan.replaces(state, self.A)
        run = run_of(job, NOON, found=self.A)
        failed = plan.settle(job, plan.begin(state, run), run, NETWORK, NOON)
        assert plan.replaces(failed, self.B)
        assert not plan.replaces(failed, self.A)

    def test_nothing_to_run_about_closes_the_slot(self) -> None:
        job = cadence(10)
        state, decision = plan.close_slot(job, opened(job), Reason.NO_BATCH, NOON)
        assert decision is not None
        assert (decision.verdict, decision.reason) == (Verdict.SKIPPED, Reason.NO_BATCH)
        assert (state.slot, state.newest_slot, state.last_success) == (None, NOON, None)

    def test_success_remembers_what_it_was_about(self) -> None:
        job = cadence(10)
        found = Found("1", "sha256:aa", covers="k1")
        run = run_of(job, NOON, found=found)
        done = Outcome(Status.OK, result={"tx": "0x1"})
        state = plan.settle(job, plan.begin(opened(job), run), run, done, NOON)
        assert (state.found_id, state.found_digest, state.covers, state.result) == (
            "1",
            "sha256:aa",
            "k1",
            {"tx": "0x1"},
        )


def test_a_manual_slot_is_above_every_slot_used() -> None:
    assert plan.manual_slot(JobState(newest_slot=NOON + 5), NOON) == NOON + 6
    assert plan.manual_slot(JobState(), NOON) == NOON


def test_reset_clears_the_wait_but_not_a_hold() -> None:
    job = cadence(10)
    failed = finished(job, NETWORK)
    assert plan.reset(failed, NOON + 1).ready_at == NOON + 1
    held = failed._replace(held=run_of(job, NOON), ready_at=None)
    assert plan.reset(held, NOON + 1).ready_at is None


def test_manual_jobs_wait_for_somebody() -> None:
    job = replace(cadence(10), trigger=Manual())
    state = seen(job)
    assert plan.next_due(job, state) is None
    step = plan.decide(job, plan.reopen(state, NOON, NOON, Cause.MANUAL), NOON)
    assert step.start


def test_upcoming_slots_look_ahead() -> None:
    job = cadence(10)
    ahead = upcoming_slots(job, finished(job, OK), NOON + 100)
    assert [next(ahead).slot for _ in range(3)] == [NOON + 10_000, NOON + 20_000, NOON + 30_000]
