"""A tick with nothing to do writes nothing; in every doubt it is a whole one."""

import time
from collections.abc import Callable

import pytest

from tests.support.daemon import Place
from tests.support.stubs import Stub, cadences, put_batch

HOURLY = cadences(fast="every: 1h", strong="every: 2h")


@pytest.fixture
def rested(place: Place) -> Place:
    """Everything has run, and the tick that did it has closed well."""
    place.configure(HOURLY)
    put_batch(place)
    assert place.cli("tick", "--json").ok().json["succeeded"] == 2
    return place


def written(place: Place) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_mtime_ns, path.stat().st_ino) for path in place.state.parent.iterdir()}


def test_nothing_due_writes_nothing(rested: Place) -> None:
    before = written(rested)
    done = rested.cli("tick").ok()
    assert done.err == "0 run: 0 ok, 0 failed\n"
    assert rested.cli("tick", "--json").ok().json == {
        "started": 0,
        "succeeded": 0,
        "failed": 0,
        "unknown": 0,
        "findings": [],
    }
    assert written(rested) == before


def another_setting(place: Place) -> None:
    """The jobs' revisions change, though their files do not."""
    place.configure(HOURLY, scheduler="max_backoff: 3\n")


def another_file(place: Place) -> None:
    place.configure(HOURLY + "# a comment\n")


def a_log_that_no_snapshot_has(place: Place) -> None:
    """As a kill leaves it."""
    for path in place.state.parent.glob("scheduler.*.wal"):
        with path.open("ab") as log:
            log.write(b"torn")


@pytest.mark.parametrize("change", [another_setting, another_file, a_log_that_no_snapshot_has])
def test_a_doubt_makes_it_a_whole_one(rested: Place, change: Callable[[Place], None]) -> None:
    change(rested)
    before = written(rested)
    rested.cli("tick").ok()
    assert written(rested) != before
    after = written(rested)
    rested.cli("tick").ok()
    assert written(rested) == after, "and the next one rests again"


def test_what_has_come_due_runs(place: Place) -> None:
    place.configure(cadences(fast="every: 1s, reanchor: true"))
    put_batch(place)
    place.cli("tick").ok()
    began = len(Stub(place).calls())
    deadline = time.monotonic() + 30
    while len(Stub(place).calls()) == began:
        assert time.monotonic() < deadline
        place.cli("tick").ok()


def test_beside_a_daemon_it_is_refused(rested: Place) -> None:
    daemon = rested.daemon().ready()
    assert rested.cli("tick").code == 75
    assert rested.cli("tick", "--quiet-if-running").code == 0
    daemon.stop()


def test_a_configuration_that_went_wrong_is_told(rested: Place) -> None:
    rested.configure("namespaces: 5\n")
    done = rested.cli("tick")
    assert done.code == 78
    assert "namespaces.yaml:1:" in done.err
