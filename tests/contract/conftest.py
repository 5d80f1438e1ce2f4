"""A real Redis for the contract suites: one server for all, a prefix for each test, and a look at what it leaves."""

import uuid
from collections.abc import Iterator

import pytest

from tests.support.redis_keys import SharedRedis, tidy
from tests.support.redis_server import RedisServer, serving


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with serving(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def shared_redis(redis_server: RedisServer) -> Iterator[SharedRedis]:
    with tidy(redis_server, f"t{uuid.uuid4().hex}") as shared:
        yield shared
