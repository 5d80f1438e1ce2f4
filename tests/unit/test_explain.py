"""`why`, `next` and `status` rows: the policy read aloud."""

from dataclasses import replace

from tests.support.builders import NOON, agent, cadence, run_of
from vmsh_scheduler.domain import plan
from vmsh_scheduler.domain.decision import Decision, Reason, Verdict
from vmsh_scheduler.domain.explain import TEXTS, covers, did, will
from vmsh_scheduler.domain.job import OnUnknown, Origin
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Execution, Outcome, Status
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.domain.trigger import Manual
from vmsh_scheduler.domain.views import condition, history_view, job_view, next_view

JOB = cadence(10)
FRESH = plan.admit(JOB, JobState(), NOON)
DOWN = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit", "refused")


def after(outcome: Outcome) -> JobState:
    run = run_of(JOB, NOON)
    return plan.settle(JOB, plan.begin(plan.decide(JOB, FRESH, NOON).state, run), run, outcome, NOON + 100)


def test_every_reason_has_words() -> None:
    assert TEXTS.keys() == set(Reason)


def test_will_run_at_its_next_slot() -> None:
    told = will(JOB, after(Outcome(Status.OK)), NOON + 200)
    assert (told.verdict, told.reason, told.at, told.slot) == ("will", "due", NOON + 10_000, NOON + 10_000)


def test_will_not_while_off_paused_or_held() -> None:
    off = will(replace(JOB, enabled=False), FRESH, NOON)
    assert (off.verdict, off.reason) == ("will_not", "disabled")
    paused = will(JOB, FRESH._replace(pause=Pause(NOON, NOON + 500, "deploy", "ann")), NOON)
    assert (paused.verdict, paused.at) == ("will_not", NOON + 500)
    assert "by ann: deploy" in paused.text
    over = will(JOB, FRESH._replace(pause=Pause(NOON, NOON + 500)), NOON + 500)
    assert over.verdict == "will"
    unseen = run_of(JOB, NOON)
    held = will(JOB, FRESH._replace(held=unseen, slot=NOON), NOON)
    assert (held.verdict, held.reason) == ("will_not", "held")
    assert unseen.id in held.remedy


def test_running_queued_and_retrying() -> None:
    run = run_of(JOB, NOON)
    running = will(JOB, plan.begin(FRESH, run), NOON + 1_500)
    assert (running.verdict, running.at) == ("running", run.deadline)
    assert "1.5 s" in running.text
    opened = plan.decide(JOB, FRESH, NOON).state
    assert will(JOB, opened, NOON, queued=True).reason == "capacity"
    assert will(JOB, opened, NOON).text == "its slot is open and about to start"
    retrying = will(JOB, after(DOWN), NOON + 200)
    assert (retrying.reason, retrying.at) == ("backoff", NOON + 8_100)
    assert "attempt 2 after 1 failures" in retrying.text
    assert "refused" in retrying.text
    waiting = will(JOB, after(DOWN)._replace(last_error=""), NOON + 200)
    assert "last error" not in waiting.text


def test_a_manual_job_waits_for_somebody() -> None:
    job = replace(JOB, trigger=Manual())
    assert will(job, plan.admit(job, JobState(), NOON), NOON).reason == "manual"


def test_remedies_can_be_pasted_into_a_shell() -> None:
    odd = replace(JOB, id="a b/fast")
    assert "'a b/fast'" in will(odd, FRESH._replace(pause=Pause(NOON)), NOON).remedy


class TestOff:
    OURS = replace(agent(id="_agents/ann b/-x%2Fy"), enabled=False)
    SKIPPED = Decision(OURS.id, NOON, Verdict.SKIPPED, Reason.DISABLED, NOON)

    def test_of_a_file(self) -> None:
        told = will(self.OURS, JobState(), NOON)
        assert (told.text, told.remedy) == TEXTS[Reason.DISABLED]
        assert "in its file" in did(self.OURS, NOON, [self.SKIPPED], []).text

    def test_an_agent_of_the_api_is_in_no_file(self) -> None:
        job = replace(self.OURS, origin=Origin.API)
        for told in (will(job, JobState(), NOON), did(job, NOON, [self.SKIPPED], [])):
            assert "file" not in told.text
            assert "`agents resume`" in told.text
            assert told.remedy == "vmsh-scheduler agents resume --user='ann b' -- -x/y"
        assert did(job, NOON, [replace(self.SKIPPED, reason=Reason.PAUSED)], []).text == "skipped: it was paused"


