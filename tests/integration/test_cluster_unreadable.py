"""A state that cannot be read may come back: what is kept for its runs waits for it."""

from typing import Any

import pytest

from tests.support.daemon import until
from tests.support.fixtures import cluster, consumer, durable, upstream
from tests.support.forge import Stub
from tests.support.instances import Instances
from tests.support.redis_server import RedisServer
from vmsh_scheduler.stores.redis.keys import Keys

__all__ = ["cluster", "consumer", "durable", "upstream"]

KEYS = Keys("forgeos:scheduler")
JOB, RUN = "_agents/user-123/one", "its run"
FORMER = "0" * 40
"""The server's history, as if it had been started again since."""


@pytest.fixture
def redis(durable: RedisServer) -> RedisServer:
    return durable.start()


def held_for_it(client: Any) -> tuple[bool, bool]:
    """The outcome of its run, and the doubt whether the server has forgotten something."""
    return client.hexists(KEYS.outcomes, RUN), client.hget(KEYS.meta, "history") == FORMER


def test_the_first_history_is_settled_also_while_a_state_cannot_be_read(cluster: Instances) -> None:
    """Or a later restart of the server would not be seen."""
    with cluster.redis.client() as client:
        client.hset(KEYS.states, JOB, "junk")
        cluster.start("a")
        until(lambda: client.hexists(KEYS.meta, "history"), "its name")


def test_outcomes_and_doubts_wait_while_a_state_cannot_be_read(cluster: Instances, consumer: Stub) -> None:
    cluster.start("a")
    for id in ("one", "two"):
        cluster["a"].register(id=id, cycleIntervalMs=1_000, callbackUrl=f"{consumer.url}/{id}")
    until(lambda: consumer.at("/one"), "a cycle")
    cluster["a"].daemon.kill()
    with cluster.redis.client() as client:
        whole = client.hget(KEYS.states, JOB)
        client.hset(KEYS.states, JOB, "junk")
        client.hset(KEYS.outcomes, RUN, "{}")
        client.hset(KEYS.meta, "history", FORMER)
        before = len(consumer.at("/two"))
        cluster.start("a")
        until(lambda: len(consumer.at("/two")) >= before + 3, "cycles, so looks at outcomes")
        assert held_for_it(client) == (True, True)
        cluster["a"].daemon.kill()
        client.hset(KEYS.states, JOB, whole)
        cluster.start("a")
        until(lambda: held_for_it(client) == (False, False), "the term that can read them all")
