"""Forge.OS contract, section 12, and what must not wait for whom: a full queue, saturation, turns of users, anchors."""

from collections.abc import Iterator

import pytest

from tests.support.contract import World, error, world
from tests.support.daemon import Place, until
from tests.support.stubs import cadences, put_batch


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One cycle at a time, and two that may wait."""
    with world(
        tmp_path_factory.mktemp("small"),
        SCHEDULER_CYCLE_CONCURRENCY="1",
        SCHEDULER_MAX_QUEUE="2",
        SCHEDULER_MAX_AGENTS="6",
        SCHEDULER_CALLBACK_TIMEOUT_MS="25000",
        SCHEDULER_TICK_MS="250",
    ) as made:
        yield made


def test_a_full_queue_is_saturated_and_turns_three_of_six_away(small: World) -> None:
    gates = [small.consumer.hold(f"/{n}") for n in range(6)]
    for n in range(6):
        small.register(id=f"q{n}", cycleIntervalMs=60_000, callbackUrl=small.hook(f"/{n}"))
    assert small.register(id="q6").json == {"error": {"message": "max_agents_reached"}}
    assert small.register(id="q5", cycleIntervalMs=60_000, callbackUrl=small.hook("/5")).status == 200
    until(lambda: small.metric("queue_full_total") == 3, "three that are turned away")
    load = small.api.get("/v1/telemetry-summary")["scheduler"]
    assert load == {
        "queueDepth": 2, "queueCapacity": 2, "inFlight": 1, "concurrency": 1, "saturated": True,
        "saturationProxyPct": 100, "redisAuthoritativeQueue": False, "redisExecQueue": None,
    }  # fmt: skip
    assert small.metric("saturation_events_total") == 1
    assert (small.metric("cycle_queue_depth"), small.metric("cycle_in_flight")) == (2, 1)
    agents = small.api.get("/v1/agents")["agents"]
    away = [agent for agent in agents if agent["lastDispatch"]]
    assert [agent["queuePending"] for agent in agents].count(True) == 2
    assert len(away) == 3
    for agent in away:
        assert list(agent["lastDispatch"]) == ["ok", "ts", "error"]
        assert (agent["lastDispatch"]["ok"], agent["lastDispatch"]["error"]) == (False, "scheduler_queue_full")
        assert agent["nextRunAt"] == agent["lastDispatch"]["ts"] + 3_000
        assert agent["failureCount"] == 1
    for gate in gates:
        gate.set()
    until(lambda: all(small.consumer.at(f"/{n}") for n in range(6)), "all six")
    until(lambda: small.metric("dispatch_completed_total") == 6, "six that went well")
    assert [agent["failureCount"] for agent in small.api.get("/v1/agents")["agents"]] == [0] * 6
    assert small.api.get("/v1/telemetry-summary")["scheduler"]["saturated"] is False


def test_error_table_max_agents_reached(small: World) -> None:
    """Of new ones only."""
    for n in range(6):
        assert small.register(id=f"m{n}", status="PAUSED").status == 200
    assert error(small.register(id="m6")) == (400, {"message": "max_agents_reached"})
    assert small.register(id="m0", status="PAUSED").status == 200


def _anchors(place: Place) -> None:
    put_batch(place)
    place.configure(cadences(fast="every: 1s, reanchor: true"))


def test_d5_w7_one_user_s_many_agents_delay_no_other_s_few_and_no_anchor(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with world(
        tmp_path_factory.mktemp("turns"),
        _anchors,
        SCHEDULER_CYCLE_CONCURRENCY="1",
        SCHEDULER_CALLBACK_TIMEOUT_MS="25000",
        SCHEDULER_TICK_MS="250",
    ) as it:
        gate = it.consumer.hold("/many-0")
        for n in range(40):
            it.register("many", id=f"{n}", cycleIntervalMs=60_000, callbackUrl=it.hook(f"/many-{n}"))
        until(lambda: it.consumer.at("/many-0"), "the one that hangs")
        for n in range(3):
            it.register("few", id=f"{n}", cycleIntervalMs=60_000, callbackUrl=it.hook(f"/few-{n}"))
        until(lambda: it.api.get("/v1/telemetry-summary")["scheduler"]["queueDepth"] == 42, "all to be due")
        anchored = len(it.daemon.lines("anchor success"))
        it.daemon.wait_line("anchor success", after=anchored + 1)
        assert len(it.consumer.received) == 1
        gate.set()
        until(lambda: len(it.consumer.received) == 43, "every cycle")
        order = [post.path for post in it.consumer.received]
        assert max(order.index(f"/few-{n}") for n in range(3)) <= 6
