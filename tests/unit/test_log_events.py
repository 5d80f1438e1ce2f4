"""Engine events as log lines: the contract's names and fields, and no flood."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from tests.support.builders import NOON, agent, cadence, run_of
from vmsh_scheduler.domain.decision import Decision, Reason, Verdict
from vmsh_scheduler.domain.events import (
    ClockStepped,
    ConfigRejected,
    Decided,
    Event,
    Finished,
    Recovered,
    Started,
    StateFailed,
    StateRestored,
    Synced,
    Ticked,
    Trouble,
)
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Execution, Found, Outcome, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.observe.log_events import NAMES_SHOWN, LogObserver

JOB = cadence(89, id="dao:x/fast")
Line = tuple[str, str, dict[str, object]]
Observe = Callable[..., list[Line]]


class Lines(logging.Handler):
    """Keeps (level, msg, fields)."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Line] = []
        self.flushed = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append((record.levelname, record.getMessage(), getattr(record, "fields", {})))

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def handler() -> Iterator[Lines]:
    handler = Lines()
    yield handler
    handler.close()


@pytest.fixture
def observe(handler: Lines) -> Observe:
    logger = logging.getLogger("test.log_events")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.handlers[:] = [handler]
    observer = LogObserver(logger, handler.flush)

    def lines(*events: Event) -> list[Line]:
        handler.seen.clear()
        for event in events:
            observer(event)
        return list(handler.seen)

    return lines


def finished(outcome: Outcome, job: Job = JOB, **state: object) -> Finished:
    run = run_of(job, NOON, attempt=2, found=Found("batch-7", "sha256:00"))
    after = JobState()._replace(**state)
    return Finished(job, Execution(run, outcome, NOON + 2_000), after, NOON + 10_000)


def test_anchor_success(observe: Observe) -> None:
    ((level, msg, fields),) = observe(finished(Outcome(Status.OK, flags=("truncated",))))
    assert (level, msg) == ("INFO", "anchor success")
    assert fields == {
        "ns": "dao:x", "label": "fast", "target": "local:t", "batch": "batch-7", "flags": ("truncated",),
        "run": f"run-{NOON}-2", "slot": NOON, "attempt": 2, "cause": "retry", "took_ms": 2_000,
    }  # fmt: skip


def test_anchor_failed(observe: Observe) -> None:
    outcome = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit", "connection refused", 7, output="x" * 5_000 + "end")
    ((level, msg, fields),) = observe(finished(outcome, level=9))
    assert (level, msg) == ("ERROR", "anchor failed")
    expected = {
        "err": "connection refused", "ns": "dao:x", "label": "fast", "target": "local:t", "backoff": 7,
        "retry_in": 8.0, "class": "network", "code": "exit", "exit_code": 7,
    }  # fmt: skip
    assert expected.items() <= fields.items()
    tail = fields["stderr_tail"]
    assert isinstance(tail, str)
    assert tail.endswith("xend")
    assert len(tail) == 2_000


@pytest.mark.parametrize(
    ("outcome", "level", "msg"),
    [
        (Outcome(Status.UNKNOWN, code="lost"), "ERROR", "cycle outcome unknown"),
        (Outcome(Status.SUPERSEDED, code="new_root"), "INFO", "cycle superseded"),
        (Outcome(Status.SKIPPED, code="unchanged"), "INFO", "cycle skipped"),
        (Outcome(Status.FAILED, code="timeout"), "ERROR", "cycle failed"),
    ],
)
def test_other_ends_of_an_agents_cycle(observe: Observe, outcome: Outcome, level: str, msg: str) -> None:
    ((got_level, got_msg, fields),) = observe(finished(outcome, agent()))
    assert (got_level, got_msg, fields["agent"], fields["user"]) == (level, msg, "a", "u")
    assert outcome.code in {fields.get("err"), fields.get("reason")}


