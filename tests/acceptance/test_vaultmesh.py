"""Seed 003's example, unchanged, in the seed's own layout; the anchors are stubs that note what they are given."""

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Daemon, Document, Place
from tests.support.stubs import Stub, stub

DATA = Path(__file__).parents[1] / "data"
NAMESPACE = "dao:vaultmesh:"
"""`dao:vaultmesh::` in YAML: the last colon is the separator, the one before belongs to the key."""
LEVELS = {"fast": "eip155:8453", "strong": "btc:mainnet", "cold": "rfc3161:tsa"}
ROOT = "sha256:5d66afd722adc03cc959f6366970e399dec19e359fb157235164b3bfed52f12a"
LEAVES = [
    "sha256:c78f7e6aab3a4c4e0325a9064415634c3028e35541b8dcc676a6a67b0de15ebf",
    "sha256:6a964ba3592c0375d1ec7931ad49a4b4e48f8c08f4eb33e1a85b222ce834cf6b",
    "sha256:53c6f34e12a6f6ab26e14c6d57a82f6b6f8f5471bd806886b594b497dfbd621a",
]
COMMANDS = f"commands:\n  eip155: {stub('evm')}\n  btc: {stub('btc')}\n  rfc3161: {stub('tsa')}\n"


def seal(place: Place, identity: str = "1729740000", leaves: list[str] = LEAVES, root: str = ROOT) -> Path:
    """A batch as VaultMesh's own sealer writes it (v0 tree)."""
    batch = {"id": identity, "root": root, "leaves": leaves, "createdAt": int(identity)}
    return place.write(f"out/batches/{identity}.json", json.dumps(batch, indent=2))


@pytest.fixture
def vaultmesh(tmp_path: Path) -> Iterator[Place]:
    environ = {"VMSH_ROOT": str(tmp_path), "METRICS_PORT": "0"}
    place = Place(tmp_path, environ, config="vmsh/config")
    place.namespaces.parent.mkdir(parents=True)
    shutil.copy(DATA / "seed003-namespaces.yaml", place.namespaces)
    place.write("vmsh/config/scheduler.yaml", COMMANDS)
    yield place
    place.close()


def state_of(place: Place) -> Document:
    found: Document = json.loads((place.root / "out" / "state" / "scheduler.json").read_text())
    return found


def settled(daemon: Daemon, what: str = "anchor success") -> dict[str, Document]:
    """The first such line of each level."""
    return {level: daemon.wait_line(what, label=level) for level in LEVELS}


def test_idle_metrics_are_those_of_the_seed(vaultmesh: Place) -> None:
    """No batch: nothing runs, every series is there with zero, under both prefixes, and health is healthy."""
    daemon = vaultmesh.daemon().ready()
    for prefix in ("scheduler", "vmsh"):
        for level, target in LEVELS.items():
            for what in ("attempted", "succeeded", "failed"):
                labels = {"namespace": NAMESPACE, "cadence": level, "target": target}
                assert daemon.value(f"{prefix}_anchors_{what}_total", **labels) == 0
        assert daemon.value(f"{prefix}_backoff_state", namespace=NAMESPACE) == 0
        tick = daemon.value(f"{prefix}_last_tick_timestamp_seconds") or 0
        assert abs(daemon.health()["lastTick"] / 1000 - tick) < 60
    health = daemon.health()
    assert health["status"] == "healthy"
    assert health["namespaces"] == {NAMESPACE: {"lastAnchor": {}, "backoff": 0, "status": "ok"}}
    assert Stub(vaultmesh, "evm").calls() == []
    daemon.stop()


def test_the_trailing_colon_is_kept_and_warned_about(vaultmesh: Place) -> None:
    checked = vaultmesh.cli("validate-config", "--json").ok()
    assert checked.json["cadences"] == 3
    assert NAMESPACE in checked.err
    assert "colon" in checked.err


def test_every_rail_anchors_the_batch_at_once(vaultmesh: Place) -> None:
    seal(vaultmesh)
    daemon = vaultmesh.daemon().ready()
    lines = settled(daemon)
    assert {line["ns"] for line in lines.values()} == {NAMESPACE}
    assert {level: line["target"] for level, line in lines.items()} == LEVELS
    assert {line["batch"] for line in lines.values()} == {"1729740000"}
    daemon.stop()


