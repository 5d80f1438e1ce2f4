"""Receipts against the batches they name and the ledgers they point into."""

from collections.abc import Iterator
from pathlib import Path

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.evidence import Evidence, Glance, Loaded
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import V0, Document, hash_bytes, is_hash


def check_batch_receipt(evidence: Evidence, path: Path) -> Iterator[Row]:
    try:
        document = receipts.read(path)
    except (OSError, Invalid) as error:
        yield Row(path.stem, "receipt", False, str(error))
        return
    batch = evidence.batches.get(path.stem)
    if isinstance(batch, Glance) and batch.batch.root != document["batchRoot"]:
        yield Row(path.stem, "receipt", False, "its root is not that of the batch")
        return
    yield _anchors_row(evidence, path.stem, document["anchors"], document["batchRoot"])


def check_event_receipt(evidence: Evidence, path: Path) -> Iterator[Row]:
    """A v0 receipt: event -> path -> batch root -> anchors."""
    try:
        document = receipts.read_event(path)
    except (OSError, Invalid) as error:
        yield Row(path.stem, "receipt", False, str(error))
        return
    fault = _event_fault(evidence, document)
    if fault:
        yield Row(path.stem, "receipt", False, fault)
        return
    yield _anchors_row(evidence, path.stem, receipts.event_anchors(document), document["batchRoot"])


def _event_fault(evidence: Evidence, document: Document) -> str:
    batch = _batch_of(evidence, document["batchRoot"])
    leaf, root = hash_bytes(document["eventHash"]), hash_bytes(document["batchRoot"])
    leaves = batch.document.get("leaves") if batch else None
    known = isinstance(leaves, list) and document["eventHash"] in leaves
    index = leaves.index(document["eventHash"]) if isinstance(leaves, list) and known else None
    if not merkle.v0_verify(leaf, [hash_bytes(text) for text in document["path"]], root, index):
        return "its path does not lead from the event to the batch root"
    expected = f"vmr1-{batch.batch.id}-{document.get('eventId')}" if batch else None
    if expected and document.get("integrity", expected) != expected:
        return "its integrity mark names another batch or event"
    return _listed_fault(document)


def _listed_fault(document: Document) -> str:
    if "anchors" not in document:
        return ""
    if not all(receipts.is_attestation(anchor) for anchor in document["anchors"]):
        return "an anchor is not well-formed"
    return "" if document.get("anchor") == document["anchors"][0] else "its anchor is not the strongest of its anchors"


def _batch_of(evidence: Evidence, root: str) -> Loaded | None:
    for glance in evidence.batches.values():
        if isinstance(glance, Glance) and (glance.batch.root, glance.batch.tree) == (root, V0):
            loaded = evidence.load(evidence.batch_path(glance.batch.id))
            return loaded if isinstance(loaded, Loaded) else None
    return None


def _anchors_row(evidence: Evidence, subject: str, anchors: list[Document], root: str) -> Row:
    faults, said = [], []
    for anchor in anchors:
        scheme = anchor["chain"].partition(":")[0]
        fault = anchor_fault(evidence, anchor, root)
        if fault:
            faults.append(fault)
        else:
            said.append(anchor["chain"] if scheme == "local" else f"{anchor['chain']} (not checked offline)")
    return Row(subject, "receipt", not faults, "; ".join(faults or said) or "not anchored yet")


def anchor_fault(evidence: Evidence, anchor: Document, root: str) -> str:
    """Why an anchor does not speak for `root`; only ledgers are checked here, "" for every other chain."""
    via = anchor.get("via")
    if via is not None:
        if not _leads_up(via, root):
            return "its path does not lead from the batch to the super-batch"
        root = via["root"]
    if not anchor["chain"].startswith("local:"):
        return ""
    view = evidence.view(anchor["chain"], anchor["block"])
    if view is None:
        return f"{anchor['chain']}: there is no such ledger, or it is not sound"
    return view.fault(anchor, root)


def _leads_up(via: object, root: str) -> bool:
    if not isinstance(via, dict) or not is_hash(via.get("root")) or not isinstance(via.get("path"), list):
        return False
    index, size, path = via.get("index"), via.get("size"), via["path"]
    if type(index) is not int or type(size) is not int or not all(is_hash(node) for node in path):
        return False
    leaf = merkle.leaf_hash(hash_bytes(root))
    nodes = [hash_bytes(node) for node in path]
    return merkle.verify_inclusion(leaf, index, size, nodes, hash_bytes(via["root"]))
