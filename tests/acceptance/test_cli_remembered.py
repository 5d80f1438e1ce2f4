"""record deploy, receipt, verify-audit, bundle and on_anchor, by the installed command."""

import hashlib
import json
import os
import re
import subprocess
import sys

import pytest

from tests.support.daemon import Place
from tests.support.tsa import make_authorities, serving
from vmsh_scheduler.domain.batch import render, with_digest
from vmsh_scheduler.errors import Exit

SEALED = """\
namespaces:
  demo:files:
    seal: {files: ["*.md"]}
    on_anchor: ["{python}", "-c", "import sys; open('told.json', 'w').write(sys.stdin.read())"]
    cadence:
      fast: {target: "local:demo", every: 1h}
"""


@pytest.fixture
def anchored(place: Place) -> Place:
    place.configure(SEALED)
    place.write("a.md", "hello")
    place.write("ops/README", "turns the Remembrancer on")
    place.cli("tick").ok()
    return place


def only_batch(place: Place) -> str:
    (path,) = (place.root / "out" / "batches").glob("*.json")
    return path.stem


def test_a_run_remembers_and_tells(anchored: Place) -> None:
    batch = only_batch(anchored)
    shown = anchored.cli("receipt", f"deploy/anchor__demo_3afiles__fast-{batch}").ok().out
    assert f"anchor:demo:files:fast:{batch}" in shown
    told = json.loads((anchored.root / "told.json").read_text())
    receipt = json.loads(anchored.cli("receipt", batch).ok().out)
    assert told["attestation"] == receipt["anchor"]
    assert "1 memories" in anchored.cli("verify-audit").ok().out
    anchored.cli("verify").ok()


@pytest.mark.parametrize("words", ["", "--v1", "--manifest"])
@pytest.mark.parametrize("damage", ["no JSON", "[]", "{}", "another time", "a field less"])
def test_a_damaged_receipt_is_not_shown_as_one(anchored: Place, damage: str, words: str) -> None:
    batch = only_batch(anchored)
    path = anchored.root / "out/receipts/batches" / f"{batch}.json"
    document = json.loads(path.read_text())
    if damage == "another time":
        document["anchors"][0]["ts"] += 1
        damage = render(document)
    elif damage == "a field less":  # below a digest that fits
        del document["tree"], document["digest"]
        damage = render(with_digest(document))
    path.write_text(damage)
    done = anchored.cli("receipt", batch, *words.split())
    assert (done.code, done.out) == (Exit.STATE_UNREADABLE, "")
    assert str(path) in done.err
    assert done.err.count("\n") == 1


def test_a_receipt_is_shown_as_it_stands(anchored: Place) -> None:
    batch = only_batch(anchored)
    whole = (anchored.root / "out/receipts/batches" / f"{batch}.json").read_text()
    assert anchored.cli("receipt", batch).ok().out == whole
    deployed = anchored.root / "ops/receipts/deploy/odd.receipt"
    deployed.write_text("no receipt of ours\n")
    assert anchored.cli("receipt", "deploy/odd").ok().out == "no receipt of ours\n"


def test_record_deploy_as_the_original_documents_it(anchored: Place) -> None:
    digest = "ab" * 32
    words = ["record", "deploy", "--component", "scheduler", "--version", "v1.0.0", "--sha256", digest]
    words += ["--note", "Production-hardened singleton, 10/10 tests passing"]
    assert "(recorded)" in anchored.cli(*words).ok().out
    assert "(recorded before)" in anchored.cli(*words).ok().out
    text = anchored.cli("receipt", "deploy/scheduler-v1.0.0").ok().out
    assert text == (anchored.root / "ops/receipts/deploy/scheduler-v1.0.0.receipt").read_text()
    assert "10/10 tests passing" in text
    other = anchored.cli(*words[:-1], "another note")
    assert (other.code, other.out) == (Exit.CANNOT_CREATE, "")
    assert "another content" in other.err
    rows = anchored.cli("verify-audit", "--json").ok().json["rows"]
    assert re.search(r"2 memories, root [0-9a-f]{64}$", rows[-1]["detail"])
    assert anchored.cli("verify-audit", "--root", rows[-1]["detail"][-64:]).ok()
    assert anchored.cli("verify-audit", "--root", "0" * 64).code == Exit.FAILED


def test_verify_compares_evidence(anchored: Place) -> None:
    file = anchored.write("app.tar", "image")
    anchored.cli("record", "deploy", "--component", "app", "--version", "1", "--evidence", "app.tar").ok()
    assert "as app-1.receipt says" in anchored.cli("verify", "app.tar").ok().out.replace("\n", " ")
    file.write_text("imagE")
    assert anchored.cli("verify", "app.tar").code == Exit.FAILED
    (anchored.root / "ops/receipts/deploy/app-1.receipt").write_text("---\ntype: deployment\n---\n")
    assert anchored.cli("verify-audit").code == Exit.FAILED


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("record deploy --component a --version 1", Exit.USAGE),
        ("record deploy --component ../a --version 1 --sha256 " + "ab" * 32, Exit.USAGE),
        ("record deploy --component a --version 1 --sha256 xyz", Exit.USAGE),
        ("record deploy --component a --version 1 --evidence gone", Exit.FAILED),
        ("receipt deploy/../../../config/namespaces", Exit.USAGE),
        ("receipt ../config/x", Exit.USAGE),
        ("receipt deploy/none", Exit.FAILED),
        ("receipt none", Exit.FAILED),
        ("receipt .hidden", Exit.USAGE),
        ("receipt x --chain btc:mainnet", Exit.USAGE),
        ("receipt x --v1", Exit.FAILED),
        ("receipt x/y --manifest", Exit.USAGE),
        ("verify-audit --root abc", Exit.USAGE),
        ("bundle", Exit.USAGE),
        ("bundle none -o x.tar", Exit.USAGE),
    ],
)
def test_wrong_use_is_one_line(place: Place, words: str, code: Exit) -> None:
    place.configure(SEALED)
    done = place.cli(*words.split())
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("vmsh-scheduler: ")
    assert done.err.count("\n") == 1


