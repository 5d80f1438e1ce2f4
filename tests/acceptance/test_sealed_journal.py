"""A namespace that seals the scheduler's own journal: anchored, checked, and no row can be changed afterwards."""

import sqlite3
from contextlib import closing
from typing import Any

from tests.support.daemon import Place, until

NAMESPACES = """\
namespaces:
  demo:work:
    seal: {files: ["notes.txt"]}
    cadence:
      fast: {target: "local:work", every: 1h}
  own:record:
    seal: {journal: true}
    cadence:
      fast: {target: "local:record", every: 1s}
"""
JOB = "demo:work/fast"


def anchored(place: Place) -> list[dict[str, Any]]:
    """What was done for the record, newest first."""
    found: list[dict[str, Any]] = place.cli("history", "own:record/fast", "--json").ok().json["executions"]
    return [execution for execution in found if execution["outcome"]["status"] == "ok"]


def reasons(place: Place) -> list[str]:
    decisions = place.cli("history", "own:record/fast", "--json").ok().json["decisions"]
    return [decision["reason"] for decision in decisions]


def test_the_record_is_anchored_once_and_any_changed_row_shows(place: Place) -> None:
    place.write("notes.txt", "a")
    place.configure(NAMESPACES)
    daemon = place.daemon().ready()
    daemon.wait_line("anchor success", ns="demo:work")
    until(lambda: anchored(place) and reasons(place)[:2] == ["unchanged"] * 2, "an anchor, and then nothing new")
    daemon.stop()
    assert place.cli("seal", "own:record", "--json").ok().json["own:record"]["status"] == "unchanged"
    checked = place.cli("verify", "--json").ok().json
    assert {row["kind"] for row in checked["rows"]} == {"ledger", "batch", "receipt", "file", "journal"}
    with closing(sqlite3.connect(place.root / "state" / "scheduler.db")) as connection, connection:
        statement = "UPDATE entries SET body = replace(body, '\"ok\"', '\"no\"') WHERE job = ? AND kind = 'execution'"
        assert connection.execute(statement, (JOB,)).rowcount == 1
    changed = place.cli("verify", "--json")
    assert changed.code == 1
    wrong = [row for row in changed.json["rows"] if not row["ok"]]
    assert {(row["subject"], row["kind"]) for row in wrong} == {(JOB, "journal")}
    assert all("was edited" in row["detail"] for row in wrong)
    assert JOB in place.cli("verify").out


def test_where_the_journal_is_in_redis_it_is_refused(place: Place) -> None:
    place.configure(NAMESPACES, scheduler="redis: {url: redis://127.0.0.1:1/0}\n")
    refused = place.cli("validate-config")
    assert refused.code == 78
    assert "namespaces.yaml:7:21: namespaces.own:record.seal.journal: the journal is in Redis here" in refused.err