def test_decisions_and_starts_are_debug_but_missed_slots_are_not(observe: Observe) -> None:
    due = Decision(JOB.id, NOON, Verdict.FIRED, Reason.DUE, NOON, run_id="run-1")
    missed = Decision(JOB.id, NOON, Verdict.MISSED, Reason.WINDOW, NOON, count=4, step=89_000)
    bare = replace(JOB, labels={})
    lines = observe(Decided(JOB, due), Decided(JOB, missed), Started(bare, run_of(JOB, NOON), 3))
    assert [(level, msg) for level, msg, _ in lines] == [
        ("DEBUG", "slot decided"), ("INFO", "slot decided"), ("DEBUG", "run started"),
    ]  # fmt: skip
    assert lines[0][2]["run"] == "run-1"
    assert (lines[1][2]["count"], lines[1][2]["reason"]) == (4, "window")
    assert (lines[2][2]["job"], lines[2][2]["delay_ms"]) == (JOB.id, 3)


def test_config_loaded_names_what_changed_up_to_a_limit(observe: Observe) -> None:
    many = tuple(f"n{n}/fast" for n in range(50))
    ((_, msg, fields),) = observe(Synced(NOON, "abc", added=many, removed=("old/fast",)))
    assert (msg, fields["cfgHash"], fields["removed"]) == ("namespaces config loaded", "abc", ["old/fast"])
    assert fields["added"] == [*many[:NAMES_SHOWN], "... 30 more"]
    assert "changed" not in fields


def test_each_distinct_config_error_is_said_once(observe: Observe) -> None:
    bad, worse = ConfigRejected(NOON, ("a",)), ConfigRejected(NOON, ("a", "b"))
    lines = observe(bad, bad, bad, worse, worse, Synced(NOON, "h"), bad)
    assert [msg for _, msg, _ in lines] == [
        "config rejected", "config rejected", "namespaces config loaded", "config rejected",
    ]  # fmt: skip
    assert lines[1][2] == {"count": 2, "problems": ["a", "b"]}


def test_s5_a_failing_state_write_is_one_line_a_minute(observe: Observe) -> None:
    lines = observe(*(StateFailed(NOON + second * 1_000, "no space") for second in range(121)))
    assert [(msg, fields["repeated"]) for _, msg, fields in lines] == [
        ("state write failed", 0), ("state write failed", 59), ("state write failed", 59),
    ]  # fmt: skip
    again = observe(StateRestored(NOON), StateFailed(NOON + 181_000, "no space"))
    assert [msg for _, msg, _ in again] == ["state writable again", "state write failed"]


def test_s5_a_nearly_full_disk_is_one_line_a_minute(observe: Observe) -> None:
    """Short lines fit and long ones do not: it fails and recovers every second."""
    flaps = ((StateFailed(NOON + second * 1_000, "no space"), StateRestored(NOON)) for second in range(121))
    lines = observe(*(event for flap in flaps for event in flap))
    assert [(msg, fields.get("repeated")) for _, msg, fields in lines] == [
        ("state write failed", 0), ("state writable again", None),
        ("state write failed", 59), ("state writable again", None),
        ("state write failed", 59), ("state writable again", None),
    ]  # fmt: skip


def test_rare_events(observe: Observe) -> None:
    lines = observe(
        ClockStepped(NOON, -3_600_000),
        Recovered(NOON, finished=3, never_began=1),
        Recovered(NOON, unknown=1),
        Recovered(NOON, pending=1),
        Trouble(NOON, "bad_batch", {"file": "x.json", "level": "odd"}),
    )
    assert lines[0] == ("WARNING", "clock stepped", {"by_s": -3_600.0})
    counts = {"recovered": 3, "never_began": 1, "adopted": 0, "unknown": 0, "pending": 0}
    assert lines[1] == ("INFO", "runs recovered", counts)
    assert [line[0] for line in lines[2:4]] == ["WARNING", "WARNING"]
    assert lines[4] == ("WARNING", "trouble", {"what": "bad_batch", "file": "x.json", "level_": "odd"})


def test_a_tick_hands_over_what_a_slow_reader_left(observe: Observe, handler: Lines) -> None:
    assert observe(Ticked(NOON, 0, 0, 0)) == []
    assert handler.flushed == 1
