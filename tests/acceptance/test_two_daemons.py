"""One daemon per state directory, whatever the second one is called."""

import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.daemon import Daemon, Place
from tests.support.stubs import Stub, cadences, put_batch


def test_l1_the_second_one_ends_and_names_the_first(place: Place) -> None:
    place.configure(cadences(fast="every: 1h"))
    first = place.daemon().ready()
    second = place.daemon()
    assert second.wait() == 75
    assert str(first.pid) in second.text()
    assert "vmsh-scheduler run" in second.text()
    assert f"host {socket.gethostname()}, since 20" in second.text()
    assert "Traceback" not in second.text()
    assert first.health()["status"] == "healthy"
    first.stop()


def test_l7_a_link_to_the_state_is_the_same_state(place: Place) -> None:
    place.configure(cadences(fast="every: 1h"))
    first = place.daemon().ready()
    (place.root / "elsewhere").symlink_to("state")
    second = place.daemon("--state", str(place.root / "elsewhere" / "scheduler.json"))
    assert second.wait() == 75, second.text()
    first.stop()


def test_l3_the_lock_goes_with_its_holder(place: Place) -> None:
    """After kill -9 nothing has to be removed by hand, and nobody advises it."""
    place.configure(cadences(fast="every: 1h"))
    first = place.daemon().ready()
    first.signal(signal.SIGKILL)
    first.wait()
    second = place.daemon().ready()
    second.stop()
    assert "scheduler.lock" not in second.text()


def test_l4_a_lock_file_that_is_deleted_lets_no_second_daemon_in(place: Place) -> None:
    place.configure(cadences(fast="every: 1h"))
    first = place.daemon().ready()
    lock = place.state.parent / "scheduler.lock"
    lock.unlink()
    second = place.daemon()
    assert second.wait() == 75
    first.wait_until(lambda: lock.exists() and str(first.pid) in lock.read_text(), "a new lock file")
    assert place.daemon().wait() == 75
    assert first.health()["status"] == "healthy"
    first.stop()


def moved(state: Path) -> Path:
    return state.rename(state.with_name("moved"))


def removed(state: Path) -> None:
    """At once for whoever looks by name; the daemon may be writing into it."""
    shutil.rmtree(moved(state), ignore_errors=True)


@pytest.mark.parametrize("how", [moved, removed])
def test_l4_a_daemon_whose_state_is_replaced_stops(place: Place, how: Callable[[Path], object]) -> None:
    """Two daemons on one path would be possible from then on. That nothing can be saved any more is not the news."""
    place.configure(cadences(fast="every: 1h"))
    daemon = place.daemon().ready()
    how(place.state.parent)
    assert daemon.wait() == 75
    assert "moved or replaced" in daemon.text().splitlines()[-1]


def test_l7_two_roots_do_not_disturb_each_other(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other")
    try:
        daemons: list[Daemon] = []
        for one in (place, other):
            one.configure(cadences(fast="every: 1h"))
            put_batch(one)
            daemons.append(one.daemon().ready())
        for daemon in daemons:
            daemon.wait_line("anchor success")
            assert len(Stub(daemon.place).calls()) == 1
            daemon.stop()
    finally:
        other.close()


def test_h9_a_busy_port_ends_the_program_with_what_to_do(place: Place) -> None:
    place.configure(cadences(fast="every: 1h"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        daemon = place.daemon(env={"METRICS_PORT": str(port)})
        assert daemon.wait() == 69
    assert f"127.0.0.1:{port}" in daemon.text()
    assert "METRICS_PORT" in daemon.text()
    assert "Traceback" not in daemon.text()
    place.daemon().ready().stop()


def test_l5_no_descriptor_of_the_daemon_reaches_a_command(place: Place) -> None:
    """The lock above all: a command that kept it would lock out the next daemon."""
    place.configure(cadences(fast="every: 1h"))
    put_batch(place)
    hold = place.write("hold", "")
    Stub(place).behave(hold="hold")
    daemon = place.daemon().ready()
    (call,) = daemon.wait_until(lambda: Stub(place).calls(), "the command's start")
    state = place.state.parent
    open_files = {entry.readlink() for entry in Path(f"/proc/{call['pid']}/fd").iterdir()}
    ours = {path for path in open_files if path.is_relative_to(state)}
    assert {path.parent.name for path in ours} <= {"runs"}, ours
    assert not any("socket" in str(path) for path in open_files)
    hold.unlink()
    daemon.wait_line("anchor success")
    daemon.stop()
