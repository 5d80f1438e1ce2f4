"""Editing the files under a running daemon, in every way that editors, deployments and people do it."""

import os
import signal
from pathlib import Path

import pytest

from tests.support.config_faults import jobs
from tests.support.daemon import Daemon, Place, until
from tests.support.stubs import Stub, cadences, put_batch, stub

LOADED = "namespaces config loaded"
REJECTED = "config rejected"

ONE = cadences(fast="every: 1h")
TWO = cadences(fast="every: 1h", strong="every: 2h")
BROKEN = ONE.replace("every: 1h", "evry: 1h")


@pytest.fixture
def daemon(place: Place) -> Daemon:
    place.configure(ONE)
    return place.daemon().ready()


def replace_by_rename(path: Path, text: str) -> None:
    fresh = path.with_name("4913")
    fresh.write_text(text)
    fresh.replace(path)


def overwrite_in_place(path: Path, text: str) -> None:
    path.write_text(text)


def keep_a_backup(path: Path, text: str) -> None:
    """As vim does: the old file is moved away first."""
    path.rename(path.with_name("namespaces.yaml~"))
    path.write_text(text)


def test_an_edit_takes_effect_by_itself(daemon: Daemon) -> None:
    """Whichever way an editor has of writing a file."""
    edits = ((replace_by_rename, TWO, "added"), (overwrite_in_place, ONE, "removed"), (keep_a_backup, TWO, "added"))
    for number, (edit, text, what) in enumerate(edits, 1):
        edit(daemon.place.namespaces, text)
        line = daemon.wait_line(LOADED, after=number)
        assert (line[what], "changed" in line) == (["ns/strong"], False), edit.__name__
        assert set(jobs(daemon.place)) == ({"ns/fast", "ns/strong"} if text is TWO else {"ns/fast"})
    assert daemon.lines(REJECTED) == []
    daemon.stop()


def test_the_same_bytes_again_are_no_change(daemon: Daemon) -> None:
    replace_by_rename(daemon.place.namespaces, ONE)
    daemon.place.namespaces.touch()
    replace_by_rename(daemon.place.namespaces, TWO)
    daemon.wait_line(LOADED, after=1)
    assert len(daemon.lines(LOADED)) == 2
    daemon.stop()


def test_c1_a_file_that_is_being_written_is_waited_for(daemon: Daemon) -> None:
    """Grows in steps shorter than the watch's patience: only the whole of it is read, the halves are never refused."""
    text = TWO + "".join(f"# padding {n}\n" for n in range(200))
    with daemon.place.namespaces.open("w") as file:
        for start in range(0, len(text), 200):
            file.write(text[start : start + 200])
            file.flush()
            os.fsync(file.fileno())
    daemon.wait_line(LOADED, after=1)
    assert daemon.lines(REJECTED) == []
    assert set(jobs(daemon.place)) == {"ns/fast", "ns/strong"}
    daemon.stop()


def test_what_was_replaced_while_it_was_compiled_never_comes_into_force(place: Place) -> None:
    place.configure(TWO)
    daemon = place.daemon().ready()
    fast = "{fast: {target: 'local:t', every: 1h}}"
    late = "".join(f"  late{n}: {{cadence: {fast}}}\n" for n in range(3_000))
    replace_by_rename(place.namespaces, ONE + late)
    until(lambda: compiling(daemon), "a child that compiles")
    replace_by_rename(place.namespaces, TWO)
    daemon.wait_line("config changed again")
    reloaded = daemon.wait_line(LOADED, after=1)
    assert not {"added", "changed", "removed"} & reloaded.keys()
    assert set(jobs(place)) == {"ns/fast", "ns/strong"}
    daemon.stop()


def compiling(daemon: Daemon) -> bool:
    threads = Path(f"/proc/{daemon.pid}/task").iterdir()
    return any((thread / "children").read_text().strip() for thread in threads)


def test_c3_a_configmap_swap_is_seen(place: Place) -> None:
    """Kubernetes: the files are links into `..data`, itself a link that is replaced by rename."""
    place.configure(ONE)
    config = place.namespaces.parent
    for version, text in (("..v1", ONE), ("..v2", TWO)):
        (config / version).mkdir()
        (config / version / "namespaces.yaml").write_text(text)
    (config / "..data").symlink_to("..v1")
    place.namespaces.unlink()
    place.namespaces.symlink_to("..data/namespaces.yaml")
    daemon = place.daemon().ready()
    (config / "..data_tmp").symlink_to("..v2")
    (config / "..data_tmp").replace(config / "..data")
    line = daemon.wait_line(LOADED, after=1)
    assert line["added"] == ["ns/strong"]
    daemon.stop()


def test_sighup_reads_at_once(daemon: Daemon) -> None:
    replace_by_rename(daemon.place.namespaces, TWO)
    daemon.signal(signal.SIGHUP)
    daemon.wait_line(LOADED, after=1)
    assert set(jobs(daemon.place)) == {"ns/fast", "ns/strong"}
    daemon.stop()


def test_reload_command_says_what_is_wrong(daemon: Daemon) -> None:
    replace_by_rename(daemon.place.namespaces, BROKEN)
    refused = daemon.place.cli("reload")
    assert refused.code == 78
    assert "namespaces.yaml:4:" in refused.err
    assert "did you mean `every`?" in refused.err
    replace_by_rename(daemon.place.namespaces, TWO)
    assert daemon.place.cli("reload", "--json").ok().json["jobs"] == 2
    daemon.stop()


