"""A self-contained proof: file -> batch -> (super-batch) -> ledger entry -> signed checkpoint; or -> time stamps."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.batch_check import fault_of, file_fault
from vmsh_scheduler.anchors.entries import Entry
from vmsh_scheduler.anchors.evidence import Evidence, Glance, Loaded
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.ledger_check import View
from vmsh_scheduler.anchors.note import Checkpoint, Verifier
from vmsh_scheduler.anchors.receipt_check import spoken_root
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.sealing import sealed_files
from vmsh_scheduler.anchors.trust import Trust
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import (
    BadBatch,
    Batch,
    Document,
    digest_holds,
    file_leaf,
    hash_bytes,
    hash_text,
    is_hash,
    with_digest,
)
from vmsh_scheduler.errors import NotFound

FORMAT = "vmsh-proof.v1"


def run(facts: Facts) -> Document:
    """The verb: {root, file}."""
    return {"status": "ok", "proof": proof(facts.root, Path(facts.text("file")))}


def proof(root: Path, file: Path, *, evidence: Evidence | None = None, only: str = "") -> Document:
    """For the newest anchored batch that sealed `file`, or for the batch `only`; NotFound when there is none."""
    evidence = evidence or Evidence(root)
    path = Path(os.path.realpath(evidence.find(file)))
    sealed = False
    for batch in newest_first(evidence):
        if only not in ("", batch.id):
            continue
        loaded = evidence.load(evidence.batch_path(batch.id))
        if isinstance(loaded, BadBatch) or fault_of(loaded):
            continue
        index = index_of(evidence, loaded, path)
        if index is None:
            continue
        sealed = True
        up, stamps = _anchored(evidence, batch), _stamps(evidence, batch)
        if up is not None or stamps:
            return _document(loaded, index, up, stamps)
    said = "is sealed but not anchored in a sound ledger yet, nor stamped" if sealed else "is in no sealed batch"
    raise NotFound(f"{file} {said}")


def newest_first(evidence: Evidence) -> list[Batch]:
    """Super-batches aside."""
    found = [glance.batch for glance in evidence.batches.values() if isinstance(glance, Glance)]
    return sorted((batch for batch in found if not batch.combined), key=lambda batch: batch.order, reverse=True)


def index_of(evidence: Evidence, loaded: Loaded, path: Path) -> int | None:
    """Of a file (real path) among those that a batch sealed."""
    base = (evidence.root / str(loaded.document.get("base", "."))).resolve()
    if not path.is_relative_to(base):
        return None
    name = path.relative_to(base).as_posix()
    names = [file.get("path") for file in sealed_files(loaded.document)]
    return names.index(name) if name in names else None


def _anchored(evidence: Evidence, batch: Batch) -> tuple[View, int, Document] | None:
    """Ledger, entry and the way through a super-batch, if that was needed."""
    ways: list[tuple[str, Document]] = [(batch.root, {})]
    ways += [(loaded.batch.root, via) for loaded, via in _supers(evidence, batch)]
    for _, view in evidence.ledgers.values():
        for root, via in ways if view and view.note else ():
            index = next((entry.index for entry in view.entries if entry.about.root == root), None) if view else None
            if view and index is not None:
                return view, index, via
    return None


def _stamps(evidence: Evidence, batch: Batch) -> list[Document]:
    """Attestations that hold their proof in themselves, as the receipt has them."""
    try:
        document = receipts.read(receipts.path_of(evidence.out, batch.id))
    except (OSError, Invalid):
        return []
    anchors = document["anchors"] if document["batchRoot"] == batch.root else []
    return [anchor for anchor in anchors if _is_stamp(anchor)]


def _is_stamp(anchor: Document) -> bool:
    return bool(anchor["chain"].startswith("rfc3161:")) and isinstance(anchor.get("sig"), str)


def _supers(evidence: Evidence, batch: Batch) -> list[tuple[Loaded, Document]]:
    found = []
    for glance in evidence.batches.values():
        if not isinstance(glance, Glance) or not glance.batch.combined:
            continue
        loaded = evidence.load(evidence.batch_path(glance.batch.id))
        if isinstance(loaded, BadBatch) or fault_of(loaded):
            continue
        leaves = loaded.document.get("leaves", [])
        if batch.root in leaves:
            step = {"id": glance.batch.id, "root": glance.batch.root, **_step(leaves, leaves.index(batch.root))}
            found.append((loaded, step))
    return found


def _step(leaves: list[str], index: int) -> Document:
    tree = merkle.tree([merkle.leaf_hash(hash_bytes(leaf)) for leaf in leaves])
    return {"index": index, "size": tree.size, "path": [hash_text(node) for node in tree.inclusion(index)]}


def _document(loaded: Loaded, index: int, up: tuple[View, int, Document] | None, stamps: list[Document]) -> Document:
    batch = loaded.batch
    return with_digest(
        {
            "format": FORMAT,
            "file": sealed_files(loaded.document)[index],
            "batch": {"id": batch.id, "root": batch.root, **_step(loaded.document["leaves"], index)},
            **(_ledger_part(*up) if up else {}),
            **({"anchors": stamps} if stamps else {}),
        }
    )


def _ledger_part(view: View, place: int, via: Document) -> Document:
    tree = view.tree()
    return {
        **({"superBatch": via} if via else {}),
        "ledger": {
            "key": str(view.verifier),
            "entry": view.entries[place].line.decode(),
            "index": place,
            "size": tree.size,
            "path": [hash_text(node) for node in tree.inclusion(place)],
        },
        "checkpoint": view.note,
    }


def check_proof(document: Mapping[str, Any], *, key: str = "", trust: Trust | None = None) -> list[Row]:
    """Without any other file of the evidence; `key`: the verifier key one trusts (else the proof's own, and the row
    says so); `trust`: whose time stamps count."""
    try:
        fault = _fault(document, key) or _changed(document)
        subject = str(document["file"]["path"])
        stamped = list(_stamp_rows(document, trust))
    except Invalid as error:
        return [Row("proof", "proof", False, error.message)]
    except (KeyError, TypeError, ValueError, AttributeError):
        return [Row("proof", "proof", False, "the document is not a whole proof")]
    if fault:
        return [Row(subject, "proof", False, fault)]
    if "ledger" not in document:
        return stamped
    entry = Entry.read(document["ledger"]["entry"].encode())
    unless = "" if key else f", if you trust {document['ledger']['key']}"
    said = f"batch {document['batch']['id']}, entry {entry.index} of {document['ledger']['size']}, {entry.ts} s{unless}"
    return [Row(subject, "proof", True, said), *stamped]


def _stamp_rows(document: Mapping[str, Any], trust: Trust | None) -> Iterator[Row]:
    """One for each time stamp, from the batch's root up."""
    for anchor in document.get("anchors", []):
        if not receipts.is_attestation(anchor) or not _is_stamp(anchor):
            raise Invalid("an anchor in it is not well-formed")
        fault = _stamp_fault(anchor, document["batch"]["root"], trust)
        said = f"batch {document['batch']['id']}, {anchor['chain']}, {anchor['ts']} s"
        yield Row(str(document["file"]["path"]), "proof", not fault, fault or said)


