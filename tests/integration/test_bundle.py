"""A bundle, checked by its own script with nothing but Python; whatever is changed in it fails."""

import ast
import base64
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.site import Document, Site
from vmsh_scheduler.anchors import bundle_verify, receipts
from vmsh_scheduler.anchors.bundle import collect, script
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.anchors.proof import proof
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import Batch, canonical, hash_bytes, hash_text, leaves_root, with_digest
from vmsh_scheduler.errors import NotFound, Usage


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Two sealed batches; the first went through a super-batch, the second alone."""
    site = Site(tmp_path / "site")
    for name in ("a.md", "b.md", "c.md"):
        site.write(name, f"content of {name}")
    first = site.seal("a.md").result
    second = site.seal("*.md").result
    members = [{"id": batch["id"], "root": batch["root"]} for batch in (first, second)]
    above = site.ask("combine", {"directory": str(site.batches), "namespace": "", "batches": members}).result
    assert site.anchor(above, "k1").code == 0
    third = site.write("d.md", "d") and site.seal("*.md").result
    assert site.anchor(third, "k2").code == 0
    return site


def extracted(archive: tarfile.TarFile, at: Path) -> None:
    """Python before 3.11.4 knows no filters; what is in the archive is ours."""
    if hasattr(tarfile, "data_filter"):
        archive.extractall(at, filter="data")
    else:
        archive.extractall(at)  # noqa: S202 - as above


def unpacked(site: Site, what: str, at: Path) -> Path:
    with tarfile.open(fileobj=io.BytesIO(collect(site.root, what).tar())) as archive:
        extracted(archive, at)
    (directory,) = at.iterdir()
    return directory


def stranger(directory: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """No site-packages, no environment, nowhere near this project."""
    argv = [sys.executable, "-I", "-S", "-B", "verify.py", *words]
    return subprocess.run(argv, cwd=directory, env={}, capture_output=True, text=True, check=False)


def in_process(directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(bundle_verify, "HERE", str(directory))
    return bundle_verify.main([])


def ids(site: Site) -> list[str]:
    return sorted(path.stem for path in site.batches.glob("*.json") if "super" not in path.stem)


def test_a_stranger_verifies_a_file_with_nothing_but_python(site: Site, tmp_path: Path) -> None:
    directory = unpacked(site, str(site.root / "a.md"), tmp_path / "out")
    done = stranger(directory, str(site.root / "a.md"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "a.md is in batch" in done.stdout
    assert "sealed as a.md" in done.stdout
    assert "if you trust vmsh.local/demo+" in done.stdout
    key = (site.ledger / "key.pub").read_text().strip()
    assert "the key that you gave" in stranger(directory, "--key", key).stdout
    assert stranger(directory, "--key", key.replace("vmsh", "other")).returncode == 1
    assert stranger(directory, str(site.root / "out")).returncode == 1
    assert stranger(directory, "--what").returncode == 2
    (site.root / "a.md").write_text("changed")
    assert stranger(directory, str(site.root / "a.md")).returncode == 1


def test_a_batch_that_went_through_a_super_batch(site: Site, tmp_path: Path) -> None:
    first = ids(site)[0]
    directory = unpacked(site, first, tmp_path / "out")
    assert len(list((directory / "batches").iterdir())) == 2
    done = stranger(directory)
    assert done.returncode == 0, done.stdout
    assert "all that can be checked here holds; 0 commands left" in done.stdout


def test_the_same_evidence_gives_the_same_bytes(site: Site) -> None:
    assert collect(site.root, ids(site)[0]).tar() == collect(site.root, ids(site)[0]).tar()


def flips(directory: Path, step: int) -> Iterator[tuple[Path, int]]:
    """Every byte of short members, every so many of long ones; the file is as before when the next one comes."""
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        raw = path.read_bytes()
        for place in range(0, len(raw), 1 if len(raw) < 300 else step):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            yield path, place
        path.unlink()
        yield path, -1
        path.write_bytes(raw)


def test_any_flipped_byte_of_any_member_fails(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = unpacked(site, str(site.root / "a.md"), tmp_path / "out")
    monkeypatch.setattr(bundle_verify, "signed", lambda *_: True)  # slow, and not what stands in a member's way
    assert in_process(directory, monkeypatch) == 0
    for path, place in flips(directory, 61):
        assert in_process(directory, monkeypatch) == 1, (path, place)
    assert in_process(directory, monkeypatch) == 0
    capsys.readouterr()


def test_a_flipped_script_fails_by_itself(site: Site, tmp_path: Path) -> None:
    """As a process: a broken line, or its own digest."""
    directory = unpacked(site, ids(site)[-1], tmp_path / "out")
    raw = (directory / "verify.py").read_bytes()
    for place in range(40, len(raw), len(raw) // 8):
        (directory / "verify.py").write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert stranger(directory).returncode == 1, place


def reforged(directory: Path) -> None:
    """bundle.json made anew, as one would who changes a member."""
    told = json.loads((directory / "bundle.json").read_text())
    for member in told["files"]:
        raw = (directory / member["path"]).read_bytes()
        member.update(sha256=hash_text(sha256(raw).digest()), size=len(raw))
    (directory / "bundle.json").write_text(canonical(with_digest(told)) + "\n")


def test_a_forged_manifest_does_not_make_a_changed_member_true(site: Site, tmp_path: Path) -> None:
    """Each change is made whole as far as hashes go; signature, trees and paths say no."""
    key = (site.ledger / "key.pub").read_text().strip()
    clean = unpacked(site, str(site.root / "a.md"), tmp_path / "clean")

    def batch(document: Document) -> None:
        document["files"][0]["sha256"] = "sha256:" + "00" * 32

    def receipt(document: Document) -> None:
        document["anchors"][0]["ts"] += 1
        document["anchor"] = document["anchors"][0]

    def member_root(document: Document) -> None:
        document["root"] = document["leaves"][0]

    def entry(document: Document) -> None:
        line = with_digest({**json.loads(document["entry"]), "ts": 1})
        document["entry"] = canonical(line)

    def note(document: Document) -> None:
        document["checkpoint"] = document["checkpoint"].replace("\n1\n", "\n2\n").replace("\n2\n", "\n3\n", 1)

    def sealed(document: Document) -> None:
        document["file"]["size"] += 1

    changes = [
        ("batches", batch),
        ("batches", member_root),
        ("receipts", receipt),
        ("ledgers", entry),
        ("ledgers", note),
    ]
    reasons = ["files are not its leaves", "leaves do not give its root", "the receipt differs from the ledger"]
    reasons += ["the entry does not lead to the checkpoint", "signature does not hold", "the file is not in the batch"]
    for number, (part, change) in enumerate([*changes, ("proofs", sealed)]):
        directory = tmp_path / f"forged{number}"
        shutil.copytree(clean, directory)
        path = next(path for path in sorted((directory / part).iterdir()) if "super" not in path.name)
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(with_digest(document) if "digest" in document else document))
        reforged(directory)
        done = stranger(directory, "--key", key)
        assert "ok   bundle" in done.stdout
        assert done.returncode == 1
        assert reasons[number] in done.stdout


def test_a_member_that_is_not_listed_is_not_taken(site: Site, tmp_path: Path) -> None:
    directory = unpacked(site, ids(site)[-1], tmp_path / "out")
    shutil.copy(site.batches / f"{ids(site)[0]}.json", directory / "batches")
    assert "does not list" in stranger(directory).stdout


def test_a_certificate_that_is_not_listed_is_not_taken(site: Site, tmp_path: Path) -> None:
    """It would be what the printed openssl command believes."""
    directory = unpacked(site, ids(site)[-1], tmp_path / "out")
    (directory / "certificates").mkdir(exist_ok=True)
    (directory / "certificates" / "demo.pem").write_text("-----BEGIN CERTIFICATE-----")
    assert "does not list ['certificates/demo.pem']" in stranger(directory).stdout


def test_nothing_beside_the_script_is_imported_as_the_readme_has_it(site: Site, tmp_path: Path) -> None:
    directory = unpacked(site, ids(site)[-1], tmp_path / "out")
    (directory / "base64.py").write_text("import os\nos._exit(0)\n")
    readme = (directory / "README.txt").read_text()
    command = next(line for line in readme.splitlines() if "everything in here" in line).split("  ")[2]
    argv = [sys.executable, *command.split()[1:]]
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)
    assert "all that can be checked here holds" in done.stdout


def test_the_signature_check_is_ed25519() -> None:
    """Against another implementation, and the first vectors of RFC 8032 7.1."""
    vectors = [
        (
            "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
            "",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
            "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
        ),
        (
            "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
            "72",
            "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
            "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
        ),
    ]
    for public, message, signature in vectors:
        assert bundle_verify.signed(*map(bytes.fromhex, (public, message, signature)))
    for seed in range(6):
        key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        signature = key.sign(b"message")
        assert bundle_verify.signed(public, b"message", signature)
        assert not bundle_verify.signed(public, b"messagE", signature)
        for place in (0, 31, 32, 63):
            flipped = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
            with suppress(bundle_verify.Fault):  # not even a point
                assert not bundle_verify.signed(public, b"message", flipped)
        over = (int.from_bytes(signature[32:], "little") + bundle_verify.ORDER).to_bytes(32, "little")
        assert not bundle_verify.signed(public, b"message", signature[:32] + over)
        assert not bundle_verify.signed(public, b"message", signature[:-1])


def test_the_scripts_trees_are_ours() -> None:
    leaves = [bytes([number]) * 32 for number in range(70)]
    for size in range(70):
        assert bundle_verify.tree_root(leaves[:size]) == merkle.root([merkle.leaf_hash(leaf) for leaf in leaves[:size]])
        assert bundle_verify.v0_root(leaves[:size]) == merkle.v0_root(leaves[:size])
    tree = merkle.tree([merkle.leaf_hash(leaf) for leaf in leaves])
    for index, leaf in enumerate(leaves):
        step = {"index": index, "size": 70, "path": [hash_text(node) for node in tree.inclusion(index)]}
        assert bundle_verify.climbs(merkle.leaf_hash(leaf), step, tree.root)
        assert not bundle_verify.climbs(merkle.leaf_hash(leaf), {**step, "index": (index + 1) % 70}, tree.root)
        assert not bundle_verify.climbs(merkle.leaf_hash(leaf), {**step, "path": step["path"][1:]}, tree.root)


def test_a_v0_batch_with_its_events(tmp_path: Path) -> None:
    site = Site(tmp_path / "site")
    hashes = [hash_text(bytes([number]) * 32) for number in range(3)]
    batch = site.put_batch("1700000000", leaves=3, root=leaves_root("v0", hashes))
    document = json.loads(Path(batch["file"]).read_text()) | {"leaves": hashes}
    Path(batch["file"]).write_text(json.dumps(document))
    for number, leaf in enumerate(hashes):
        path = [hash_text(node) for node in merkle.v0_path([hash_bytes(text) for text in hashes], number)]
        event = {"eventHash": leaf, "batchRoot": batch["root"], "path": path, "eventId": f"e{number}"}
        site.write(f"out/receipts/e{number}.json", json.dumps(event))
    assert site.anchor(batch, "k").code == 0
    directory = unpacked(site, "1700000000", tmp_path / "out")
    done = stranger(directory)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("the event leads to the batch root") == 3
    event = json.loads((directory / "receipts/events/e0.json").read_text())
    for change in ({"eventHash": hashes[1]}, {"eventHash": hashes[1], "path": [], "batchRoot": hashes[1]}):
        (directory / "receipts/events/e0.json").write_text(json.dumps({**event, **change}))
        reforged(directory)
        assert stranger(directory).returncode == 1


def anchored_outside(site: Site, batch: str) -> str:
    """As the rails leave it: a token, a transaction each, an OpenTimestamps proof. Gives the root."""
    document = json.loads((site.batches / f"{batch}.json").read_text())
    root = document["root"]
    token = b"\x30\x03 a reply with its imprint \x04\x20" + bundle_verify.sha256(hash_bytes(root))
    stamp = b"\x00" * 33 + hash_bytes(root) + b"rest"
    site.write("out/attestations/ots/pool/x.ots", "").write_bytes(stamp)
    whole = {"block": 3, "ts": 1_700_000_000, "status": "final", "depth": 1, "need": 1}
    for anchor in (
        {"chain": "rfc3161:tsa", "tx": "t", "block": 0, "ts": 1_700_000_000, "sig": base64.b64encode(token).decode()},
        {"chain": "eip155:1", "tx": "0x" + "ab" * 32, "contract": "0x" + "cd" * 20, **whole},
        {"chain": "btc:mainnet", "tx": "ab" * 32, "blockHash": "00ff", **whole},
        {"chain": "ots:pool", "tx": "c", **whole, "proof": "out/attestations/ots/pool/x.ots"},
    ):
        covered = receipts.Covered(Batch(batch, root, 0, batch, tree=document["tree"], namespace="demo:files"))
        assert receipts.record(site.out, [covered], anchor) == []
    return str(root)


def test_what_needs_a_node_is_said_with_its_command(site: Site, tmp_path: Path) -> None:
    batch = ids(site)[-1]
    root = anchored_outside(site, batch)
    pem = site.write("tsa.pem", "certificates")
    made = collect(site.root, batch)
    assert made.authorities == ["tsa"]
    made.certificates({"tsa": pem, "other": pem})
    with tarfile.open(fileobj=io.BytesIO(made.tar())) as archive:
        extracted(archive, tmp_path / "out")
    directory = tmp_path / "out" / batch
    done = stranger(directory)
    assert done.returncode == 0, done.stdout
    place = "attestations/rfc3161-tsa"
    openssl = f"openssl ts -verify -data {place}.root -in {place}.tsr -attime 1700000000 -CAfile certificates/tsa.pem"
    assert openssl in done.stdout
    assert "eth_getTransactionReceipt" in done.stdout
    assert f"an output 6a225256{root[7:]}" in done.stdout
    assert f"bitcoin-cli getrawtransaction {'ab' * 32} 1 00ff" in done.stdout
    assert f"ots verify -d {root[7:]} attestations/ots-pool.ots" in done.stdout
    assert "4 commands left to run" in done.stdout
    for member in (f"{place}.tsr", "attestations/ots-pool.ots"):
        raw = (directory / member).read_bytes()
        (directory / member).write_bytes(raw.replace(raw[-20:-4], b"another root...."))
        reforged(directory)
        assert stranger(directory).returncode == 1, member
        (directory / member).write_bytes(raw)
        reforged(directory)
        assert stranger(directory).returncode == 0


def test_what_is_gone_is_said(site: Site) -> None:
    batch = ids(site)[-1]
    anchored_outside(site, batch)
    (site.root / "out/attestations/ots/pool/x.ots").unlink()
    made = collect(site.root, batch)
    made.certificates({"tsa": site.root / "gone.pem"})
    assert [missing.partition(":")[0] for missing in made.missing] == ["ots", "rfc3161"]


def test_a_path_in_a_receipt_leads_nowhere_else(site: Site) -> None:
    batch = ids(site)[-1]
    document = json.loads((site.batches / f"{batch}.json").read_text())
    covered = receipts.Covered(Batch(batch, document["root"], 0, batch, tree=document["tree"]))
    evil = {"chain": "ots:x", "tx": "c", "block": 0, "ts": 1, "proof": "../site/a.md"}
    assert receipts.record(site.out, [covered], evil) == []
    assert collect(site.root, batch).missing == ["ots:x: ../site/a.md is gone"]


def test_what_cannot_be_bundled_is_refused(site: Site) -> None:
    with pytest.raises(Usage, match="no batch and no file"):
        collect(site.root, "nothing")
    with pytest.raises(NotFound, match="in no anchored batch"):
        collect(site.root, str(site.write("new.md", "x")))
    fresh = site.seal("*.md", namespace="other").result["id"]
    with pytest.raises(NotFound, match="no receipt"):
        collect(site.root, fresh)
    batch = site.batches / f"{ids(site)[0]}.json"
    batch.write_text(batch.read_text().replace("a.md", "z.md"))
    with pytest.raises(Corrupt):
        collect(site.root, batch.stem)
    entries = site.ledger / "entries.jsonl"
    entries.write_bytes(entries.read_bytes().replace(b"fast", b"slow"))
    with pytest.raises(Corrupt, match="no sound entry"):
        collect(site.root, ids(site)[-2])


def test_the_script_is_the_module(site: Site, tmp_path: Path) -> None:
    directory = unpacked(site, ids(site)[-1], tmp_path / "out")
    assert (directory / "verify.py").read_bytes() == script() == Path(bundle_verify.__file__).read_bytes()


def test_the_script_asks_for_nothing_new() -> None:
    """The grammar of Python 3.8, and modules that were in it; annotations are never evaluated."""
    module = ast.parse(script(), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(module) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(module) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "base64", "hashlib", "json", "os", "re", "sys", "typing"}


def stamped_alone(site: Site, name: str) -> tuple[str, Document]:
    """A file's batch that a time-stamping authority has, and no ledger."""
    site.write(name, name)
    batch = site.seal(name).result
    token = b"\x30\x03 a reply with its imprint \x04\x20" + bundle_verify.sha256(hash_bytes(batch["root"]))
    sig = base64.b64encode(token).decode()
    return batch["id"], {"chain": "rfc3161:tsa", "tx": "t", "block": 0, "ts": 1_700_000_000, "sig": sig}


