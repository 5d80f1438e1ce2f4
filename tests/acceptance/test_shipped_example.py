"""What a person sees after `make run`: the shipped files, unchanged, and the README's own commands."""

import re
import shutil
import urllib.request
from itertools import pairwise
from pathlib import Path

from tests.support.daemon import Daemon, Place, until

FAST = "demo:files/fast"


def test_two_roots_were_anchored_on_the_grid(checkout: Daemon) -> None:
    checkout.wait_line("anchor success", label="fast", after=1)
    anchors = checkout.lines("anchor success", label="fast")
    slots = [line["slot"] for line in anchors]
    assert len(slots) >= 2
    assert all(slot % 10_000 == 0 for slot in slots)
    decided = until(lambda: decided_until(checkout, slots[-1]), "the slots in the history")
    assert {after - before for before, after in pairwise(decided)} == {10_000}, "each is decided, be it as overlapping"
    assert set(slots) <= set(decided)
    assert all(line["target"] == "local:demo" and line["attempt"] == 1 for line in anchors)
    assert checkout.lines("anchor failed") == []


def decided_until(checkout: Daemon, slot: int) -> list[int]:
    """Nothing before that is written."""
    rows = checkout.place.cli("history", FAST, "--json").ok().json["decisions"]
    decided = sorted(row["slot"] for row in rows if row["slot"] <= slot)
    return decided if slot in decided else []


def test_status_shows_both_cadences(checkout: Daemon) -> None:
    shown = checkout.place.cli("status").ok()
    assert "vmsh-scheduler healthy, the daemon is running" in shown.out
    assert re.search(rf"^{FAST} +local:demo +(ok|running) ", shown.out, re.MULTILINE)
    assert re.search(r"^demo:files/strong +local:demo +(ok|running) ", shown.out, re.MULTILINE)
    assert shown.err == ""


def test_health_says_when_it_last_anchored(checkout: Daemon) -> None:
    with urllib.request.urlopen(f"http://localhost:{checkout.port}/health", timeout=10) as reply:
        assert reply.status == 200
    health = checkout.health()
    assert health["status"] == "healthy"
    files = health["namespaces"]["demo:files"]
    newest = max(line["slot"] for line in checkout.lines("anchor success", label="fast"))
    assert files["lastAnchor"]["fast"] >= newest // 1000
    assert (files["status"], files["backoff"]) == ("ok", 0)


def test_next_why_and_history_agree(checkout: Daemon) -> None:
    place = checkout.place
    slots = [row["slot"] for row in place.cli("next", FAST, "-n", "5", "--json").ok().json["slots"]]
    assert len(slots) == 5
    assert slots == list(range(slots[0], slots[0] + 50_000, 10_000))
    assert "will run" in place.cli("why", FAST).ok().out or "is running" in place.cli("why", FAST).ok().out
    history = checkout.wait_until(
        lambda: rows if len(rows := _executions(place)) >= 2 else None, "two executions in the journal"
    )
    assert {row["outcome"]["status"] for row in history} == {"ok"}
    assert "every hash chain is intact" in place.cli("history", "--verify").ok().out


def _executions(place: Place) -> list[dict[str, dict[str, str]]]:
    found: list[dict[str, dict[str, str]]] = (
        place.cli("history", FAST, "--limit", "5", "--json").ok().json["executions"]
    )
    return found


def test_verify_recomputes_everything(checkout: Daemon) -> None:
    shown = checkout.place.cli("verify").ok()
    assert "all good" in shown.out
    report = checkout.place.cli("verify", "--json").ok().json
    assert report["ok"]
    assert {row["kind"] for row in report["rows"]} == {"ledger", "batch", "receipt", "file"}
    assert report["checked"] == len(report["rows"])


def test_a_file_has_a_proof_that_stands_alone(checkout: Daemon, tmp_path: Path) -> None:
    place = checkout.place
    proof = place.cli("proof", "README.md").ok()
    alone = Place(tmp_path)
    path = alone.write("readme.proof.json", proof.out)
    assert "all good" in alone.cli("verify", str(path)).ok().out


def test_metrics_count_the_same_under_both_prefixes(checkout: Daemon) -> None:
    labels = {"namespace": "demo:files", "cadence": "fast", "target": "local:demo"}
    for prefix in ("vmsh", "scheduler"):
        assert (checkout.value(f"{prefix}_anchors_succeeded_total", **labels) or 0) >= 2
        assert checkout.value(f"{prefix}_anchors_failed_total", **labels) == 0


def test_one_flipped_bit_is_found(checkout: Daemon, tmp_path: Path) -> None:
    """In a copy, so that the daemon's own ledger stays whole for the other tests."""
    ledger = next((checkout.place.root / "out" / "ledgers" / "demo").glob("entries.jsonl"))
    copy = Place(tmp_path / "copy")
    shutil.copytree(checkout.place.root, copy.root, ignore=shutil.ignore_patterns("control.sock"))
    target = copy.root / ledger.relative_to(checkout.place.root)
    copy.cli("verify").ok()
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    found = copy.cli("verify")
    assert found.code == 1
    assert "FAILED" in found.out
