"""`tick`: the whole program for one look at the agenda, as cron would start it."""

import json

from tests.support.daemon import Place
from tests.support.stubs import Stub, cadences, put_batch

HOURLY = cadences(fast="every: 1h")


def test_it_runs_what_is_due_and_then_nothing(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    first = place.cli("tick", "--json").ok()
    assert first.json == {"started": 1, "succeeded": 1, "failed": 0, "unknown": 0, "findings": []}
    assert place.cli("tick", "--json").ok().json["started"] == 0
    assert len(Stub(place).calls()) == 1
    assert place.cli("status", "--json").ok().json["jobs"][0]["succeeded"] == 1


def test_it_runs_every_job_that_is_due(place: Place) -> None:
    place.configure(cadences(fast="every: 1h", strong="every: 2h", cold="every: 1d"))
    put_batch(place)
    assert place.cli("tick", "--json").ok().json["started"] == 3


def test_a_due_cadence_without_a_batch_is_no_failure(place: Place) -> None:
    place.configure(HOURLY)
    assert place.cli("tick", "--json").ok().json["started"] == 0
    (row,) = place.cli("history", "--json").ok().json["decisions"]
    assert (row["verdict"], row["reason"]) == ("skipped", "no_batch")


def test_a_failed_command_is_exit_1_and_its_backoff_is_kept(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    Stub(place).behave(exit=69, stderr="connection refused")
    failed = place.cli("tick", "--json")
    assert failed.code == 1
    assert (failed.json["started"], failed.json["failed"]) == (1, 1)
    again = place.cli("tick", "--json").ok()
    assert again.json["started"] == 0, "the backoff has not passed"
    why = place.cli("why", "ns/fast", "--json").ok().json
    assert (why["verdict"], why["reason"]) == ("will", "backoff")
    assert why["at"] > why["now"]


def test_messages_go_to_stderr_and_the_result_to_stdout(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    done = place.cli("tick").ok()
    assert done.out == ""
    assert "1 run: 1 ok, 0 failed" in done.err
    assert any(json.loads(line)["msg"] == "anchor success" for line in done.err.splitlines() if line[:1] == "{")


def test_beside_a_daemon_it_does_nothing_and_says_whose(place: Place) -> None:
    place.configure(HOURLY)
    daemon = place.daemon().ready()
    put_batch(place)
    refused = place.cli("tick")
    assert refused.code == 75
    assert refused.out == ""
    assert "nothing done" in refused.err
    assert str(daemon.pid) in refused.err
    assert "Traceback" not in refused.err
    quiet = place.cli("tick", "--quiet-if-running")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    assert Stub(place).calls() == []
    daemon.stop()


def test_a_daemon_goes_on_where_a_tick_ended(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    place.cli("tick").ok()
    daemon = place.daemon().ready()
    assert daemon.value("vmsh_anchors_succeeded_total", namespace="ns", cadence="fast", target="local:t") == 1
    daemon.stop()
    assert len(Stub(place).calls()) == 1


def test_lost_state_is_for_a_person_to_judge(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    place.cli("tick").ok()
    for path in place.state.parent.glob("scheduler.json*"):
        path.unlink()
    for path in place.state.parent.glob("scheduler.*.wal"):
        path.unlink()
    refused = place.cli("tick")
    assert refused.code == 65
    assert "on_state_loss" in refused.err
    assert len(Stub(place).calls()) == 1
    place.configure(HOURLY, scheduler="on_state_loss: run\n")
    place.cli("tick").ok()


def test_garbage_in_the_state_is_never_reset_silently(place: Place) -> None:
    place.configure(HOURLY)
    put_batch(place)
    place.cli("tick").ok()
    for path in [*place.state.parent.glob("scheduler.json*"), *place.state.parent.glob("scheduler.*.wal")]:
        path.write_bytes(b"\x00" * 100)
    refused = place.cli("tick")
    assert refused.code == 65
    assert "Traceback" not in refused.err
    assert len(Stub(place).calls()) == 1


def test_an_invalid_configuration_lists_every_problem_and_runs_nothing(place: Place) -> None:
    place.configure(HOURLY.replace("every: 1h", "every: 90, evry: 2h"))
    refused = place.cli("tick")
    assert refused.code == 78
    problems = [line for line in refused.err.splitlines() if line.startswith("config/namespaces.yaml:4:")]
    assert len(problems) == 2
    assert "Traceback" not in refused.err
    assert not Stub(place).calls()


def test_no_configuration_at_all_says_where_it_was_looked_for(place: Place) -> None:
    refused = place.cli("tick")
    assert refused.code == 78
    assert "config/namespaces.yaml" in refused.err
