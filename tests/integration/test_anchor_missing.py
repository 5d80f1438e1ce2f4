"""What is deleted from the evidence: `verify` fails and names it, as long as anything remembers that it was there."""

import json
import shutil
from pathlib import Path

import pytest

from tests.support.site import Document, Site
from vmsh_scheduler.anchors import receipts, sealing
from vmsh_scheduler.anchors.bundle import collect
from vmsh_scheduler.anchors.proof import proof, verify_proof
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import Batch, canonical, hash_bytes, hash_text, render, with_digest
from vmsh_scheduler.errors import Usage


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.write("a.md", "a")
    return site


def on_chain(site: Site, batch: Document, chain: str = "btc:mainnet") -> Path:
    """The receipt, as a rail leaves it whose book is elsewhere."""
    glance = sealing.glance(Path(batch["file"]))
    assert isinstance(glance, Batch)
    told = {"chain": chain, "tx": "0x1", "block": 7, "ts": 1_700_000_000}
    assert receipts.record(site.out, [receipts.Covered(glance)], told) == []
    return receipts.path_of(site.out, batch["id"])


def combined(site: Site, *parts: Document) -> Document:
    members = [{"id": part["id"], "root": part["root"]} for part in parts]
    wanted = {"directory": str(site.batches), "namespace": "demo:files", "batches": members}
    return site.ask("combine", wanted).result


def said(site: Site, what: str = "all") -> str:
    return "\n".join(row.detail for row in site.failures(what))


@pytest.mark.parametrize("chain", ["btc:mainnet", "eip155:1", "mine:own"])
def test_a_batch_file_that_is_gone_is_named_whatever_rail_it_was(site: Site, chain: str) -> None:
    batch = site.seal("*.md").result
    receipt = on_chain(site, batch, chain)
    assert not site.failures()
    Path(batch["file"]).unlink()
    fault = f"out/batches/{batch['id']}.json, which was anchored, is gone"
    for what in ("all", batch["id"], str(receipt)):
        assert fault in said(site, what), what
    answer = site.ask("verify", {"what": "all"})
    assert answer.code == 1
    assert fault in [row["detail"] for row in answer.result["rows"] if not row["ok"]]


def test_a_root_that_came_without_file_is_missed_by_nobody(site: Site) -> None:
    root = hash_text(b"r" * 32)
    assert site.anchor({"id": "head-7", "root": root}, "k").code == 0
    assert site.read("out/receipts/batches/head-7.json")["source"] == "root"
    for what in ("all", "head-7"):
        assert not site.failures(what)


def test_a_receipt_that_says_nothing_of_its_source_is_of_a_file(site: Site) -> None:
    batch = site.seal("*.md").result
    receipt = on_chain(site, batch)
    told = {key: value for key, value in json.loads(receipt.read_text()).items() if key not in ("source", "digest")}
    receipt.write_text(render(with_digest(told)))
    assert not site.failures()
    Path(batch["file"]).unlink()
    assert "is gone" in said(site)


def test_once_of_a_file_always_of_a_file(site: Site) -> None:
    batch = site.put_batch("10")
    bare = {name: batch[name] for name in ("id", "root")}
    path = receipts.path_of(site.out, "10")
    sources = []
    for number, what in enumerate((bare, batch, bare)):
        assert site.anchor(what, f"k{number}", target=f"local:l{number}").code == 0
        sources.append(json.loads(path.read_text())["source"])
    assert sources == ["root", "file", "file"]


def test_a_receipt_that_a_ledger_knows_of_is_missed(site: Site) -> None:
    batch = site.seal("*.md").result
    site.anchor(batch, "k")
    path = receipts.path_of(site.out, batch["id"])
    whole = path.read_bytes()
    fault = f"out/receipts/batches/{batch['id']}.json is gone, though entry 0 of ledger 'demo' is about it"
    path.unlink()
    for what in ("all", batch["id"]):
        assert fault in said(site, what), what
    on_chain(site, batch)
    for what in ("all", batch["id"]):
        assert "does not speak of local:demo, though entry 0" in said(site, what)
    path.write_bytes(whole)
    assert not site.failures()


def test_batch_and_receipt_gone_together_are_missed_by_the_ledger(site: Site) -> None:
    batch = site.seal("*.md").result
    site.anchor(batch, "k")
    Path(batch["file"]).unlink()
    receipts.path_of(site.out, batch["id"]).unlink()
    for what in ("all", batch["id"]):
        assert "gone, though ledger 'demo' anchored it" in said(site, what)


@pytest.mark.parametrize("rail", ["local", "chain"])
def test_each_file_of_a_super_batch_is_missed(site: Site, rail: str) -> None:
    parts = [site.put_batch(str(number), leaves=2) for number in (10, 11)]
    made = combined(site, *parts)
    if rail == "local":
        assert site.anchor(made, "k").code == 0
    else:
        subject = [sealing.glance(Path(part["file"])) for part in parts]
        above = sealing.glance(Path(made["file"]))
        assert isinstance(above, Batch)
        members = [one for one in subject if isinstance(one, Batch)]
        covered = receipts.covered_by(above, json.loads(Path(made["file"]).read_text()), members)
        told = {"chain": "btc:mainnet", "tx": "0x1", "block": 7, "ts": 1_700_000_000}
        assert receipts.record(site.out, covered, told) == []
    assert not site.failures()
    for identity in (made["id"], "10", "11"):
        for path in (site.batches / f"{identity}.json", receipts.path_of(site.out, identity)):
            whole = path.read_bytes()
            path.unlink()
            assert identity in said(site), path
            assert said(site, made["id"]), path
            assert said(site, identity), path
            path.write_bytes(whole)
    assert not site.failures()