def test_state_can_be_read_as_the_original_wrote_it(vaultmesh: Place) -> None:
    seal(vaultmesh)
    before = datetime.now().timestamp()  # noqa: DTZ005  only its epoch is used
    daemon = vaultmesh.daemon().ready()
    settled(daemon)
    daemon.stop()
    mine = state_of(vaultmesh)[NAMESPACE]
    for level in LEVELS:
        assert isinstance(mine["last"][level], int)
        assert before - 1 <= mine["last"][level] <= before + 60
    assert mine["backoff"] == 0
    assert (vaultmesh.root / "out" / "state" / "scheduler.json").read_text().startswith('{\n  "')


def test_state_of_the_original_is_taken_over(vaultmesh: Place) -> None:
    """Its `last` counts: what it anchored a moment ago is not due again."""
    now = int(datetime.now().timestamp())  # noqa: DTZ005  only its epoch is used
    old = {NAMESPACE: {"last": {"fast": now - 100_000, "strong": now, "cold": now}, "backoff": 2}}
    vaultmesh.write("out/state/scheduler.json", json.dumps(old, indent=2))
    seal(vaultmesh)
    daemon = vaultmesh.daemon().ready()
    daemon.wait_line("anchor success", label="fast")
    rows = {row["cadence"]: row for row in vaultmesh.cli("status", "--json").ok().json["jobs"]}
    assert rows["fast"]["started"] == 1
    assert {level: rows[level]["last_success"] // 1000 for level in ("strong", "cold")} == {"strong": now, "cold": now}
    daemon.stop()


def test_what_a_command_is_told(vaultmesh: Place) -> None:
    """Section 3 of the contract: the same facts in the environment and as JSON on stdin."""
    file = seal(vaultmesh)
    daemon = vaultmesh.daemon().ready()
    settled(daemon)
    daemon.stop()
    for level, name in zip(LEVELS, ("evm", "btc", "tsa"), strict=True):
        (call,) = Stub(vaultmesh, name).calls()
        env, told = call["env"], call["stdin"]
        assert call["argv"] == [name]
        assert (env["VMSH_NAMESPACE"], told["namespace"]) == (NAMESPACE, NAMESPACE)
        assert (env["VMSH_CADENCE"], told["cadence"]) == (level, level)
        assert (env["VMSH_TARGET"], told["target"]) == (LEVELS[level], LEVELS[level])
        assert (env["VMSH_BATCH_ID"], told["batch"]["id"]) == ("1729740000", "1729740000")
        assert (env["VMSH_BATCH_ROOT"], told["batch"]["root"]) == (ROOT, ROOT)
        assert Path(env["VMSH_BATCH_FILE"]) == Path(told["batch"]["file"]) == file
        assert env["VMSH_IDEMPOTENCY_KEY"] == told["idempotency_key"] == f"{NAMESPACE}/{level}/{told['slot_ms']}"
        assert (env["VMSH_ATTEMPT"], told["attempt"]) == ("1", 1)
        assert (env["VMSH_SLOT"], env["VMSH_RUN_ID"]) == (told["slot"], told["run_id"])
        assert env["VMSH_FENCE_TOKEN"] == str(told["fence"])
        assert Path(told["root"]) == vaultmesh.root


def test_confirmations_and_policy_reach_the_command(vaultmesh: Place) -> None:
    text = vaultmesh.namespaces.read_text()
    text = text.replace('every: "89s"', 'every: "89s"\n        confirmations: 3')
    text = text.replace('every: "1d"', 'every: "1d"\n        policyOID: "1.2.3.4"')
    vaultmesh.write("vmsh/config/namespaces.yaml", text)
    seal(vaultmesh)
    daemon = vaultmesh.daemon().ready()
    settled(daemon)
    daemon.stop()
    (evm,), (tsa,) = Stub(vaultmesh, "evm").calls(), Stub(vaultmesh, "tsa").calls()
    assert (evm["env"]["VMSH_CONFIRMATIONS"], evm["stdin"]["confirmations"]) == ("3", 3)
    assert (tsa["env"]["VMSH_POLICY_OID"], tsa["stdin"]["policyOID"]) == ("1.2.3.4", "1.2.3.4")


def test_secrets_of_the_daemon_stay_with_it(vaultmesh: Place) -> None:
    """Only an allow-list is inherited, and what `pass_env` names."""
    vaultmesh.write("vmsh/config/scheduler.yaml", COMMANDS + "pass_env: [EVM_RPC]\n")
    seal(vaultmesh)
    daemon = vaultmesh.daemon(env={"EVM_ANCHOR_KEY": "0xdeadbeefcafe", "EVM_RPC": "http://node"}).ready()
    settled(daemon)
    daemon.stop()
    (call,) = Stub(vaultmesh, "evm").calls()
    assert call["env"]["EVM_RPC"] == "http://node"
    assert "EVM_ANCHOR_KEY" not in call["env"]
    assert "0xdeadbeefcafe" not in daemon.text()


@pytest.mark.parametrize(
    ("how", "error_class", "retry_in"),
    [
        ({"exit": 69}, "network", 8),
        ({"exit": 77}, "auth", 16),
        ({"exit": 65}, "validation", 4),
        ({"exit": 1}, "unknown", 8),
        ({"exit": 1, "stderr": "connect ECONNREFUSED 127.0.0.1:8545"}, "network", 8),
        ({"exit": 1, "stderr": "HTTP 401"}, "auth", 16),
        ({"exit": 1, "stderr": "execution reverted"}, "validation", 4),
    ],
    ids=lambda value: str(value.get("stderr") or value["exit"]) if isinstance(value, dict) else None,
)
def test_a_failure_backs_off_by_its_class(
    vaultmesh: Place, how: dict[str, Any], error_class: str, retry_in: int
) -> None:
    """Section 8: round(5 s * phi^1 * multiplier), told to the second and kept."""
    Stub(vaultmesh, "evm").behave(**how)
    seal(vaultmesh)
    daemon = vaultmesh.daemon().ready()
    line = daemon.wait_line("anchor failed", label="fast")
    assert line["ns"] == NAMESPACE
    assert line["target"] == "eip155:8453"
    assert (line["class"], line["backoff"], line["retry_in"]) == (error_class, 1, retry_in)
    assert line["exit_code"] == how["exit"]
    assert line["err"]
    daemon.wait_line("anchor success", label="strong")
    daemon.stop()


def test_backoff_is_kept_and_a_success_resets_it(vaultmesh: Place) -> None:
    """Validation errors with base 1: retries after 1, 1 and 2 s; same slot and key, rising attempts."""
    environ = {"VMSH_BASE_BACKOFF": "1"}
    evm = Stub(vaultmesh, "evm")
    evm.behave(exit=65, stderr="schema mismatch")
    seal(vaultmesh)
    daemon = vaultmesh.daemon(env=environ).ready()
    second = daemon.wait_line("anchor failed", label="fast", attempt=2)
    assert second["backoff"] == 2
    assert (daemon.value("scheduler_backoff_state", namespace=NAMESPACE) or 0) >= 2
    assert daemon.health()["namespaces"][NAMESPACE]["backoff"] >= 2
    assert daemon.health()["namespaces"][NAMESPACE]["status"] == "ok", "backing_off begins above 3"
    daemon.stop()
    assert state_of(vaultmesh)[NAMESPACE]["backoff"] >= 2

    evm.behave()
    again = vaultmesh.daemon(env=environ).ready()
    line = again.wait_line("anchor success", label="fast")
    assert line["attempt"] >= 3
    assert line["slot"] == second["slot"]
    assert again.health()["namespaces"][NAMESPACE]["backoff"] == 0
    keys = {call["env"]["VMSH_IDEMPOTENCY_KEY"] for call in evm.calls()}
    assert len(keys) == 1
    again.stop()
    assert state_of(vaultmesh)[NAMESPACE]["backoff"] == 0


def test_a_dead_rail_does_not_hold_the_others(vaultmesh: Place) -> None:
    hold = vaultmesh.write("hold", "")
    Stub(vaultmesh, "evm").behave(hold="hold")
    seal(vaultmesh)
    daemon = vaultmesh.daemon().ready()
    daemon.wait_line("anchor success", label="strong")
    daemon.wait_line("anchor success", label="cold")
    assert daemon.lines("anchor success", label="fast") == []
    hold.unlink()
    daemon.wait_line("anchor success", label="fast")
    daemon.stop()


def test_an_unreadable_batch_is_said_and_the_good_one_anchored(vaultmesh: Place) -> None:
    seal(vaultmesh)
    vaultmesh.write("out/batches/1729740001.json", '{"id": "1729740001", "ro')
    daemon = vaultmesh.daemon().ready()
    lines = settled(daemon)
    assert {line["batch"] for line in lines.values()} == {"1729740000"}
    trouble = daemon.wait_line("trouble", what="bad_batch")
    assert trouble["file"].endswith("1729740001.json")
    daemon.stop()


def test_the_kill_switch_anchors_nothing(vaultmesh: Place) -> None:
    seal(vaultmesh)
    daemon = vaultmesh.daemon(env={"ANCHOR_WRITE_ENABLED": "0", "LOG_LEVEL": "debug"}).ready()
    for level in LEVELS:
        daemon.wait_line("slot decided", label=level, verdict="skipped", reason="kill_switch")
    daemon.stop()
    assert not (vaultmesh.root / "calls").exists()