def test_a_proof_is_written_whole_or_not_at_all(anchored: Place) -> None:
    kept = anchored.write("p.json", "an older one")
    anchored.cli("proof", "a.md", "-o", "p.json").ok()
    assert kept.read_text().startswith("{")
    whole = kept.read_bytes()
    (anchored.root / ".p.json.tmp").mkdir()  # nothing can be written beside it
    assert anchored.cli("proof", "a.md", "-o", "p.json").code != 0
    assert kept.read_bytes() == whole


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("bundle BATCH -o gone/x.tar", Exit.CANNOT_CREATE),
        ("proof a.md -o gone/x.json", Exit.CANNOT_CREATE),
        ("proof a.md -o out", Exit.CANNOT_CREATE),
        ("proof a.md -o /dev/full", Exit.IO_ERROR),
        ("receipt 1700000000-9", Exit.STATE_UNREADABLE),
        ("receipt 1 --manifest", Exit.USAGE),
    ],
)
def test_what_cannot_be_written_or_read_is_told_by_its_code(anchored: Place, words: str, code: Exit) -> None:
    (anchored.root / "out/receipts/batches/1700000000-9.json").mkdir()
    done = anchored.cli(*words.replace("BATCH", only_batch(anchored)).split())
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("vmsh-scheduler: ")
    assert ("another daemon" in done.err, done.err.count("\n")) == (False, 1)


def test_a_fifo_in_the_evidence_holds_nobody_up(anchored: Place) -> None:
    batch = only_batch(anchored)
    for name in ("ledgers/demo/entries.jsonl", "batches/9999999999-1.json"):
        path = anchored.root / "out" / name
        path.unlink(missing_ok=True)
        os.mkfifo(path)
    anchored.write("a.md", "another")
    anchored.cli("seal").ok()
    assert anchored.cli("bundle", batch, "-o", "x.tar").code == Exit.STATE_UNREADABLE
    assert anchored.cli("verify", batch).code == Exit.FAILED
    anchored.cli("trigger", "demo:files/fast").ok()
    assert "no regular file" in anchored.cli("verify").out.replace("\n", " ")
    ticked = anchored.cli("tick")
    assert (ticked.code, "entries.jsonl is no regular file" in ticked.err) == (Exit.FAILED, True)


def test_an_audit_before_anything_is_remembered(place: Place) -> None:
    place.configure(SEALED)
    assert "nothing remembered yet" in place.cli("verify-audit").ok().out
    assert not (place.root / "ops").exists()


def test_a_bundle_for_a_stranger(anchored: Place) -> None:
    batch = only_batch(anchored)
    done = anchored.cli("bundle", "a.md", "-o", "a.tar").ok()
    assert f"batch {batch}" in done.out
    subprocess.run(["tar", "xf", "a.tar"], cwd=anchored.root, check=True)
    directory = anchored.root / batch
    argv = [sys.executable, "-I", "-S", "-B", "verify.py", "../a.md"]
    checked = subprocess.run(argv, cwd=directory, env={}, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    script = hashlib.sha256((directory / "verify.py").read_bytes()).hexdigest()
    assert anchored.cli("bundle", "--script-sha256").ok().out.strip() == script
    assert script in (directory / "README.txt").read_text()


@pytest.mark.needs("openssl")
def test_the_command_that_a_bundle_prints_verifies_the_token(place: Place) -> None:
    """A stranger with openssl: the token of a real authority, its roots in the bundle, at its own time."""
    authorities = make_authorities(place.root / "ca")
    with serving(authorities) as tsa:
        place.configure(
            SEALED.replace("local:demo", "rfc3161:tsa"),
            anchors=f"rfc3161:\n  tsa: {{url: '{tsa.url()}', trustBundle: '{tsa.root}'}}\n",
        )
        place.write("a.md", "hello")
        place.cli("tick").ok()
    done = place.cli("bundle", only_batch(place), "-o", "a.tar").ok()
    assert "not in it" not in done.err
    subprocess.run(["tar", "xf", "a.tar"], cwd=place.root, check=True)
    directory = place.root / only_batch(place)
    argv = [sys.executable, "-I", "-S", "-B", "verify.py"]
    said = subprocess.run(argv, cwd=directory, env={}, capture_output=True, text=True, check=True).stdout
    (command,) = [line.split() for line in said.splitlines() if line.strip().startswith("openssl")]
    assert subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode == 0
    (directory / "certificates" / "tsa.pem").write_bytes(tsa.rogue.read_bytes())
    assert subprocess.run(command, cwd=directory, capture_output=True, check=False).returncode != 0
    assert subprocess.run(argv, cwd=directory, env={}, capture_output=True, check=False).returncode == 1
    v1 = place.cli("receipt", only_batch(place), "--v1").ok().json
    assert (v1["chain"], v1["status"], v1["network"]) == ("TSA", "verified", "tsa")
    assert len(place.cli("receipt", only_batch(place), "--manifest").ok().json["receipts"]) == 1