def recorded(site: Site, batch: str, anchor: Document) -> None:
    document = json.loads((site.batches / f"{batch}.json").read_text())
    covered = receipts.Covered(Batch(batch, document["root"], 0, batch, tree=document["tree"]))
    assert receipts.record(site.out, [covered], anchor) == []


def test_a_file_whose_batch_was_only_stamped(site: Site, tmp_path: Path) -> None:
    batch, anchor = stamped_alone(site, "e.txt")
    recorded(site, batch, anchor)
    directory = unpacked(site, str(site.root / "e.txt"), tmp_path / "out")
    done = stranger(directory, str(site.root / "e.txt"))
    assert done.returncode == 0, done.stdout
    assert f"proofs/file.json: e.txt is in batch {batch}, stamped: rfc3161:tsa" in done.stdout
    assert "which rests on: rfc3161:tsa: the token is about this root, its signature is not checked" in done.stdout
    key = (site.ledger / "key.pub").read_text().strip()
    held = stranger(directory, "--key", key)
    assert held.returncode == 1
    assert "nothing in it is signed by the key that you gave" in held.stdout
    proof = json.loads((directory / "proofs/file.json").read_text())
    without = {name: value for name, value in proof.items() if name != "anchors"}
    other = {**proof, "anchors": [{**anchor, "ts": 1}]}
    for changed, reason in ((without, "no ledger entry and to no time stamp"), (other, "is not in the receipt")):
        (directory / "proofs/file.json").write_text(json.dumps(with_digest(changed)))
        reforged(directory)
        done = stranger(directory)
        assert done.returncode == 1
        assert reason in done.stdout