def test_a_bad_edit_leaves_the_last_good_one_in_force(daemon: Daemon) -> None:
    assert daemon.value("vmsh_config_last_reload_successful") == 1
    replace_by_rename(daemon.place.namespaces, BROKEN)
    line = daemon.wait_line(REJECTED)
    assert len(line["problems"]) == line["count"] > 0
    assert any("namespaces.yaml:4:" in problem and "evry" in problem for problem in line["problems"])

    health = daemon.get("/health")
    assert (health.status, health.json["status"]) == (200, "degraded")
    assert health.json["config"] == {"loaded": True, "valid": False}
    assert "evry" not in health.body, "the public listener tells no error texts"
    assert daemon.get("/health?strict=1").status == 503
    assert daemon.get("/readyz").status == 200
    assert daemon.value("vmsh_config_last_reload_successful") == 0
    assert daemon.value("vmsh_config_reloads_total", result="rejected") == 1
    shown = daemon.place.cli("status").ok()
    assert "evry" in shown.out
    assert set(jobs(daemon.place)) == {"ns/fast"}
    assert daemon.place.cli("status", "--check").code == 1

    replace_by_rename(daemon.place.namespaces, TWO)
    daemon.wait_line(LOADED, after=1)
    assert daemon.health()["status"] == "healthy"
    assert daemon.value("vmsh_config_last_reload_successful") == 1
    daemon.stop()


def test_the_same_mistake_is_said_once(daemon: Daemon) -> None:
    replace_by_rename(daemon.place.namespaces, BROKEN)
    daemon.wait_line(REJECTED)
    replace_by_rename(daemon.place.namespaces, BROKEN + "# saved again\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_until(
        lambda: (daemon.value("vmsh_config_reloads_total", result="rejected") or 0) >= 2, "the second refusal"
    )
    assert len(daemon.lines(REJECTED)) == 1
    replace_by_rename(daemon.place.namespaces, BROKEN.replace("evry", "evri"))
    daemon.wait_line(REJECTED, after=1)
    daemon.stop()


def test_going_back_to_the_file_in_force_recovers(daemon: Daemon) -> None:
    replace_by_rename(daemon.place.namespaces, BROKEN)
    daemon.wait_line(REJECTED)
    replace_by_rename(daemon.place.namespaces, ONE)
    daemon.wait_until(lambda: daemon.health()["status"] == "healthy", "health after going back")
    daemon.stop()


def test_an_unchanged_job_keeps_its_backoff_and_a_changed_one_starts_anew(place: Place) -> None:
    Stub(place).behave(exit=77)
    put_batch(place)
    place.configure(cadences(fast="every: 1h", strong="every: 1h"))
    daemon = place.daemon().ready()
    for level in ("fast", "strong"):
        daemon.wait_line("anchor failed", label=level)
    before = jobs(daemon.place)
    assert {row["failures_in_a_row"] for row in before.values()} == {1}

    place.configure(cadences(fast="every: 1h", strong="every: 2h", cold="every: 1d"))
    line = daemon.wait_line(LOADED, after=1)
    assert (line["changed"], line["added"]) == (["ns/strong"], ["ns/cold"])
    after = jobs(daemon.place)
    same = ("failures_in_a_row", "next", "started", "last_error")
    assert [after["ns/fast"][name] for name in same] == [before["ns/fast"][name] for name in same]
    daemon.wait_line("anchor failed", label="strong", after=1)
    assert len(daemon.lines("anchor failed", label="fast")) == 1
    daemon.stop()


def test_an_unchanged_job_does_not_fire_again(place: Place) -> None:
    put_batch(place)
    place.configure(ONE)
    daemon = place.daemon().ready()
    daemon.wait_line("anchor success", label="fast")
    place.configure(TWO)
    daemon.wait_line("anchor success", label="strong")
    assert len(Stub(place).calls(cadence="fast")) == 1
    daemon.stop()


def test_the_series_of_a_removed_job_go_with_it(place: Place) -> None:
    place.configure(TWO)
    daemon = place.daemon().ready()
    labels = {"namespace": "ns", "target": "local:t"}
    assert daemon.value("vmsh_anchors_attempted_total", cadence="strong", **labels) == 0
    place.configure(ONE)
    line = daemon.wait_line(LOADED, after=1)
    assert line["removed"] == ["ns/strong"]
    left = [labels for _, labels in daemon.samples() if ("cadence", "strong") in labels]
    assert left == []
    assert daemon.value("scheduler_anchors_attempted_total", cadence="fast", **labels) == 0
    assert daemon.place.cli("why", "ns/strong").code == 1
    daemon.stop()


def test_agents_are_reloaded_too(place: Place) -> None:
    agent = (
        "agents:\n  - {agentId: a1, walletAddress: 'kaspa:qq', cycleIntervalMs: 1000, status: %s, callback: {command: "
        + stub()
        + "}}\n"
    )
    place.configure(ONE, agents=agent % "PAUSED")
    daemon = place.daemon().ready()
    assert Stub(place).calls() == []
    place.configure(ONE, agents=agent % "RUNNING")
    daemon.wait_line("cycle success", agent="a1")
    daemon.stop()
