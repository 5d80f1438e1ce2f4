"""Health: the seed's shape, our rules, nothing secret."""

import json
from dataclasses import replace

import pytest

from tests.support.builders import NOON, agent, cadence, run_of
from vmsh_scheduler.domain.health import Condition, Health, Vitals, assess, namespace_backoff
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.state import JobState, Pause
from vmsh_scheduler.domain.trigger import Manual

FAST = cadence(89, id="dao:x/fast")
STRONG = cadence(3026, id="dao:x/strong")
LIMIT = 2 * 89_000 + FAST.policy.retry.longest()
WELL = Vitals(now=NOON, uptime_s=123.45, tick=10_000, last_tick=NOON - 5_000)
GOOD = JobState(first_seen=NOON - 10_000, last_success=NOON - 1_500)


def looked(*pairs: tuple[Job, JobState], vitals: Vitals = WELL) -> Health:
    return assess([job for job, _ in pairs], {job.id: state for job, state in pairs}, vitals)


def standing(state: JobState, job: Job = FAST) -> object:
    return looked((job, state)).body["namespaces"]["dao:x"]["status"]  # type: ignore[index] # a JSON body


def test_body_has_the_full_seed_shape() -> None:
    later = GOOD._replace(last_success=NOON - 60_000, level=2)
    health = looked((FAST, GOOD), (STRONG, later))
    assert health.condition is Condition.HEALTHY
    assert {key: health.body[key] for key in ("status", "uptime", "lastTick", "namespaces")} == {
        "status": "healthy",
        "uptime": 123.45,
        "lastTick": NOON - 5_000,
        "namespaces": {
            "dao:x": {
                "lastAnchor": {"fast": (NOON - 1_500) // 1000, "strong": (NOON - 60_000) // 1000},
                "backoff": 2,
                "status": "ok",
            }
        },
    }
    json.dumps(health.body)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (GOOD, "ok"),
        (JobState(), "ok"),
        (GOOD._replace(level=3), "ok"),
        (GOOD._replace(level=4), "backing_off"),
        (GOOD._replace(first_seen=0, last_success=NOON - LIMIT), "ok"),
        (GOOD._replace(first_seen=0, last_success=NOON - LIMIT - 1), "stale"),
        (JobState(first_seen=NOON - LIMIT), "ok"),
        (JobState(first_seen=NOON - LIMIT - 1), "stale"),
        (JobState(first_seen=0, newest_slot=NOON - 1_000), "ok"),
        (JobState(first_seen=0, newest_slot=NOON + 10**9), "stale"),
        (JobState(first_seen=0, pause=Pause(NOON)), "ok"),
        (JobState(first_seen=0, level=9), "backing_off"),
    ],
)
def test_standing_of_a_cadence(state: JobState, expected: str) -> None:
    assert standing(state) == expected


def test_disabled_and_manual_jobs_do_not_go_stale() -> None:
    old = JobState(first_seen=0)
    assert standing(old, replace(FAST, enabled=False)) == "ok"
    assert standing(old, replace(FAST, trigger=Manual())) == "ok"


def test_one_bad_cadence_marks_its_namespace_and_a_good_one_does_not_hide_it() -> None:
    health = looked((FAST, GOOD), (STRONG, GOOD._replace(level=12)))
    assert health.body["namespaces"] == {
        "dao:x": {
            "lastAnchor": {"fast": (NOON - 1_500) // 1000, "strong": (NOON - 1_500) // 1000},
            "backoff": 7,
            "status": "backing_off",
        }
    }
    assert health.condition is Condition.DEGRADED


def test_namespaces_come_from_the_config() -> None:
    states = {"gone/fast": GOOD._replace(level=9)}
    assert assess([FAST], states, WELL).body["namespaces"] == {
        "dao:x": {"lastAnchor": {}, "backoff": 0, "status": "ok"}
    }


@pytest.mark.parametrize(
    ("vitals", "expected"),
    [
        (WELL, "healthy"),
        (replace(WELL, last_tick=NOON - 60_000), "healthy"),
        (replace(WELL, last_tick=NOON - 60_001), "unhealthy"),
        (replace(WELL, tick=30_000, last_tick=NOON - 90_000), "healthy"),
        (replace(WELL, tick=30_000, last_tick=NOON - 90_001), "unhealthy"),
        (replace(WELL, last_tick=None, uptime_s=59.0), "healthy"),
        (replace(WELL, last_tick=None, uptime_s=61.0), "unhealthy"),
        (replace(WELL, config_loaded=False), "unhealthy"),
        (replace(WELL, state_writable=False), "unhealthy"),
        (replace(WELL, state_saved=False), "degraded"),
        (replace(WELL, config_valid=False), "degraded"),
        (replace(WELL, clock_sane=False), "degraded"),
        (replace(WELL, state_origin="lost"), "degraded"),
        (replace(WELL, state_origin="recovered"), "degraded"),
        (replace(WELL, state_origin="fresh"), "healthy"),
    ],
)
def test_condition_of_the_process(vitals: Vitals, expected: str) -> None:
    assert looked((FAST, GOOD), vitals=vitals).body["status"] == expected


@pytest.mark.parametrize("state", [GOOD._replace(held="run-1"), GOOD._replace(last_status="unknown")])
def test_a_held_or_unknown_run_degrades(state: JobState) -> None:
    assert looked((FAST, state)).condition is Condition.DEGRADED


@pytest.mark.parametrize(
    ("condition", "plain", "strict"),
    [(Condition.HEALTHY, 200, 200), (Condition.DEGRADED, 200, 503), (Condition.UNHEALTHY, 503, 503)],
)
def test_http_status(condition: Condition, plain: int, strict: int) -> None:
    health = Health(condition, {})
    assert (health.http_status(), health.http_status(strict=True)) == (plain, strict)


def test_agents_are_counted_apart() -> None:
    job, idle = agent(), agent(id="_agents/u/b")
    failing = JobState(level=4, runs=(run_of(job, NOON),))
    health = looked((job, failing), (idle, JobState(pause=Pause(NOON))))
    assert health.body["namespaces"] == {}
    assert health.body["agents"] == {"count": 2, "running": 1, "paused": 1, "failing": 1}
    assert health.body["runs"] == {"running": 1, "unknown": 0, "held": 0, "paused": 1}
    assert health.condition is Condition.HEALTHY


def test_no_error_text_and_no_path_in_the_body() -> None:
    state = GOOD._replace(level=5, last_error="canary at /etc/secret", result={"path": "/canary"}, held="run-canary")
    assert "canary" not in json.dumps(looked((FAST, state)).body)


def test_namespace_backoff_is_the_highest_of_its_cadences() -> None:
    states = {FAST.id: JobState(level=2), STRONG.id: JobState(level=5)}
    assert namespace_backoff([FAST, STRONG, agent()], states) == {"dao:x": 5}
