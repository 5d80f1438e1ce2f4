"""Fixtures of more than one directory: each conftest names those that its tests may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import UNMEASURED
from tests.support.faults import Site, site
from tests.support.forge import Stub, stub
from tests.support.instances import Instances
from tests.support.redis_server import RedisServer, serving
from tests.support.tsa import Tsa, make_authorities
from tests.support.tsa import serving as stamping


@pytest.fixture
def upstream() -> Iterator[Stub]:
    with stub() as made:
        yield made


@pytest.fixture
def consumer() -> Iterator[Stub]:
    with stub() as made:
        yield made


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with serving(tmp_path / "redis") as server:
        yield server


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """Not started, and loses nothing that it has confirmed: a module whose `redis` it shall be says so."""
    made = RedisServer(tmp_path / "redis", "--appendonly", "yes", "--appendfsync", "always")
    yield made
    made.stop()


@pytest.fixture
def cluster(tmp_path: Path, redis: RedisServer, upstream: Stub) -> Iterator[Instances]:
    """None is started; a module may give it other settings first, in a fixture of this name over this one. Its daemons
    are not measured: those of test_cluster and test_cluster_commands are."""
    made = Instances(tmp_path, redis, upstream, env=UNMEASURED)
    yield made
    made.close()


@pytest.fixture
def places(tmp_path: Path) -> Iterator[tuple[Site, Site]]:
    """One for the storm, one beside it."""
    made = site(tmp_path / "here"), site(tmp_path / "beside")
    yield made
    for each in made:
        each.place.close()


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_authorities(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def tsa(authorities: Path) -> Iterator[Tsa]:
    with stamping(authorities) as found:
        yield found
