"""Sealing, combining, receipts, proofs and verification over real files: what is said when something was changed."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Document, Site
from vmsh_scheduler.anchors import proof, receipts, sealing
from vmsh_scheduler.anchors.proof import check_proof, verify_proof
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import RFC6962, Batch, hash_bytes, hash_text, leaves_root
from vmsh_scheduler.errors import Exit, NotFound, Usage


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.chdir(tmp_path)
    site = Site(tmp_path)
    for name in ("README.md", "docs/a.md", "docs/deep/b.md", "docs/.hidden.md", "docs/c.txt"):
        site.write(name, f"content of {name}\n")
    return site


def sealed_paths(answer: Document) -> list[str]:
    return [file["path"] for file in json.loads(Path(answer["file"]).read_text())["files"]]


# sealing


def test_a_seal_takes_what_the_globs_name_in_order(site: Site) -> None:
    answer = site.seal("docs/**/*.md", "./README.md", "docs/*.txt")
    assert answer.code == 0
    assert sealed_paths(answer.result) == ["README.md", "docs/a.md", "docs/c.txt", "docs/deep/b.md"]
    assert sealed_paths(site.seal("docs/**").result) == ["docs/a.md", "docs/c.txt", "docs/deep/b.md"]
    assert sealed_paths(site.seal("docs/.*.md").result) == ["docs/.hidden.md"]
    assert sealed_paths(site.seal("**/**/b.md").result) == ["docs/deep/b.md"]
    assert sealed_paths(site.seal("*.md", base="docs").result) == ["a.md"]


def test_a_batch_says_how_its_root_comes_about(site: Site) -> None:
    answer = site.seal("*.md", "docs/a.md").result
    document = json.loads(Path(answer["file"]).read_text())
    assert document["id"] == Path(answer["file"]).stem == answer["id"]
    assert (document["tree"], document["namespace"], document["count"]) == (RFC6962, "demo:files", 2)
    leaves = [merkle.leaf_hash(hash_bytes(leaf)) for leaf in document["leaves"]]
    assert document["root"] == hash_text(merkle.root(leaves)) == answer["root"]


def test_an_unchanged_root_writes_nothing(site: Site) -> None:
    first = site.seal("*.md").result
    again = site.seal("*.md").result
    assert (again["status"], again["id"]) == ("unchanged", first["id"])
    assert site.seal("*.md", namespace="other:files").result["status"] == "ok"
    assert site.seal("*.md").result["status"] == "unchanged"
    site.write("README.md", "changed")
    assert site.seal("*.md").result["status"] == "ok"
    assert len(list(site.batches.glob("*.json"))) == 3


def test_a_moved_file_changes_the_root(site: Site) -> None:
    first = site.seal("docs/*.md").result
    (site.root / "docs/a.md").rename(site.root / "docs/z.md")
    assert site.seal("docs/*.md").result["root"] != first["root"]


def test_ids_rise_although_the_clock_steps_back(site: Site) -> None:
    ids = []
    for number, now in enumerate((1_700_000_000, 1_700_000_000, 1_600_000_000, 1_700_000_005)):
        site.write("README.md", str(number))
        what = sealing.Wanted("n", ["README.md"], site.root, site.batches, site.root)
        ids.append(sealing.seal(what, now)["id"])
    assert ids == ["1700000000-1", "1700000000-2", "1700000000-3", "1700000005-1"]


def test_what_cannot_be_sealed_is_named_and_left_out(site: Site) -> None:
    (site.root / "outside").symlink_to("/etc")
    (site.root / "passwd.md").symlink_to("/etc/passwd")
    (site.root / "gone.md").symlink_to("nowhere")
    (site.root / "inside.md").symlink_to("docs/a.md")
    os.mkfifo(site.root / "pipe.md")
    Path(os.fsdecode(os.fsencode(site.root) + b"/\xff.md")).write_text("x")
    answer = site.seal("*.md", "outside/passwd", "nothing*").result
    assert sealed_paths(answer) == ["README.md", "inside.md"]
    omitted = {item["path"]: item["reason"] for item in answer["omitted"]}
    assert "leads out" in omitted["passwd.md"]
    assert "leads out" in omitted["outside/passwd"]
    assert omitted["gone.md"] == "No such file or directory"
    assert omitted["pipe.md"] == "not a regular file"
    assert omitted["nothing*"] == "no such file"
    assert any(reason == "name is not UTF-8" for reason in omitted.values())
    assert not site.failures()


@pytest.mark.parametrize("pattern", ["/etc/*", "../*", "a//b", "", "a/../b", "."])
def test_patterns_stay_inside(site: Site, pattern: str) -> None:
    answer = site.seal(pattern)
    assert answer.code == Exit.CONFIG
    assert "must be relative" in answer.result["message"]


def test_nothing_left_is_a_failure(site: Site) -> None:
    answer = site.seal("nope/*.md")
    assert answer.code == Exit.STATE_UNREADABLE
    assert "nope/*.md: no such file" in answer.result["message"]
    assert "no patterns given" in site.seal().result["message"]
    assert not site.batches.exists()


def test_a_file_that_changes_while_it_is_read_is_not_sealed(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = iter(range(100))

    class Busy:
        """fstat that sees another mtime each time."""

        def __init__(self, found: os.stat_result) -> None:
            self.st_mode, self.st_size, self.st_ctime_ns = found.st_mode, found.st_size, found.st_ctime_ns
            self.st_mtime_ns = next(stats)

    real = os.fstat
    monkeypatch.setattr(os, "fstat", lambda handle: Busy(real(handle)))
    assert sealing.fingerprint(site.root / "README.md", site.root) == "changed while it was read"


def test_our_own_output_and_keys_are_not_sealed(site: Site) -> None:
    site.write("state/keys/demo.ed25519", "secret")
    first = site.seal("**/*").result
    assert not any(path.startswith(("out/", "state/")) for path in sealed_paths(first))
    assert site.seal("**/*").result["status"] == "unchanged"


def test_a_base_behind_a_link_is_followed(site: Site, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("docs")
    what = sealing.Wanted("n", ["*.md"], tmp_path / "link", site.batches, tmp_path)
    assert sealed_paths(sealing.seal(what, 1_700_000_000)) == ["a.md"]
    assert not site.failures()


def test_limits_are_said(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmsh_scheduler.anchors.matching.MAX_FILES", 2)
    assert "more than 2 files" in site.seal("**/*").result["message"]
    monkeypatch.setattr("vmsh_scheduler.anchors.matching._MAX_DEPTH", 1)
    assert {"path": "docs/deep", "reason": "more than 1 directories deep"} in site.seal("**/b.md", "*.md").result[
        "omitted"
    ]
    monkeypatch.setattr(sealing, "FILE_LIMIT", 3)
    assert "larger than 3 bytes" in site.seal("README.md").result["message"]


# combining


def combine(site: Site, *batches: Document, **more: object) -> Document:
    members = [{"id": batch["id"], "root": batch["root"]} for batch in batches]
    document = {"directory": str(site.batches), "namespace": "demo:files", "batches": members, **more}
    answer = site.ask("combine", document)
    return {**answer.result, "exit": answer.code}


def test_a_super_batch_is_a_tree_over_roots_and_made_once(site: Site) -> None:
    parts = [site.put_batch("10"), site.put_batch("11"), site.put_batch("12")]
    made = combine(site, *parts)
    text = Path(made["file"]).read_text()
    assert made["root"] == leaves_root(RFC6962, [part["root"] for part in parts])
    assert json.loads(text)["id"] == Path(made["file"]).stem
    assert combine(site, *parts) == made
    assert Path(made["file"]).read_text() == text
    Path(made["file"]).write_text("{}")
    assert combine(site, *parts)["exit"] == Exit.STATE_UNREADABLE


def test_two_namespaces_may_combine_the_same_untagged_batches(site: Site) -> None:
    parts = [site.put_batch("10"), site.put_batch("11")]
    made = combine(site, *parts)
    text = Path(made["file"]).read_text()
    assert combine(site, *parts, namespace="demo:other") == made
    assert Path(made["file"]).read_text() == text
    Path(made["file"]).write_text(text.replace("demo:files", "demo:fakes"))
    assert combine(site, *parts, namespace="demo:other")["exit"] == Exit.STATE_UNREADABLE


def test_combine_refuses_what_is_not_there(site: Site) -> None:
    one, two = site.put_batch("10"), site.put_batch("11")
    assert "at least two" in combine(site, one)["message"]
    assert "another root" in combine(site, one, {**two, "root": one["root"]})["message"]
    assert "batch 99" in combine(site, one, {**two, "id": "99"})["message"]
    assert "plain id" in combine(site, one, {**two, "id": "../x"})["message"]
    assert "not a list" in combine(site, batches="x")["message"]
    assert "directory is missing" in combine(site, one, two, directory="")["message"]


# receipts


def attestation(chain: str, **more: object) -> Document:
    return {"chain": chain, "tx": "0x1", "block": 7, "ts": 1_700_000_000, **more}


def event_receipt(site: Site, name: str, batch: Document, index: int, **more: object) -> Path:
    leaves = [hash_bytes(leaf) for leaf in batch["leaves"]]
    document = {
        "eventHash": batch["leaves"][index],
        "batchRoot": batch["root"],
        "path": [hash_text(node) for node in merkle.v0_path(leaves, index)],
        "anchor": attestation("vm:internal", tx=f"batch:{batch['id']}", block=0),
        "verifier": "did:vm:arbiter:local-sealer",
        "integrity": f"vmr1-{batch['id']}-{name}",
        "eventId": name,
        **more,
    }
    return site.write(f"out/receipts/{name}.json", json.dumps(document, indent=2))


def test_a_receipt_has_one_anchor_per_chain_strongest_first(site: Site) -> None:
    sealed = site.seal("*.md").result
    site.anchor(sealed, "k1")
    batch = sealing.glance(Path(sealed["file"]))
    assert isinstance(batch, Batch)
    covered = [receipts.Covered(batch)]
    for chain in ("eip155:1", "btc:mainnet", "eip155:5", "btc:mainnet"):
        assert receipts.record(site.out, covered, attestation(chain)) == []
    site.anchor(sealed, "k2")
    found = receipts.read(receipts.path_of(site.out, sealed["id"]))
    assert [anchor["chain"] for anchor in found["anchors"]] == ["btc:mainnet", "eip155:1", "eip155:5", "local:demo"]
    assert found["anchor"] == found["anchors"][0]
    assert found["anchors"][-1]["block"] == 0
    assert (
        "btc:mainnet (not checked here: ask with --online)"
        in [row.detail for row in site.verify(sealed["id"]).rows][-1]
    )
    assert not site.failures()


def test_a_damaged_receipt_is_kept_aside_and_said(site: Site) -> None:
    sealed = site.seal("*.md").result
    site.anchor(sealed, "k1")
    path = receipts.path_of(site.out, sealed["id"])
    path.write_text(path.read_text().replace('"block":0', '"block":1'))
    assert "does not match its own digest" in site.failures()[0].detail
    answer = site.anchor(sealed, "k1")
    assert "kept as" in answer.result["warnings"][0]
    assert path.with_suffix(".damaged").exists()
    assert not site.failures()


def test_v0_event_receipts_get_their_anchors(site: Site) -> None:
    batch = site.put_batch("1700000000", leaves=3)
    paths = [event_receipt(site, f"e{number}", batch, number) for number in range(3)]
    other = event_receipt(site, "unrelated", site.put_batch("5", leaves=2), 0).read_text()
    assert all(row.detail == "not anchored yet" for row in site.verify(str(paths[0])).rows)
    answer = site.anchor(batch, "k")
    for path in paths:
        document = json.loads(path.read_text())
        assert document["anchor"] == answer.result["attestation"] == document["anchors"][0]
        assert document["verifier"] == "did:vm:arbiter:local-sealer"
    assert (site.out / "receipts/unrelated.json").read_text() == other
    before = paths[0].read_text()
    site.anchor(batch, "k")
    assert paths[0].read_text() == before
    assert not site.failures()


def test_an_upstream_anchor_is_kept_beside_ours(site: Site) -> None:
    batch = site.put_batch("1700000000", leaves=2)
    path = event_receipt(site, "e0", batch, 0, anchor=attestation("eip155:8453", contract="0x2"))
    site.anchor(batch)
    document = json.loads(path.read_text())
    assert [anchor["chain"] for anchor in document["anchors"]] == ["eip155:8453", "local:demo"]
    assert document["anchor"]["contract"] == "0x2"


def test_members_of_a_super_batch_get_receipts_with_the_way_up(site: Site) -> None:
    parts = [site.put_batch(str(number), leaves=2) for number in (10, 11, 12)]
    event = event_receipt(site, "e0", parts[1], 0)
    made = combine(site, *parts)
    assert site.anchor(made, "k").code == 0
    for part in parts:
        anchor = receipts.read(receipts.path_of(site.out, part["id"]))["anchor"]
        assert anchor["via"]["batch"] == made["id"]
    assert json.loads(event.read_text())["anchor"]["via"]["index"] == 1
    assert not site.failures()
    document = json.loads(event.read_text())
    document["anchors"][0]["via"]["index"] = 2
    document["anchor"] = document["anchors"][0]
    event.write_text(json.dumps(document))
    assert "does not lead from the batch" in site.failures()[0].detail


def test_a_member_that_changed_gets_no_receipt(site: Site) -> None:
    one, two = site.put_batch("10"), site.put_batch("11")
    made = combine(site, one, two)
    site.put_batch("11", root="sha256:" + "ab" * 32)
    assert "changed after it was combined" in site.anchor(made, "k").result["warnings"][0]
    assert not receipts.path_of(site.out, "11").exists()
    details = [row.detail for row in site.failures()]
    assert "batch 11 changed after it was combined" in details
    Path(two["file"]).unlink()
    assert "batch 11 is gone" in [row.detail for row in site.failures()]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"path": []}, "does not lead from the event"),
        ({"eventHash": "sha256:" + "00" * 32}, "does not lead from the event"),
        ({"integrity": "vmr1-9-e0"}, "integrity mark"),
        ({"anchors": [{"chain": 1}]}, "not well-formed"),
        ({"anchors": [attestation("btc:x")]}, "not the strongest"),
        ({"anchor": attestation("local:none")}, "there is no such ledger"),
        ({"anchor": attestation("local:demo")}, "differs from entry 7"),
        ({"anchor": attestation("btc:mainnet", via={"root": 1})}, "to the super-batch"),
        ({"batchRoot": "x"}, "lacks eventHash"),
        ({"anchors": 1}, "no list"),
    ],
)
def test_event_receipts_that_lie(site: Site, change: Document, part: str) -> None:
    batch = site.put_batch("1700000000", leaves=2)
    for number in range(8):
        site.anchor({**batch}, f"k{number}")
    path = event_receipt(site, "e0", batch, 0, **change)
    assert part in site.failures(str(path))[0].detail


def test_receipts_that_are_no_json_are_said_and_change_nothing(site: Site) -> None:
    batch = site.put_batch("1700000000", leaves=2)
    site.write("out/receipts/junk.json", "{")
    assert "junk.json" in site.anchor(batch).result["warnings"][0]
    assert "not JSON" in site.failures(str(site.out / "receipts/junk.json"))[0].detail


# verification


def test_nothing_to_verify_is_said(tmp_path: Path) -> None:
    report = Site(tmp_path).verify()
    assert [(row.kind, row.ok) for row in report.rows] == [("nothing", True)]
    assert "nothing to verify yet" in report.rows[0].detail
    with pytest.raises(Usage):
        Site(tmp_path).verify("nope")
    with pytest.raises(Usage):
        Site(tmp_path).verify("local:nope")


def test_everything_is_looked_at(site: Site) -> None:
    sealed = site.seal("**/*.md").result
    site.anchor(sealed)
    report = site.verify()
    assert report.ok
    assert report.exit == Exit.OK
    assert [row.kind for row in report.rows] == ["ledger", "batch", "receipt", "file"]
    assert report.to_json()["checked"] == 4
    for what in (sealed["id"], sealed["file"], "local:demo", str(site.root / "README.md"), "README.md"):
        assert site.verify(what).ok, what
    assert site.verify(str(receipts.path_of(site.out, sealed["id"]))).ok


def test_a_changed_file_is_not_a_corrupt_batch(site: Site) -> None:
    site.anchor(sealed := site.seal("**/*.md").result)
    site.write("docs/a.md", "tampered")
    (site.root / "README.md").unlink()
    found = {row.subject: (row.kind, row.detail.partition(" (")[0]) for row in site.failures()}
    assert found == {
        "docs/a.md": ("file", "changed since sealed"),
        "README.md": ("file", "cannot be read: No such file or directory"),
    }
    assert site.verify().exit == Exit.FAILED
    assert [row.ok for row in site.verify(sealed["id"]).rows if row.kind == "batch"] == [True]
    assert site.failures(str(site.root / "docs/a.md"))[0].detail == "changed since sealed"


def test_only_the_newest_batch_is_held_against_the_files(site: Site) -> None:
    site.anchor(site.seal("*.md").result)
    site.write("README.md", "next version")
    site.anchor(site.seal("*.md").result)
    assert site.verify().ok


def flips(raw: bytes) -> Iterator[tuple[int, bytes]]:
    for at in range(len(raw)):
        yield at, raw[:at] + bytes([raw[at] ^ 0x01]) + raw[at + 1 :]


@pytest.mark.parametrize("which", ["sealed", "anchored", "super", "receipt", "event anchors"])
def test_any_flipped_bit_in_batches_and_receipts_is_found(site: Site, which: str) -> None:
    sealed = site.seal("*.md").result
    if which != "sealed":
        site.anchor(sealed, "k")
    path = Path(sealed["file"])
    if which == "receipt":
        path = receipts.path_of(site.out, sealed["id"])
    if which == "super":
        made = combine(site, sealed, site.put_batch("10"))
        site.anchor(made, "k2")
        path = Path(made["file"])
    if which == "event anchors":
        batch = site.put_batch("10", leaves=2)
        site.anchor(batch, "k2")
        path = Path(batch["file"])  # a foreign file, fixed byte by byte by its ledger entry
    raw = path.read_bytes()
    for at, changed in flips(raw):
        path.write_bytes(changed)
        assert site.failures(str(path)), f"{which}: a flip at {at} ({raw[at : at + 1]!r}) went unseen"
    path.write_bytes(raw)
    assert not site.failures()


def test_an_anchored_batch_that_is_gone_is_missed(site: Site) -> None:
    site.anchor(sealed := site.seal("*.md").result)
    Path(sealed["file"]).unlink()
    assert "gone, though ledger 'demo' anchored it" in [row.detail for row in site.failures()]


def test_a_receipt_for_an_entry_that_was_cut_off_fails(site: Site) -> None:
    sealed = site.seal("*.md").result
    kept = {}
    site.anchor(site.put_batch("10"), "k1")
    names = ("entries.jsonl", "checkpoints.jsonl", "checkpoint", "tail.json")
    kept = {name: (site.ledger / name).read_bytes() for name in names}
    site.anchor(sealed, "k2")
    for name in names:
        (site.ledger / name).write_bytes(kept[name])
    assert site.verify("local:demo").ok
    assert "entry 1 is not in ledger 'demo': cut short" in site.failures()[0].detail


def test_a_ledger_with_another_root_convicts_the_batch(site: Site) -> None:
    batch = site.put_batch("10")
    site.anchor(batch, "k")
    site.put_batch("10", leaves=4)
    assert "ledger 'demo' has another root for it" in site.failures("10")[0].detail


# proofs


def proved(site: Site, name: str = "README.md") -> Document:
    return proof.proof(site.root, Path(name))


def test_a_stranger_verifies_a_proof_without_our_files(site: Site) -> None:
    site.anchor(site.seal("**/*.md").result, "k1")
    site.anchor(site.put_batch("10"), "k2")
    document = proved(site)
    key = (site.ledger / "key.pub").read_text().strip()
    assert verify_proof(document, key=key)
    assert f"if you trust {key}" in check_proof(document)[0].detail
    assert not verify_proof(document, key=key.replace("demo", "deno"))
    saved = site.write("proof.json", json.dumps(document))
    assert site.verify(str(saved)).ok


def test_a_proof_leads_through_a_super_batch(site: Site) -> None:
    sealed = site.seal("*.md").result
    site.anchor(combine(site, sealed, site.put_batch("10")), "k")
    document = proved(site)
    assert document["superBatch"]["size"] == 2
    assert verify_proof(document)
    assert site.verify("README.md").ok
    document["superBatch"]["index"] ^= 1
    assert not verify_proof(document)


def test_a_proof_is_of_the_newest_anchored_batch(site: Site) -> None:
    first = site.seal("*.md").result
    site.anchor(first, "k")
    site.write("README.md", "newer")
    second = site.seal("*.md").result
    assert proved(site)["batch"]["id"] == first["id"]
    site.anchor(second, "k2")
    assert proved(site)["batch"]["id"] == second["id"]


def test_what_has_no_proof_says_why(site: Site) -> None:
    with pytest.raises(NotFound, match="in no sealed batch"):
        proved(site)
    site.seal("*.md")
    with pytest.raises(NotFound, match="not anchored in a sound ledger yet"):
        proved(site)
    with pytest.raises(NotFound, match="in no sealed batch"):
        proved(site, "/etc/passwd")
    assert "not anchored" in site.failures("README.md")[0].detail


def test_any_flipped_bit_in_a_proof_is_found(site: Site) -> None:
    site.anchor(site.seal("**/*.md").result, "k1")
    site.anchor(site.put_batch("10"), "k2")
    key = (site.ledger / "key.pub").read_text().strip()
    raw = json.dumps(proved(site)).encode()
    for at, changed in flips(raw):
        try:
            document = json.loads(changed)
        except ValueError:
            continue
        assert not isinstance(document, dict) or not verify_proof(document, key=key), (at, raw[at - 20 : at + 20])


@pytest.mark.parametrize("document", [{}, {"format": "x"}, {"file": 1}, {"file": {"path": "x"}, "batch": None}])
def test_half_a_proof_is_no_proof(document: Document) -> None:
    assert check_proof(document)[0].detail == "the document is not a whole proof"


def test_modes_of_what_is_written(site: Site) -> None:
    site.anchor(sealed := site.seal("*.md").result)
    modes = {stat.S_IMODE(path.stat().st_mode) & 0o133 for path in site.out.rglob("*") if path.is_file()}
    assert modes == {0}
    assert not list(site.out.rglob("*.tmp"))
    assert Path(sealed["file"]).exists()
