"""A place per test, emptied of processes at its end; and the shipped example, running."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Place

REPOSITORY = Path(__file__).parents[2]
SHIPPED = ("README.md", "docs", "config")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A copy of what is shipped, with a daemon that has anchored once."""
    root = tmp_path_factory.mktemp("checkout")
    for name in SHIPPED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, root / name)
    place = Place(root, {})
    try:
        daemon = _started(place)
        daemon.wait_line("anchor success", ns="demo:files", label="fast")
        yield daemon
    finally:
        place.close()


def _started(place: Place) -> Daemon:
    """On the port of the README; on any other if somebody has that one."""
    daemon = place.daemon()
    daemon.wait_until(lambda: daemon.lines("metrics/health server started") or not daemon.alive, "a start or an end")
    if daemon.alive:
        assert daemon.port == 9090
        return daemon
    assert daemon.wait() == 69
    place.environ["METRICS_PORT"] = "0"
    return place.daemon().ready()
