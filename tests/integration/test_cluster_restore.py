"""A store that lost everything gets back what an instance knew: of what was open, nobody knows whether it began."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.builders import cadence, run_of
from tests.support.dispatching import lock_value, take_lock
from tests.support.redis_keys import SharedRedis
from tests.support.redis_server import serving
from tests.support.world import ToldClock
from vmsh_scheduler import cluster
from vmsh_scheduler.cluster import Cluster
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.originals import Shown
from vmsh_scheduler.stores.redis.store import RedisStore, Shape, open_redis

JOB = cadence(id="ns/job")
RUN = run_of(JOB, 1_000)
DOUBTED = 41_000
OPEN, NONE = {RUN.id}, frozenset[str]()


class Stopped(Exception):
    """The process, at that step."""


@pytest.fixture
async def shared(tmp_path: Path) -> AsyncIterator[SharedRedis]:
    with serving(tmp_path / "redis") as server:
        yield SharedRedis(server, "{p}:q")


def opened(shared: SharedRedis, name: str) -> RedisStore:
    shape = Shape(name, 5_000, 15_000, DOUBTED, 30_000, 60_000, 100)
    return open_redis(shared.options, shape, ToldClock(), Shown())


@pytest.fixture
async def store(shared: SharedRedis) -> AsyncIterator[RedisStore]:
    """Of the leader."""
    ours = opened(shared, "a")
    await take_lock(ours.client, shared, "a", 7)
    for part in (ours.states, ours.specs, ours.dispatch):
        part.lead(lock_value("a", 7))
    await ours.specs.refresh()
    await ours.states.load()
    yield ours
    await ours.close()


@pytest.fixture
def stop_at(store: RedisStore, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    monkeypatch.setattr(cluster, "BEAT_S", 0)

    async def stopped(*_: Any, **__: Any) -> None:
        raise Stopped

    part, _, step = str(request.param).partition(".")
    if step:
        monkeypatch.setattr(type(getattr(store, part)), step, stopped)
    return request.param


@pytest.mark.parametrize(
    ("stop_at", "expected"),
    [
        ("nowhere", (OPEN, OPEN)),
        ("states.apply", (NONE, OPEN)),
        ("dispatch.presume_lost", (NONE, NONE)),
    ],
    indirect=["stop_at"],
)
async def test_no_open_run_comes_back_that_is_not_presumed_lost(
    shared: SharedRedis, store: RedisStore, stop_at: str, expected: object
) -> None:
    """Whoever leads next must not take it for never begun, wherever the one that restores is stopped."""
    app, told = SimpleNamespace(clock=ToldClock()), SimpleNamespace(tell=lambda *_: None)
    ours: Any = SimpleNamespace(store=store, troubles=told, app=app)
    with suppress(Stopped):
        await Cluster._restore(ours, {}, {JOB.id: JobState(runs=(RUN,))})
    other = opened(shared, "b")
    await other.states.refresh()
    assert (other.states.open_runs(), set(await store.dispatch.outcomes())) == expected
    await other.close()


async def test_what_may_be_forgotten_counts_as_claimed_for_as_long_as_the_shape_says(store: RedisStore) -> None:
    assert await store.dispatch.mend(["t1"]) == ["t1"]
    until = await store.client.zscore(store.keys.queue("").inflight, "t1")
    seconds, micros = await store.client.time()
    assert DOUBTED - 5_000 < until - seconds * 1_000 - micros // 1_000 <= DOUBTED