def test_the_proof_is_of_the_bundles_batch(site: Site, tmp_path: Path) -> None:
    """The newest one is on a chain alone: what a ledger has of the file, older contents, proves nothing of it."""
    site.write("d.md", "another d")
    newest = site.seal("d.md").result["id"]
    recorded(site, newest, {"chain": "eip155:1", "tx": "0x" + "ab" * 32, "block": 3, "ts": 1_700_000_000})
    made = collect(site.root, str(site.root / "d.md"))
    assert made.batch.id == newest
    assert "proofs/file.json" not in made.members
    assert len(made.missing) == 1
    assert "not anchored in a sound ledger yet" in made.missing[0]
    directory = unpacked(site, str(site.root / "d.md"), tmp_path / "out")
    done = stranger(directory, str(site.root / "d.md"))
    assert done.returncode == 0, done.stdout
    assert f"which rests on: eip155:1 0x{'ab' * 32}: not checked here, see below" in done.stdout
    older = ids(site)[-2]
    (directory / "proofs").mkdir()
    site.write("d.md", "d")
    foreign = proof(site.root, site.root / "d.md", only=older)
    (directory / "proofs/file.json").write_text(json.dumps(foreign))
    listing(directory, "proofs/file.json")
    assert "it is not of the bundle's batch" in stranger(directory).stdout