def _stamp_fault(anchor: Document, root: str, trust: Trust | None) -> str:
    from vmsh_scheduler.anchors.token_check import token_fault  # its libraries are slow to load

    if trust is None:
        return f"{anchor['chain']}: cannot be checked: no trust bundle"
    anchored = spoken_root(anchor, root)
    return token_fault(trust, anchor, anchored) if anchored else "the batch does not lead to the super-batch root"


def verify_proof(document: Mapping[str, Any], *, key: str = "", trust: Trust | None = None) -> bool:
    """True if the proof holds from the file's hash to the signed checkpoint and every time stamp."""
    return all(row.ok for row in check_proof(document, key=key, trust=trust))


def proof_rows(document: Mapping[str, Any], path: Path, trust: Trust) -> list[Row]:
    """The proof, and the file as it is now against it."""
    file = document["file"]
    base = Path(str(path.resolve()).removesuffix(file["path"]))
    fault = file_fault(base.resolve(), file)
    return [*check_proof(document, trust=trust), Row(str(path), "file", not fault, fault or "as sealed")]


def _changed(document: Mapping[str, Any]) -> str:
    """What neither tree nor signature speaks for, the name of a batch below a super-batch, is held by the digest."""
    return "" if digest_holds(document) else "the document does not match its own digest"


def _fault(document: Mapping[str, Any], key: str) -> str:
    file, batch = document["file"], document["batch"]
    if document["format"] != FORMAT:
        return f"the document is not in the format {FORMAT}"
    if not _climbs(file_leaf(file["path"], file["sha256"], file["size"]), batch):
        return "the file does not lead to the batch root"
    if "ledger" in document:
        return _entry_fault(document, key)
    return "" if document.get("anchors") else "the document is not a whole proof"


def _entry_fault(document: Mapping[str, Any], key: str) -> str:
    batch, ledger = document["batch"], document["ledger"]
    if key and ledger["key"] != key:
        return "it is signed by another key than the one trusted"
    above = document.get("superBatch")
    if above is not None and not _climbs(batch["root"], above):
        return "the batch does not lead to the super-batch root"
    entry = Entry.read(ledger["entry"].encode())
    if (entry.about.root, entry.about.batch) != ((above or batch)["root"], (above or batch)["id"]):
        return "the ledger entry is about another batch"
    return _ledger_fault(entry, ledger, document["checkpoint"])


def _ledger_fault(entry: Entry, ledger: Mapping[str, Any], note: str) -> str:
    verifier = Verifier.read(ledger["key"])
    checkpoint = Checkpoint.read(verifier.opens(note))
    if checkpoint.origin != verifier.name or (entry.index, checkpoint.size) != (ledger["index"], ledger["size"]):
        return "the checkpoint is of another ledger or size"
    path = [hash_bytes(node) for node in ledger["path"] if is_hash(node)]
    if len(path) != len(ledger["path"]):
        return "the path into the ledger is malformed"
    if not merkle.verify_inclusion(entry.leaf, entry.index, checkpoint.size, path, checkpoint.root):
        return "the ledger entry does not lead to the checkpoint"
    return ""


def _climbs(leaf: str, step: Mapping[str, Any]) -> bool:
    nodes = [*step["path"], step["root"], leaf]
    if not all(is_hash(node) for node in nodes):
        return False
    path = [hash_bytes(node) for node in step["path"]]
    start = merkle.leaf_hash(hash_bytes(leaf))
    return merkle.verify_inclusion(start, step["index"], step["size"], path, hash_bytes(step["root"]))
