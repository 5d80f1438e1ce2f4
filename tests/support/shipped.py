"""What is shipped, copied into a root of its own, with a daemon that has anchored once."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.daemon import Daemon, Place

REPOSITORY = Path(__file__).parents[2]
SHIPPED = ("README.md", "docs", "config")
ANY_PORT: Mapping[str, str] = {"METRICS_PORT": "0", "PORT": "0"}


@contextmanager
def shipped(root: Path, environ: Mapping[str, str]) -> Iterator[Daemon]:
    """On the printed ports; on any others if somebody has one of those."""
    for name in SHIPPED:
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy2
        copy(REPOSITORY / name, root / name)
    place = Place(root, dict(environ))
    try:
        daemon = _started(place)
        daemon.wait_line("anchor success", ns="demo:files", label="fast")
        yield daemon
    finally:
        place.close()


def _started(place: Place) -> Daemon:
    daemon = place.daemon()
    last = "api started" if "PORT" in place.environ else "metrics/health server started"
    daemon.wait_until(lambda: daemon.lines(last) or not daemon.alive, "a start or an end")
    if daemon.alive:
        assert daemon.port == 9090
        return daemon
    assert daemon.wait() == 69
    place.environ.update({name: port for name, port in ANY_PORT.items() if name in {"METRICS_PORT", *place.environ}})
    return place.daemon().ready()