def listing(directory: Path, *paths: str) -> None:
    """More members in bundle.json, as one would who forges."""
    told = json.loads((directory / "bundle.json").read_text())
    told["files"] += [{"path": path} for path in paths]
    (directory / "bundle.json").write_text(json.dumps(told))
    reforged(directory)


def forged_batch(data: bytes) -> Document:
    """Whole as far as hashes go, and sealed by nobody."""
    file = {"path": "evil.txt", "sha256": hash_text(sha256(data).digest()), "size": len(data)}
    leaf = sha256(canonical(file).encode()).digest()
    listed = {"tree": "rfc6962-sha256", "leaves": [hash_text(leaf)], "files": [file]}
    return with_digest({"id": "16-1", "root": hash_text(merkle.root([merkle.leaf_hash(leaf)])), **listed})


def test_a_batch_without_a_receipt_seals_nothing(site: Site, tmp_path: Path) -> None:
    key = (site.ledger / "key.pub").read_text().strip()
    evil = site.write("evil.txt", "forged")
    forged = forged_batch(evil.read_bytes())

    def beside(directory: Path) -> None:
        (directory / "batches/16-1.json").write_text(json.dumps(forged))
        listing(directory, "batches/16-1.json")

    def instead(directory: Path, **change: object) -> None:
        """The bundle is said to be of it, with a receipt that says what the genuine one says."""
        beside(directory)
        (genuine,) = (directory / "receipts").glob("*.json")
        about = {"batchId": "16-1", "batchRoot": forged["root"]}
        receipt = with_digest({**json.loads(genuine.read_text()), **about, **change})
        (directory / "receipts/16-1.json").write_text(json.dumps(receipt))
        listing(directory, "receipts/16-1.json")
        told = json.loads((directory / "bundle.json").read_text()) | {"batch": "16-1", "root": forged["root"]}
        (directory / "bundle.json").write_text(json.dumps(told))
        reforged(directory)

    def rootless(directory: Path) -> None:
        """The genuine batch's root, and files that are not below it."""
        (genuine,) = (directory / "batches").glob("*.json")
        told = {**forged, **{name: json.loads(genuine.read_text())[name] for name in ("id", "root")}}
        genuine.write_text(json.dumps(with_digest({name: told[name] for name in told if name != "leaves"})))
        reforged(directory)

    event = {"eventHash": forged["root"], "path": []}
    forgeries = (beside, instead, rootless)
    changes: tuple[Document, ...] = ({"anchors": []}, event, {"anchors": [a_transaction()]})
    made = [*forgeries, *(lambda directory, change=change: instead(directory, **change) for change in changes)]
    for number, forge in enumerate(made):
        directory = unpacked(site, ids(site)[-1], tmp_path / f"out{number}")
        assert stranger(directory, "--key", key).returncode == 0
        forge(directory)
        done = stranger(directory, "--key", key, str(evil))
        assert "ok   bundle" in done.stdout, number
        assert done.returncode == 1, (number, done.stdout)
        assert f"FAIL {evil}" in done.stdout, (number, done.stdout)


