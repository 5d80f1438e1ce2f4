"""Commands over two instances: one lane at a time, what a killed worker leaves, other configurations, and asking a
follower."""

import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.daemon import processes_below, until
from tests.support.faults import BATCH, Cadence, document
from tests.support.instances import Instances
from tests.support.ledger import SCRIPT, Entry, read

KEYS = "env: {VMSH_KEYS: keys}"
"""One place of the keys of `local:`, so that the instances' jobs are the same."""


@pytest.fixture
def cluster(tmp_path: Path, cluster: Instances) -> Iterator[Instances]:
    cluster.env, cluster.together = {"VMSH_CONCURRENCY": "1"}, True
    yield cluster
    for pid in processes_below(tmp_path):
        os.kill(pid, signal.SIGKILL)


def work(cluster: Instances, name: str, *more: str, seconds: float = 0, every: str = "1s") -> Cadence:
    root = cluster.root / "all"
    argv = ("/bin/sh", str(root / "work.sh"), str(root / "ledger"), f"{seconds:g}", "0")
    return Cadence(name, argv, every, (KEYS, *more))


def boot(cluster: Instances, *cadences: Cadence) -> None:
    cluster.namespaces = document(*cadences)
    place, digest = cluster.place("a"), "00" * 32
    place.write("out/batches/b1.json", BATCH % (digest, digest))
    place.write("work.sh", SCRIPT)
    cluster.start("a", "b")
    for name in ("a", "b"):
        until(lambda name=name: cluster.answers(name), f"{name} to be at one with the other")


def ledger(cluster: Instances) -> list[Entry]:
    return read(cluster.root / "all" / "ledger")


def test_a_lane_has_one_run_at_a_time_and_both_instances_work(cluster: Instances) -> None:
    jobs = [work(cluster, f"n{number}", seconds=0.6) for number in range(4)]
    boot(cluster, *jobs)
    until(lambda: len([entry for entry in ledger(cluster) if entry.kind == "end"]) >= 16, "runs", timeout=60)
    for job in jobs:
        kinds = [entry.kind for entry in ledger(cluster) if entry.job == job.job]
        assert kinds[:2] == ["start", "end"]
        assert not any(one == other for one, other in pairwise(kinds)), kinds
    claimed = [_claimed(cluster, name) for name in ("a", "b")]
    assert min(claimed) > 0, claimed


def _claimed(cluster: Instances, name: str) -> int:
    text = cluster[name].ask("GET", "/metrics").body.decode()
    return int(float(text.split("\nforgeos_scheduler_redis_exec_claimed_total ")[1].split("\n")[0]))


@pytest.mark.parametrize("rule", ["retry", "hold"])
def test_a_worker_that_is_killed_in_mid_command_leaves_an_unknown_run(cluster: Instances, rule: str) -> None:
    boot(cluster, work(cluster, "slow", f"on_unknown: {rule}", seconds=12, every="1h"))
    leader, follower = cluster.leader(), cluster.follower()
    first = until(lambda: ledger(cluster)[:1], "a start")[0]
    worker = until(lambda: next((name for name in ("a", "b") if _busy(cluster, name)), None), "whoever runs it")
    cluster[worker].daemon.kill()
    other = leader if worker == follower else follower
    place = cluster.place(other)
    if rule == "retry":
        again = until(lambda: [e for e in ledger(cluster) if e.kind == "start"][1:2], "another attempt")[0]
        assert (again.key, again.attempt) == (first.key, first.attempt + 1)
        until(lambda: _status(cluster, other) == "ok", "its success")
        return
    held = until(lambda: _held(cluster, other), "the run to be held")
    assert len([entry for entry in ledger(cluster) if entry.kind == "start"]) == 1
    assert place.cli("resolve", held, "--as", "ok").ok()
    until(lambda: _status(cluster, other) == "ok", "its verdict")


def _busy(cluster: Instances, name: str) -> bool:
    rows = cluster.place(name).cli("status", "--json").json["cluster"]["members"]
    return any(row["id"] == name and row["running"] for row in rows)


def _status(cluster: Instances, name: str) -> str:
    (job,) = cluster.place(name).cli("status", "--json").json["jobs"]
    return "ok" if job["last_success"] else str(job["condition"])


def _held(cluster: Instances, name: str) -> str:
    found = cluster.place(name).cli("history", "slow/fast", "--json").json["executions"]
    (job,) = cluster.place(name).cli("status", "--json").json["jobs"]
    return str(found[0]["run"]["id"]) if job["condition"] == "held" and found else ""


def test_every_command_works_at_a_follower(cluster: Instances) -> None:
    boot(cluster, work(cluster, "ns", every="1h"))
    place = cluster.place(cluster.follower())
    leader = cluster.place(cluster.leader())
    place.cli("pause", "ns/fast", "--note", "by hand").ok()
    until(lambda: leader.cli("status", "--json").json["jobs"][0]["condition"] == "paused", "the pause at the leader")
    assert "by hand" in place.cli("why", "ns/fast").ok().out
    place.cli("resume", "ns/fast").ok()
    place.cli("reset", "ns/fast").ok()
    place.cli("trigger", "ns/fast").ok()
    until(lambda: place.cli("history", "ns/fast", "--json").json["executions"], "the run in the history")
    assert place.cli("status", "--json").ok().json["jobs"][0]["job"] == "ns/fast"
    assert place.cli("next", "--json").ok().json["slots"]
    assert place.cli("trigger", "none/such").code == leader.cli("trigger", "none/such").code != 0
    assert place.cli("reload").ok()


def test_other_files_are_told_and_only_the_leader_s_jobs_run(cluster: Instances) -> None:
    """The other one hands back what it does not have."""
    cluster.together = False
    for name, job in (("a", "mine"), ("b", "theirs")):
        place = cluster.place(name)
        root, digest = place.root, "00" * 32
        place.write("out/batches/b1.json", BATCH % (digest, digest))
        place.write("work.sh", SCRIPT)
        argv = ("/bin/sh", str(root / "work.sh"), str(root / "ledger"), "0", "0")
        place.configure(document(Cadence(job, argv, "1s", (KEYS,))))
    cluster.start("a")
    cluster.leader()
    cluster.start("b")
    for name, other in (("a", "b"), ("b", "a")):
        until(lambda name=name: "config_differs" in cluster.condition(name)["problems"], f"{name} to see it")
        assert cluster[name].daemon.wait_line("trouble", what="config_differs")["why"] == other
        assert cluster[name].daemon.health()["status"] == "degraded"
    before = len(read(cluster.root / "a" / "ledger"))
    until(lambda: len(read(cluster.root / "a" / "ledger")) >= before + 6, "the leader's job")
    assert not (cluster.root / "b" / "ledger").exists()
    assert "differs" in cluster.place("b").cli("status").ok().out
