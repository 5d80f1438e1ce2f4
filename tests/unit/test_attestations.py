"""What passes over open anchors become: metrics, /health, and one job per target that makes them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import NOON, cadence, run_of
from tests.support.config import Files, wanted
from vmsh_scheduler.anchors.pass_report import LISTED, Moves, said
from vmsh_scheduler.anchors.submission import Book, Phase, Submission
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.events import Finished
from vmsh_scheduler.domain.health import Health, Vitals, assess
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Execution, Outcome, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Interval
from vmsh_scheduler.executors.capture import HEAD, TAIL
from vmsh_scheduler.observe.metrics import Extra, Metrics
from vmsh_scheduler.sources import anchors_file
from vmsh_scheduler.sources.catalog import compile_files

TARGET = "eip155:8453"
PASSES = replace(cadence(60, id=f"_anchors/{TARGET}"), labels={"confirms": TARGET})
ANCHORS = replace(cadence(89, id="ns/fast"), labels={"namespace": "ns", "cadence": "fast", "target": TARGET})
WELL = Vitals(now=NOON, uptime_s=100, tick=10_000, last_tick=NOON)
HUGE = 10**400
"""More than a float can be."""
PASS: dict[str, Any] = {"phases": {"submitted": 2, "final": 5}, "open": 2, "oldest_open_s": 40, "changed": []}


def fed(*results: dict[str, Any], job: Job = PASSES, status: Status = Status.OK) -> Metrics:
    metrics = Metrics(version="1", python="3")
    for result in results:
        feed(metrics, result, job, status)
    return metrics


def feed(metrics: Metrics, result: dict[str, Any], job: Job = PASSES, status: Status = Status.OK) -> None:
    execution = Execution(run_of(job, NOON), Outcome(status, result=result), NOON)
    metrics.observe(Finished(job, execution, JobState()))


def exposed(metrics: Metrics, *jobs: Job, at: int = NOON) -> dict[str, float]:
    text, _ = metrics.render(metrics.take(jobs or (PASSES,), {}, at, Extra()))
    rows = (line.rpartition(" ") for line in text.decode().splitlines() if line.startswith("vmsh_attestation"))
    return {name.replace(f'target="{TARGET}"', ""): float(value) for name, _, value in rows}


def health(metrics: Metrics, *jobs: Job, state: JobState | None = None) -> Health:
    vitals = replace(WELL, attestations=metrics.attestations.view(NOON))
    return assess(jobs, {} if state is None else {PASSES.id: state}, vitals)


def moved(was: str, now: str, seconds: object = 70) -> dict[str, Any]:
    return {**PASS, "changed": [{"batch": "b", "was": was, "now": now, "seconds": seconds}]}


def test_a_pass_is_shown_and_ages() -> None:
    found = exposed(fed(PASS), at=NOON + 5_000)
    assert found['vmsh_attestations{phase="submitted",}'] == 2
    assert found['vmsh_attestations{phase="final",}'] == 5
    assert found['vmsh_attestations{phase="faulty",}'] == 0
    assert found["vmsh_attestations_oldest_open_seconds{}"] == 45
    assert found["vmsh_attestations_overdue{}"] == 0
    assert found["vmsh_attestations_reorged_total{}"] == 0


def test_nothing_open_has_no_age() -> None:
    settled = {"phases": {"final": 7}, "open": 0, "oldest_open_s": 0}
    assert exposed(fed(PASS, settled), at=NOON + 5_000)["vmsh_attestations_oldest_open_seconds{}"] == 0


def test_reorgs_and_times_until_final_are_counted() -> None:
    metrics = fed(
        moved("verified", "reorged"),
        moved("reorged", "reorged"),
        moved("reorged", "verified"),
        moved("verified", "final"),
    )
    found = exposed(metrics)
    assert found["vmsh_attestations_reorged_total{}"] == 1
    assert found["vmsh_attestation_final_seconds_count{}"] == 1
    assert found["vmsh_attestation_final_seconds_sum{}"] == 70


def test_what_a_pass_does_not_list_is_counted_too(tmp_path: Path) -> None:
    long, name, moves = "b" * 120, "ü" * 24, Moves(Book(tmp_path, TARGET))
    late = [{"batch": long, "namespace": name, "tx": f"0x{0:064x}"}] * LISTED
    for number in range(1_000):
        one = Submission(TARGET, "me", f"{long}-{number}", "sha256:", f"0x{number:064x}", "", 1_000, name)
        with moves.of(one):
            for phase in (Phase.VERIFIED, Phase.REORGED, Phase.FINAL):
                one = one.become(phase, 1_070)
                moves.note(one)
    result = {**PASS, **moves.told(), "overdue": late, "late": 300, "warnings": said(["broken " * 100] * 1_000)}
    assert len(json.dumps(result)) < HEAD + TAIL
    found = exposed(fed(result))
    assert found["vmsh_attestations_reorged_total{}"] == 1_000
    assert found["vmsh_attestation_final_seconds_count{}"] == 1_000
    assert found["vmsh_attestation_final_seconds_sum{}"] == 70_000
    assert found["vmsh_attestations_overdue{}"] == 300


def test_a_pass_that_could_not_read_its_book_tells_what_moved() -> None:
    metrics = fed(PASS)
    feed(metrics, {"code": "busy", "changed": moved("verified", "reorged")["changed"]}, status=Status.FAILED)
    found = exposed(metrics)
    assert found["vmsh_attestations_reorged_total{}"] == 1
    assert found['vmsh_attestations{phase="final",}'] == 5


def test_what_is_final_within_its_own_run_is_timed_too() -> None:
    metrics = fed(PASS)
    done = {"status": "ok", "phase": "final", "changed": [{"was": "", "now": "final", "seconds": 3}]}
    feed(metrics, done, ANCHORS)
    feed(metrics, done, ANCHORS, Status.FAILED)
    feed(metrics, {"status": "ok", "phase": "final"}, ANCHORS)
    assert exposed(metrics)["vmsh_attestation_final_seconds_count{}"] == 1


def test_a_failed_pass_tells_what_its_book_holds_and_one_that_says_nothing_changes_nothing() -> None:
    metrics = fed(PASS)
    late = {"phases": {"submitted": 1}, "open": 1, "oldest_open_s": 90_000, "overdue": [{"batch": "b"}]}
    feed(metrics, late, status=Status.FAILED)
    feed(metrics, {"status": "failed", "code": "corrupt"}, status=Status.FAILED)
    feed(metrics, {}, status=Status.UNKNOWN)
    assert exposed(metrics)["vmsh_attestations_overdue{}"] == 1
    found = health(metrics, PASSES)
    assert found.body["attestations"] == {
        TARGET: {"open": 1, "oldestOpenS": 90_000, "final": 0, "faulty": 0, "overdue": 1, "backoff": 0}
    }
    assert found.condition.value == "degraded"


def test_a_target_that_is_configured_no_more_is_gone_everywhere() -> None:
    metrics = fed(PASS)
    assert "attestations" not in health(metrics, ANCHORS).body
    assert exposed(metrics, ANCHORS) == {}
    assert exposed(metrics) == {}


@pytest.mark.parametrize(
    ("result", "level", "expected"),
    [
        (PASS, 0, "healthy"),
        (PASS, 3, "healthy"),
        (PASS, 4, "degraded"),
        ({**PASS, "overdue": [{}]}, 0, "degraded"),
        ({**PASS, "phases": {"faulty": 1}}, 0, "degraded"),
        ({**PASS, "phases": {"reorged": 1, "lost": 1}}, 0, "healthy"),
        ({}, 4, "degraded"),
    ],
)
def test_when_health_is_degraded(result: dict[str, Any], level: int, expected: str) -> None:
    found = health(fed(result), PASSES, state=JobState(level=level))
    assert found.condition.value == expected
    attestations = found.body["attestations"]
    assert isinstance(attestations, dict)
    assert attestations[TARGET]["backoff"] == level


@pytest.mark.parametrize(
    "junk",
    [
        {"phases": 3},
        {"phases": {"final": "many", "open": -1}, "open": True, "oldest_open_s": "x", "overdue": 7, "changed": {}},
        {"phases": {}, "changed": [None, 3, {"now": 3}, {"now": "final", "seconds": "x"}]},
        {"phases": {}, "late": HUGE, "unlisted": {"final": "x", "final_s": HUGE, "reorged": -1}},
        {"phases": {}, "late": "x", "unlisted": [3]},
        {"phases": {"final": HUGE}, "open": 1, "oldest_open_s": HUGE, "changed": [{"now": "final", "seconds": HUGE}]},
    ],
)
def test_junk_is_no_number(junk: dict[str, Any]) -> None:
    metrics = fed(junk)
    assert health(metrics, PASSES).condition.value == "healthy"
    found = exposed(metrics)
    assert all(value == 0 for name, value in found.items() if "_final_seconds" not in name)


KEYED = {"EVM_ANCHOR_KEY": "0x" + "4c" * 32, "EVM_RPC": "https://node.example/secret"}
RAILS = """\
eip155: {default: {rpcUrl: "${EVM_RPC}", key: "${EVM_ANCHOR_KEY}"}}
btc: {default: {rpcUrl: "http://127.0.0.1:8332"}}
ots: {default: {calendars: ["https://one.example", "https://two.example"]}}
rfc3161: {default: {url: "https://tsa.example", trustBundle: roots.pem}}
"""


def jobs_of(*namespaces: dict[str, str], more: str = "") -> dict[str, Job]:
    lines = ["namespaces:"]
    for number, levels in enumerate(namespaces):
        lines += [f"  n{number}:", "    cadence:"]
        lines += [f'      {name}: {{target: "{target}", every: 1h{more}}}' for name, target in levels.items()]
    raw = {"namespaces": "\n".join(lines).encode(), "anchors": RAILS.encode()}
    return {id: job for id, job in compile_files(Files(raw), wanted({}), KEYED).jobs.items() if id[0] == "_"}


@pytest.fixture
def every_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchors_file, "find_spec", lambda name: object())


@pytest.mark.usefixtures("every_extra")
class TestCompiled:
    """`_anchors/<target>`."""

    def test_one_per_target_however_many_cadences_use_it(self) -> None:
        first = {"fast": TARGET, "strong": "btc:mainnet", "cold": "ots:pool"}
        found = jobs_of(first, {"fast": TARGET, "strong": "eip155:10"})
        wanted_ids = {f"_anchors/{target}" for target in (TARGET, "eip155:10", "btc:mainnet", "ots:pool")}
        assert found.keys() == wanted_ids
        job = found[f"_anchors/{TARGET}"]
        assert isinstance(job.action, Command)
        assert job.action.argv[-1] == "confirm"
        assert job.action.payload["target"] == TARGET
        assert {"EVM_RPC", "EVM_ANCHOR_KEY"} <= set(job.action.pass_env)
        assert "secret" not in repr(job)
        assert isinstance(job.trigger, Interval)
        assert job.trigger.every == 60_000

    def test_none_where_anchors_are_final_at_once_or_somebody_elses(self) -> None:
        assert jobs_of({"fast": "rfc3161:tsa"}) == {}
        assert jobs_of({"fast": TARGET, "strong": "btc:mainnet"}, more=", command: [mine]") == {}

    def test_the_entry_is_a_part_of_it(self) -> None:
        one = jobs_of({"fast": TARGET})[f"_anchors/{TARGET}"]
        assert one.revision == jobs_of({"fast": TARGET})[one.id].revision
        assert one.revision != jobs_of({"fast": "eip155:10"})["_anchors/eip155:10"].revision