def a_transaction() -> Document:
    return {"chain": "eip155:1", "tx": "0x" + "ab" * 32, "block": 3, "ts": 1_700_000_000}


def test_no_name_in_a_bundle_makes_a_line_or_a_command_of_its_own(site: Site, tmp_path: Path) -> None:
    directory = unpacked(site, ids(site)[-1], tmp_path / "out")
    (path,) = (directory / "receipts").glob("*.json")
    whole = json.loads(path.read_text())
    for evil in ({"tx": "$(reboot)"}, {"chain": "eip155:1\nok   "}, {"blockHash": "; reboot"}):
        path.write_text(json.dumps(with_digest({**whole, "anchors": [{**a_transaction(), **evil}]})))
        reforged(directory)
        assert "characters that no chain's names have" in stranger(directory).stdout
    path.write_text(path.read_text().replace('"batchId"', '"batchId\\nok   FILE"'))
    reforged(directory)
    assert "\nok   FILE" not in stranger(directory, "no\nok   FILE").stdout


def test_only_a_file_is_written_over(site: Site, tmp_path: Path) -> None:
    made, there = collect(site.root, ids(site)[-1]), tmp_path / "there"
    there.mkdir()
    os.mkfifo(there / "fifo")
    (there / "link").symlink_to(tmp_path / "elsewhere")
    for path in (there, there / "fifo", there / "link"):
        with pytest.raises(Usage, match="no regular file"):
            made.write(path)
    assert stat.S_ISFIFO((there / "fifo").stat().st_mode)
    assert (there / "link").is_symlink()
    (there / "old.tar").write_text("old")
    for name in ("old.tar", "new.tar"):
        made.write(there / name)
        assert tarfile.is_tarfile(there / name)
    assert sorted(path.name for path in there.iterdir()) == ["fifo", "link", "new.tar", "old.tar"]