def test_a_run_that_was_killed_and_whose_batches_were_combined_anew_is_no_failure(site: Site) -> None:
    """Its ledger has the first super-batch, which nobody wrote a receipt for; each member has one all the same."""
    parts = [site.put_batch(str(number)) for number in (10, 11, 12)]
    first = combined(site, *parts[:2])
    site.anchor(first, "k1")
    shutil.rmtree(site.out / "receipts")
    assert "entry 0" in said(site)
    site.anchor(combined(site, *parts), "k2")
    assert not site.failures()


def test_the_file_of_the_only_checkpoint_is_missed(site: Site) -> None:
    """One entry: as after a crash of the very first write, if it were not for what was written later."""
    site.anchor(site.put_batch("10"), "k")
    (site.ledger / "checkpoint").unlink()
    assert "`checkpoint`" in said(site, "local:demo")
    (site.ledger / "tail.json").unlink()
    assert not site.failures("local:demo")
    assert "`checkpoint` of ledger 'demo' is gone" in said(site)


@pytest.mark.parametrize("name", ["entries.jsonl", "checkpoints.jsonl", "checkpoint", "key.pub", ""])
@pytest.mark.parametrize("entries", [1, 2, 3])
def test_each_file_of_a_ledger_is_missed(site: Site, name: str, entries: int) -> None:
    for number in range(entries):
        site.anchor(site.put_batch(str(10 + number)), f"k{number}")
    shutil.rmtree(site.ledger) if not name else (site.ledger / name).unlink()
    assert site.failures()


@pytest.mark.parametrize("anchored", [True, False])
def test_an_event_whose_batch_is_gone(site: Site, anchored: bool) -> None:
    batch = site.put_batch("10", leaves=2)
    leaves = [hash_bytes(leaf) for leaf in batch["leaves"]]
    path = [hash_text(node) for node in merkle.v0_path(leaves, 0)]
    event = {"eventHash": batch["leaves"][0], "batchRoot": batch["root"], "path": path, "eventId": "e0"}
    site.write("out/receipts/e0.json", canonical({**event, "integrity": "vmr1-10-e0"}))
    if anchored:
        site.anchor(batch, "k")
    assert not site.failures()
    Path(batch["file"]).unlink()
    receipts.path_of(site.out, "10").unlink(missing_ok=True)
    assert "its batch 10 is gone" in said(site)


def test_an_event_whose_root_came_without_file(site: Site) -> None:
    batch = site.put_batch("10", leaves=2)
    Path(batch["file"]).unlink()
    path = [hash_text(node) for node in merkle.v0_path([hash_bytes(leaf) for leaf in batch["leaves"]], 0)]
    event = {"eventHash": batch["leaves"][0], "batchRoot": batch["root"], "path": path, "eventId": "e0"}
    site.write("out/receipts/e0.json", canonical({**event, "integrity": "vmr1-10-e0"}))
    site.anchor({"id": "10", "root": batch["root"]}, "k")
    assert not site.failures()


def test_a_bundle_without_its_super_batch_says_so(site: Site) -> None:
    parts = [site.put_batch(str(number)) for number in (10, 11)]
    above = combined(site, *parts)
    site.anchor(above, "k")
    assert collect(site.root, "10").missing == []
    Path(above["file"]).unlink()
    assert collect(site.root, "10").missing == [f"super-batch {above['id']}: out/batches/{above['id']}.json is gone"]


def test_an_id_that_nothing_knows_is_a_wrong_use(site: Site) -> None:
    site.anchor(site.put_batch("10"), "k")
    with pytest.raises(Usage):
        site.verify("11")


def below(site: Site) -> list[Document]:
    """A sealed batch and a foreign v0 one, anchored by a super-batch, so that no ledger entry holds their bytes."""
    parts = [site.seal("*.md").result, site.put_batch("10", leaves=2)]
    assert site.anchor(combined(site, *parts), "k").code == 0
    return parts


def test_every_flipped_byte_of_a_foreign_batch_is_seen_on_any_rail(site: Site) -> None:
    """It has no digest of its own: the receipt has that of the file."""
    foreign = Path(below(site)[1]["file"])
    raw = foreign.read_bytes()
    for place in range(len(raw)):
        foreign.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert site.failures("10"), (place, raw[place - 9 : place + 9])
    foreign.write_bytes(raw)
    assert not site.failures()


def test_every_flipped_byte_of_a_proof_through_a_super_batch_is_seen(site: Site) -> None:
    below(site)
    document = proof(site.root, site.root / "a.md")
    assert "superBatch" in document
    raw = json.dumps(document).encode()
    for place in range(len(raw)):
        try:
            changed = json.loads(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        except ValueError:
            continue
        assert not isinstance(changed, dict) or not verify_proof(changed), (place, raw[place - 9 : place + 9])


def test_a_file_that_lies_elsewhere_is_for_nobody_to_look_for(site: Site) -> None:
    batch = site.put_batch("10")
    elsewhere = site.root / "10.json"
    Path(batch["file"]).rename(elsewhere)
    assert site.anchor({**batch, "file": str(elsewhere)}, "k", target="local:demo").code == 0
    assert json.loads(receipts.path_of(site.out, "10").read_text())["source"] == "root"
