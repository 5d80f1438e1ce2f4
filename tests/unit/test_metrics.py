"""Metrics: both prefixes from one set of values, zeros at idle, bounded labels."""

from collections.abc import Iterable
from dataclasses import replace

from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.builders import NOON, agent, cadence, run_of
from vmsh_scheduler.domain.decision import Decision, Reason, Verdict
from vmsh_scheduler.domain.events import (
    ClockStepped,
    ConfigRejected,
    Decided,
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
from vmsh_scheduler.domain.run import Execution, Outcome, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.observe.metrics import TROUBLE_LIMIT, Extra, Metrics

JOB = replace(
    cadence(89, id="dao:vaultmesh:/fast"),
    labels={"namespace": "dao:vaultmesh:", "cadence": "fast", "target": "eip155:8453"},
)
LABELS = 'cadence="fast",namespace="dao:vaultmesh:",target="eip155:8453"'
ENDED = 'cadence="fast",namespace="dao:vaultmesh:",status="{}",target="eip155:8453"'
Samples = dict[str, float]


def fresh() -> Metrics:
    return Metrics(version="1.2.3", python="3.11.7")


def scraped(metrics: Metrics, jobs: Iterable[Job] = (JOB,), states: dict[str, JobState] | None = None) -> Samples:
    text, content_type = metrics.render(metrics.take(jobs, states or {}, NOON, Extra()))
    assert content_type.startswith("text/plain; version=")
    return samples(text)


def samples(text: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            key = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert key not in found
            found[key] = sample.value
    return found


def finished(status: Status, took_ms: int = 2_000, job: Job = JOB) -> Finished:
    run = run_of(job, NOON)
    return Finished(job, Execution(run, Outcome(status), NOON + took_ms), JobState())


def test_idle_block_of_the_deployment_guide() -> None:
    metrics = fresh()
    metrics.observe(Ticked(1_729_686_420_000, 0, 0, 0))
    block = """
scheduler_anchors_attempted_total{namespace="dao:vaultmesh:",cadence="fast",target="eip155:8453"} 0
scheduler_backoff_state{namespace="dao:vaultmesh:"} 0
scheduler_last_tick_timestamp_seconds 1729686420
"""
    found = scraped(metrics)
    assert samples(block.encode()).items() <= found.items()


def test_every_name_of_the_contract_under_both_prefixes_with_equal_values() -> None:
    metrics = fresh()
    metrics.observe(Ticked(NOON, 1, 2, 3))
    metrics.observe(finished(Status.OK))
    metrics.observe(finished(Status.FAILED, 700))
    state = JobState(started=5, succeeded=3, failed=2, level=9)
    found = scraped(metrics, states={JOB.id: state})
    expected = {
        f"anchors_attempted_total{{{LABELS}}}": 5,
        f"anchors_succeeded_total{{{LABELS}}}": 3,
        f"anchors_failed_total{{{LABELS}}}": 2,
        'backoff_state{namespace="dao:vaultmesh:"}': 7,
        "last_tick_timestamp_seconds": NOON / 1000,
        f"anchor_duration_seconds_count{{{ENDED.format('success')}}}": 1,
        f"anchor_duration_seconds_sum{{{ENDED.format('failure')}}}": 0.7,
    }
    for prefix in ("vmsh_", "scheduler_"):
        assert {name: found[prefix + name] for name in expected} == expected
    twins = {name.removeprefix("scheduler_") for name in found if name.startswith("scheduler_")}
    assert all(found["vmsh_" + name] == found["scheduler_" + name] for name in twins)


def test_duration_buckets_reach_from_a_tenth_to_ten_minutes() -> None:
    metrics = fresh()
    for took in (100, 101, 600_000, 600_001):
        metrics.observe(finished(Status.OK, took))
    name = "vmsh_anchor_duration_seconds_bucket"
    labels = 'cadence="fast",le="{}",namespace="dao:vaultmesh:",status="success",target="eip155:8453"'
    found = scraped(metrics)
    assert [found[f"{name}{{{labels.format(le)}}}"] for le in ("0.1", "0.25", "600.0", "+Inf")] == [1, 2, 3, 4]


def test_histograms_appear_at_their_first_observation_and_nothing_is_called_created() -> None:
    found = scraped(fresh())
    assert not [name for name in found if "_bucket" in name or name.split("{")[0].endswith("_created")]
    metrics = fresh()
    metrics.observe(Started(JOB, run_of(JOB, NOON), 7))
    delay = 'vmsh_start_delay_seconds_bucket{cadence="fast",le="0.01",namespace="dao:vaultmesh:"}'
    assert scraped(metrics)[delay] == 1


def test_series_of_a_removed_cadence_are_gone_and_do_not_come_back_with_old_values() -> None:
    metrics = fresh()
    metrics.observe(Started(JOB, run_of(JOB, NOON), 7))
    metrics.observe(finished(Status.OK))
    assert not [name for name in scraped(metrics, jobs=()) if "dao:vaultmesh:" in name]
    metrics.observe(Synced(NOON, "h", removed=(JOB.id,)))
    assert not [name for name in scraped(metrics) if "_bucket" in name]


def test_agents_share_one_series_whatever_their_number() -> None:
    metrics = fresh()
    jobs = [agent(id=f"_agents/u/{n}") for n in range(50)]
    for job in jobs:
        metrics.observe(Started(job, run_of(job, NOON), 1))
        metrics.observe(finished(Status.FAILED, job=job))
    found = scraped(metrics, jobs=jobs)
    assert found['vmsh_start_delay_seconds_count{cadence="cycle",namespace="_agents"}'] == 50
    assert found["vmsh_agents"] == 50
    assert found['vmsh_runs_total{status="failed"}'] == 50
    assert not [name for name in found if "anchors_" in name]


def test_counters_of_everything_else() -> None:
    metrics = fresh()
    before = scraped(metrics)
    skipped = Decision(JOB.id, NOON, Verdict.SKIPPED, Reason.NO_BATCH, NOON, count=3, step=1)
    for event in (
        Decided(JOB, skipped),
        finished(Status.UNKNOWN),
        finished(Status.SUPERSEDED),
        Synced(NOON, "h"),
        ConfigRejected(NOON, ("x",)),
        ClockStepped(NOON, 5_000),
        StateFailed(NOON, "full"),
        StateRestored(NOON),
        Recovered(NOON, finished=2, unknown=1),
        Trouble(NOON, "bad_batch"),
    ):
        metrics.observe(event)
    metrics.wrote_state(0.25)
    expected = {
        'vmsh_decisions_total{reason="no_batch",verdict="skipped"}': 3,
        'vmsh_runs_total{status="unknown"}': 1,
        'vmsh_runs_total{status="superseded"}': 1,
        "vmsh_runs_unknown_total": 1,
        'vmsh_config_reloads_total{result="applied"}': 1,
        'vmsh_config_reloads_total{result="rejected"}': 1,
        "vmsh_clock_steps_total": 1,
        "vmsh_state_write_errors_total": 1,
        'vmsh_runs_recovered_total{result="finished"}': 2,
        "vmsh_state_write_seconds_count": 1,
        "vmsh_state_write_seconds_sum": 0.25,
    }
    assert {name: before[name] for name in expected} == dict.fromkeys(expected, 0)
    after = scraped(metrics)
    assert {name: after[name] for name in expected} == expected
    assert after["vmsh_config_last_reload_successful"] == 0
    assert after["vmsh_config_last_reload_success_timestamp_seconds"] == NOON / 1000
    assert after['vmsh_troubles_total{what="bad_batch"}'] == 1


def test_gauges_come_from_the_states() -> None:
    state = JobState(last_success=NOON - 500, held="run-1", runs=(run_of(JOB, NOON),))
    found = scraped(fresh(), states={JOB.id: state})
    assert found[f"vmsh_last_success_timestamp_seconds{{{LABELS}}}"] == (NOON - 500) / 1000
    assert found[f"vmsh_cadence_period_seconds{{{LABELS}}}"] == 89
    assert (found["vmsh_runs_running"], found["vmsh_runs_held"], found["vmsh_jobs_paused"]) == (1, 1, 0)


def test_extra_wins_over_what_events_said() -> None:
    metrics = fresh()
    metrics.observe(Ticked(NOON, 0, 4, 0))
    extra = Extra(last_tick=NOON + 1_000, ready=9, config_valid=False, state_writes=3, state_write_seconds=1.5)
    found = samples(metrics.render(metrics.take([JOB], {}, NOON, extra))[0])
    assert found["vmsh_last_tick_timestamp_seconds"] == NOON / 1000 + 1
    assert (found["vmsh_ready_depth"], found["vmsh_config_last_reload_successful"]) == (9, 0)
    assert (found["vmsh_state_write_seconds_count"], found["vmsh_state_write_seconds_sum"]) == (3, 1.5)


def test_build_and_process() -> None:
    found = scraped(fresh())
    assert found['vmsh_build_info{python="3.11.7",version="1.2.3"}'] == 1
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"):
        assert found[name] > 0


def test_a_scrape_in_openmetrics() -> None:
    metrics = fresh()
    metrics.observe(finished(Status.OK))
    text, content_type = metrics.render(metrics.take([JOB], {}, NOON, Extra()), "application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics(text.decode())}
    assert {"vmsh_anchors_attempted", "scheduler_anchor_duration_seconds"} <= names


def test_hostile_label_values_are_escaped() -> None:
    name = 'a"b\\c\n\ud800'
    job = replace(JOB, labels={**JOB.labels, "namespace": name})
    text = fresh().render(fresh().take([job], {}, NOON, Extra()))[0].decode()
    assert 'namespace="a\\"b\\\\c\\n\\\\ud800"' in text


def test_trouble_labels_are_bounded() -> None:
    metrics = fresh()
    for number in range(TROUBLE_LIMIT + 10):
        metrics.observe(Trouble(NOON, f"t{number}"))
    found = [name for name in scraped(metrics) if name.startswith("vmsh_troubles_total")]
    assert len(found) == TROUBLE_LIMIT + 1