class TestDid:
    FIRED = Decision(JOB.id, NOON, Verdict.FIRED, Reason.DUE, NOON + 5)
    MISSED = Decision(JOB.id, NOON - 10_000, Verdict.MISSED, Reason.WINDOW, NOON, count=3, step=10_000)

    def test_ran(self) -> None:
        run = run_of(JOB, NOON, attempt=2)
        told = did(JOB, NOON + 3_000, [self.FIRED], [Execution(run, DOWN, NOON + 900)])
        assert (told.verdict, told.slot) == ("did", NOON)
        assert told.text.endswith("attempt 2 ended failed: refused")
        assert did(JOB, NOON, [self.FIRED], []).text.endswith("its end is not recorded (yet)")

    def test_did_not_with_what_to_do(self) -> None:
        told = did(JOB, NOON - 15_000, [self.FIRED, self.MISSED], [])
        assert (told.verdict, told.reason, told.slot) == ("did_not", "window", NOON - 20_000)
        assert "misfire_grace" in told.remedy

    def test_no_record(self) -> None:
        assert did(JOB, NOON + 60_000, [self.FIRED], []).verdict == "no_record"
        manual = replace(JOB, trigger=Manual())
        assert did(manual, NOON, [], []).verdict == "no_record"
        assert did(manual, NOON + 50, [self.FIRED], []).verdict == "did"

    def test_a_row_covers_its_slots_and_no_others(self) -> None:
        assert [covers(self.MISSED, NOON - n * 10_000) for n in range(5)] == [False, True, True, True, False]
        assert not covers(self.MISSED, NOON - 15_000)


class TestViews:
    def test_conditions(self) -> None:
        ok = after(Outcome(Status.OK))
        assert condition(JOB, FRESH, NOON) == "waiting"
        assert condition(JOB, ok, NOON + 200) == "ok"
        assert condition(JOB, after(DOWN), NOON + 200) == "backing_off"
        assert condition(replace(JOB, enabled=False), ok, NOON) == "off"

    def test_a_row_names_the_held_run(self) -> None:
        job = cadence(10, on_unknown=OnUnknown.HOLD)
        run = run_of(job, NOON)
        opened = plan.decide(job, plan.admit(job, JobState(), NOON), NOON).state
        state = plan.settle(job, plan.begin(opened, run), run, Outcome(Status.UNKNOWN, code="lost"), NOON + 1)
        assert job_view(job, state, NOON + 2)["held"] == run.id
        assert next_view({job.id: job}, {job.id: state}, NOON + 2, 3) == []

    def test_next_merges_jobs_and_honours_pauses(self) -> None:
        ok, slow = after(Outcome(Status.OK)), cadence(15, id="b/fast")
        states = {JOB.id: ok._replace(pause=Pause(NOON, NOON + 25_000)), slow.id: after(DOWN)}
        rows = next_view({JOB.id: JOB, slow.id: slow}, states, NOON + 200, 5)
        assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
        assert all(row["at"] >= NOON + 25_000 for row in rows if row["job"] == JOB.id)
        assert rows[0]["reason"] in {"retry", "due"}
        for_ever = next_view({JOB.id: JOB}, {JOB.id: ok._replace(pause=Pause(NOON))}, NOON + 200, 5)
        assert for_ever == []

    def test_history_is_plain_json(self) -> None:
        run = run_of(JOB, NOON)
        view = history_view([TestDid.MISSED], [Execution(run, DOWN, NOON + 900)])
        assert view["decisions"][0]["count"] == 3
        assert view["executions"][0]["outcome"]["error"] == "network"
