"""receipt.v1 and batch-manifest.v1 against their schemas, and what the schemas refuse."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import referencing

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.receipt_v1 import manifest_v1, receipt_v1
from vmsh_scheduler.domain.batch import Batch, hash_text
from vmsh_scheduler.errors import NotFound, Usage

SCHEMAS = Path(__file__).parents[2] / "docs" / "schemas"
ROOT = hash_text(b"\x07" * 32)
EVM = {
    "chain": "eip155:8453",
    "tx": "0x" + "ab" * 32,
    "block": 12,
    "ts": 1_700_000_000,
    "contract": "0x" + "cd" * 20,
    "sender": "0x" + "ef" * 20,
    "memo": "",
    "status": "final",
    "depth": 3,
    "need": 3,
    "blockHash": "0x" + "11" * 32,
    "earlier": ["0x" + "22" * 32],
}
BTC = {
    "chain": "btc:mainnet",
    "tx": "ab" * 32,
    "block": 0,
    "ts": 1_700_000_000,
    "status": "submitted",
    "depth": 0,
    "need": 6,
}
TSA = {"chain": "rfc3161:tsa", "tx": "sha256:" + "00" * 32, "block": 0, "ts": 1_700_000_100, "sig": "AAAA", "memo": ""}
LOCAL = {"chain": "local:demo", "tx": "sha256:" + "00" * 32, "block": 0, "ts": 1_700_000_000, "memo": "vmsh.local/demo"}


def put(root: Path, *anchors: dict[str, Any], batch: str = "1700000000", via: dict[str, Any] | None = None) -> None:
    covered = receipts.Covered(Batch(batch, ROOT, 0, batch, namespace="dao:vaultmesh"), via or {})
    for anchor in anchors:
        assert receipts.record(root / "out", [covered], anchor) == []


def schema(name: str) -> jsonschema.Draft202012Validator:
    documents = {path.name: json.loads(path.read_text()) for path in SCHEMAS.glob("*.json")}
    resources = [(path, referencing.Resource.from_contents(document)) for path, document in documents.items()]
    registry: referencing.Registry[Any] = referencing.Registry().with_resources(resources)
    validator = jsonschema.Draft202012Validator
    validator.check_schema(documents[name])
    return validator(documents[name], registry=registry)


RECEIPT, MANIFEST = schema("receipt.v1.json"), schema("batch-manifest.v1.json")


def test_a_final_transaction_is_verified_and_finalized(tmp_path: Path) -> None:
    put(tmp_path, EVM)
    document = receipt_v1(tmp_path, "1700000000")
    RECEIPT.validate(document)
    assert (document["chain"], document["network"], document["txScheme"]) == ("EVM", "8453", "evm")
    assert (document["root"], document["txRef"]) == ("0x" + "07" * 32, EVM["tx"])
    assert (document["status"], document["anchorTs"]) == ("verified", "2023-11-14T22:13:20Z")
    assert document["finality"] == {"observedDepth": 3, "requiredDepth": 3, "state": "finalized"}
    assert document["evidence"]["blockHash"] == EVM["blockHash"]


@pytest.mark.parametrize(
    ("ours", "depth", "status", "state"),
    [
        ("signed", 0, "pending", "observed"),
        ("submitted", 0, "submitted", "observed"),
        ("verified", 2, "submitted", "observed"),
        ("final", 2, "submitted", "observed"),
        ("final", 3, "verified", "finalized"),
        ("reorged", 0, "reorged", "reorged"),
        ("lost", 0, "failed", "observed"),
        ("faulty", 1, "failed", "observed"),
        ("something new", 9, "pending", "observed"),
    ],
)
def test_every_status_has_its_word(tmp_path: Path, ours: str, depth: int, status: str, state: str) -> None:
    """Never `verified` at 2 of 3, whatever was written."""
    put(tmp_path, {**EVM, "status": ours, "depth": depth})
    document = receipt_v1(tmp_path, "1700000000")
    RECEIPT.validate(document)
    assert (document["status"], document["finality"]["state"]) == (status, state)


def test_a_token_and_a_transaction_and_a_ledger_in_one_manifest(tmp_path: Path) -> None:
    put(tmp_path, LOCAL, TSA, BTC, EVM)
    document = manifest_v1(tmp_path, "1700000000")
    MANIFEST.validate(document)
    assert [one["chain"] for one in document["receipts"]] == ["BTC", "EVM", "TSA"]
    assert document["metadata"]["namespace"] == "dao:vaultmesh"
    token = receipt_v1(tmp_path, "1700000000", "rfc3161:tsa")
    RECEIPT.validate(token)
    assert (token["status"], token["rfc3161Ts"]) == ("verified", "2023-11-14T22:15:00Z")
    assert "txHash" not in token
    assert receipt_v1(tmp_path, "1700000000")["chain"] == "BTC"


def test_through_a_super_batch_the_root_is_the_one_on_the_chain(tmp_path: Path) -> None:
    above = {"batch": "1700000001-super", "root": hash_text(b"\x08" * 32), "index": 0, "size": 2, "path": [ROOT]}
    put(tmp_path, EVM, via=above)
    document = receipt_v1(tmp_path, "1700000000")
    RECEIPT.validate(document)
    assert document["root"] == "0x" + "08" * 32
    assert (document["metadata"]["batchRoot"], document["evidence"]["inclusion"]) == (ROOT, above)


def test_what_the_format_cannot_say_is_refused(tmp_path: Path) -> None:
    put(tmp_path, LOCAL)
    with pytest.raises(NotFound, match=r"receipt\.v1 has no other rails"):
        receipt_v1(tmp_path, "1700000000")
    with pytest.raises(NotFound):
        manifest_v1(tmp_path, "1700000000")
    with pytest.raises(NotFound, match="no receipt"):
        receipt_v1(tmp_path, "gone")
    put(tmp_path, EVM, batch="0001")
    with pytest.raises(Usage, match="8 characters"):
        manifest_v1(tmp_path, "0001")
    put(tmp_path, {**EVM, "ts": 10**15}, batch="1700000009")
    with pytest.raises(Invalid, match="no time"):
        receipt_v1(tmp_path, "1700000009")


@pytest.mark.parametrize(
    "change",
    [{"depth": "3"}, {"need": None}, {"status": ["final"]}, {"via": "x"}, {"via": {"root": 1}}, {"via": {}}],
    ids=str,
)
def test_a_receipt_that_somebody_made_up_is_no_traceback(tmp_path: Path, change: dict[str, Any]) -> None:
    """With a digest of its own."""
    put(tmp_path, {**EVM, **change})
    for read in (receipt_v1, manifest_v1):
        with pytest.raises(Corrupt, match="odd status, depth, need or via"):
            read(tmp_path, "1700000000")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 1},
        {"root": ROOT},
        {"chain": "local"},
        {"txScheme": "btc"},
        {"blockNumber": -1},
        {"anchorTs": 1_700_000_000},
        {"status": "final"},
        {"verifier": None},
        {"finality": {"observedDepth": 3, "requiredDepth": 3, "state": "observed"}},
        {"finality": {"observedDepth": 3}},
        {"more": 1},
    ],
    ids=str,
)
def test_the_schema_bites(tmp_path: Path, change: dict[str, Any]) -> None:
    put(tmp_path, EVM)
    document = receipt_v1(tmp_path, "1700000000") | change
    assert not RECEIPT.is_valid(document)
    manifest = {"version": "1", "batchId": "1700000000", "createdAt": "2023-11-14T22:13:20Z", "receipts": [document]}
    assert not MANIFEST.is_valid(manifest)
    assert not MANIFEST.is_valid({**manifest, "receipts": []})
