"""A real Redis for the contract suites: one server for all, a prefix for each test, and a look at what it leaves."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.redis_keys import SharedRedis, leftovers
from tests.support.redis_server import RedisServer, serving


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def shared_redis(redis_server: RedisServer) -> Iterator[SharedRedis]:
    """Afterwards every key has a TTL or stands on the list of permanent ones, and all are removed."""
    shared = SharedRedis(redis_server, f"t{uuid.uuid4().hex}")
    yield shared
    with shared.reader() as client:
        left = leftovers(client, shared.keys.prefix)
        client.flushdb()
    assert left == []
