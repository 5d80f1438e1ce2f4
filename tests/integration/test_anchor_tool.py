"""`python -m vmsh_scheduler.anchors`: what it takes, what it says, its exit codes, and what kill -9 leaves."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.site import Site
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.errors import Exit

ROOT = "sha256:" + "ab" * 32
BATCH = {"id": "1700-1", "root": ROOT}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def run(arguments: list[str], stdin: bytes, **environ: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "vmsh_scheduler.anchors", *arguments]
    keep = {name: value for name, value in os.environ.items() if name.startswith(("PATH", "COV"))}
    return subprocess.run(command, input=stdin, capture_output=True, env={**keep, **environ}, timeout=60, check=False)


def test_the_environment_alone_is_enough(site: Site) -> None:
    sealed = site.seal("*.txt") if site.write("a.txt", "a") else None
    assert sealed is not None
    result = run(
        ["local"],
        b"",
        VMSH_NAMESPACE="demo:files",
        VMSH_CADENCE="fast",
        VMSH_TARGET="local:demo",
        VMSH_BATCH_ID=sealed.result["id"],
        VMSH_BATCH_ROOT=sealed.result["root"],
        VMSH_BATCH_FILE=sealed.result["file"],
        VMSH_IDEMPOTENCY_KEY="job/1",
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout.splitlines()[-1])
    assert answer["attestation"]["chain"] == "local:demo"
    assert site.verify().ok
    assert (site.root / "state/keys/demo.ed25519").exists()


def test_stdin_wins_over_the_environment(site: Site) -> None:
    answer = site.ask("local", site.request(BATCH), {"VMSH_NAMESPACE": "other", "VMSH_TARGET": "btc:mainnet"})
    assert answer.code == 0
    assert '"namespace":"demo:files"' in (site.ledger / "entries.jsonl").read_text()


def test_a_verb_that_needs_no_signature_does_not_load_cryptography() -> None:
    listing = "import sys, vmsh_scheduler.anchors.__main__, vmsh_scheduler.anchors.sealing as s; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"cryptography", "asyncio", "pydantic", "aiohttp", "yaml", "typer", "prometheus_client"}
    assert not heavy & set(loaded)


def test_usage() -> None:
    result = run(["anchor"], b"")
    assert result.returncode == Exit.USAGE
    assert b"seal|combine|local|" in result.stderr


@pytest.mark.parametrize(
    ("change", "code", "part"),
    [
        ({"target": "btc:mainnet"}, Exit.CONFIG, "is not local:<name>"),
        ({"target": "local:../x"}, Exit.CONFIG, "is not local:<name>"),
        ({"target": True}, Exit.STATE_UNREADABLE, "target is not a text"),
        ({"batch": {"id": "../x", "root": ROOT}}, Exit.STATE_UNREADABLE, "no batch to anchor"),
        ({"batch": {"id": "x", "root": "zz"}}, Exit.STATE_UNREADABLE, "no batch to anchor"),
        ({"batch": {}}, Exit.STATE_UNREADABLE, "no batch to anchor"),
        ({"batch": {**BATCH, "file": "/nowhere/1700-1.json"}}, Exit.STATE_UNREADABLE, "is gone"),
        ({"origin": "a b"}, Exit.CONFIG, "has a space"),
    ],
)
def test_refusals_have_a_class_and_a_message(site: Site, change: dict[str, object], code: int, part: str) -> None:
    answer = site.ask("local", {**site.request(BATCH), **change})
    assert (answer.code, answer.result["status"]) == (code, "failed")
    assert part in str(answer.result["message"])


@pytest.mark.parametrize("stdin", [b"[]", b"{", b"\xff", b'{"a":1,"a":2}'])
def test_junk_on_stdin_is_invalid(stdin: bytes) -> None:
    result = run(["local"], stdin)
    assert result.returncode == Exit.STATE_UNREADABLE
    assert json.loads(result.stdout)["code"] == "invalid"
    assert b"Traceback" not in result.stderr


def test_a_batch_file_must_be_the_batch_that_was_asked_for(site: Site) -> None:
    batch = site.put_batch("10")
    answer = site.anchor({**batch, "root": ROOT})
    assert answer.code == Exit.STATE_UNREADABLE
    assert "is not the batch that was to be anchored" in answer.result["message"]
    Path(batch["file"]).write_text("{")
    assert site.anchor(batch).code == Exit.STATE_UNREADABLE
    assert not (site.ledger / "entries.jsonl").exists()


def test_a_leaf_mismatch_is_a_warning_and_a_verify_failure(site: Site) -> None:
    batch = site.put_batch("10", root=ROOT)
    answer = site.anchor(batch)
    assert answer.code == 0
    assert answer.result["warnings"] == ["batch 10: its leaves do not give its root"]
    assert [row.detail for row in site.failures()] == ["corrupt: its leaves do not give its root"]


def test_a_place_that_is_no_directory_is_said(site: Site) -> None:
    site.write("out", "a file")
    answer = site.anchor(BATCH)
    assert (answer.code, answer.result["code"]) == (Exit.BUSY, "cannot_create")
    assert "out" in answer.result["message"]


def test_where_the_root_and_the_keys_are(tmp_path: Path) -> None:
    def facts(**environ: str) -> Facts:
        return Facts({}, environ)

    told = facts(VMSH_BATCH_FILE="/srv/x/out/batches/1.json")
    assert (told.root, told.keys) == (Path("/srv/x"), Path("/srv/x/state/keys"))
    assert facts(VMSH_ROOT="/a", VMSH_BATCH_FILE="/b/out/batches/1.json").root == Path("/a")
    assert facts(VMSH_BATCH_FILE="/elsewhere/1.json").root == Path.cwd()
    assert facts(VMSH_KEYS="/k").keys == Path("/k")
    assert facts(VMSH_STATE="/s/scheduler.json").keys == Path("/s/keys")
    assert facts(CREDENTIALS_DIRECTORY="/c").credentials == Path("/c")
    assert facts().credentials is None
    (tmp_path / "out/state").mkdir(parents=True)
    assert facts(VMSH_ROOT=str(tmp_path)).keys == tmp_path / "out/state/keys"


def test_kill_9_at_any_moment_loses_and_doubles_nothing(site: Site) -> None:
    site.write("a.txt", "a")
    sealed = site.seal("*.txt").result
    assert site.anchor(sealed, "job/first").code == 0
    acknowledged = ["job/first"]
    for number in range(20):
        delay = (number * 7 % 20) / 80  # 0 to 0.25 s: from before its first line to after its last
        key = f"job/{number}"
        process = site.start("local", site.request(sealed, key))
        try:
            out, _ = process.communicate(timeout=delay)
        except subprocess.TimeoutExpired:
            process.kill()
            out, _ = process.communicate()
        if b'"ok"' in out:
            acknowledged.append(key)
        assert not site.failures(), (number, delay)
        if number % 3 == 0:
            assert site.anchor(sealed, key).code == 0
            acknowledged.append(key)
    assert site.anchor(sealed, "job/last").code == 0
    entries = [json.loads(line)["key"] for line in (site.ledger / "entries.jsonl").read_bytes().splitlines()]
    assert len(entries) == len(set(entries))
    assert set(acknowledged) <= set(entries)
    assert not site.failures()


def test_writers_at_once_each_get_their_entry(site: Site) -> None:
    batch = site.put_batch("10")
    processes = [site.start("local", site.request(batch, f"job/{number % 3}")) for number in range(6)]
    answers = []
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        answers.append(json.loads(out))
    assert sum(answer["added"] for answer in answers) == 3
    assert {answer["attestation"]["block"] for answer in answers} == {0, 1, 2}
    assert site.verify().ok


def test_verify_and_proof_as_verbs(site: Site) -> None:
    site.write("a.txt", "a")
    site.anchor(site.seal("*.txt").result)
    answer = site.ask("verify", {})
    assert (answer.code, answer.result["ok"], answer.result["failed"]) == (0, True, 0)
    assert site.ask("proof", {"file": str(site.root / "a.txt")}).result["proof"]["file"]["path"] == "a.txt"
    site.write("a.txt", "b")
    answer = site.ask("verify", {"what": str(site.root / "a.txt")})
    assert (answer.code, answer.result["status"]) == (1, "failed")
