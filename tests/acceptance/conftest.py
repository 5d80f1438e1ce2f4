"""A place per test, emptied of processes at its end; and the shipped example, running."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Place
from tests.support.fixtures import authorities, cluster, consumer, durable, places, redis, tsa, upstream
from tests.support.shipped import shipped

__all__ = ["authorities", "cluster", "consumer", "durable", "places", "redis", "tsa", "upstream"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A copy of what is shipped, with a daemon that has anchored once."""
    with shipped(tmp_path_factory.mktemp("checkout"), {}) as daemon:
        yield daemon
