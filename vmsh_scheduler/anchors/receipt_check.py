"""Receipts against the batches they name and the ledgers they point into."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vmsh_scheduler.anchors import ots_said, presence, receipts, submission_check
from vmsh_scheduler.anchors.chain import Anchor
from vmsh_scheduler.anchors.evidence import Evidence, Glance, Loaded
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.rails import LOOKERS
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import V0, Document, hash_bytes, is_hash

_OFFLINE = ("local:", "rfc3161:")
"""Chains that need no node."""


def check_batch_receipt(evidence: Evidence, path: Path) -> Iterator[Row]:
    try:
        document = receipts.read(path)
    except (OSError, Invalid) as error:
        yield Row(path.stem, "receipt", False, str(error))
        return
    evidence.told[path.stem] = {anchor["chain"] for anchor in document["anchors"]}
    batch = evidence.batches.get(path.stem)
    if isinstance(batch, Glance) and batch.batch.root != document["batchRoot"]:
        yield Row(path.stem, "receipt", False, "its root is not that of the batch")
        return
    if isinstance(batch, Glance) and document.get("fileSha256", batch.sha256) != batch.sha256:
        yield Row(path.stem, "receipt", False, "the batch file changed after it was anchored")
    if fault := presence.file_fault(evidence, document):
        yield Row(path.stem, "receipt", False, fault)
    anchors = document["anchors"]
    for fault in submission_check.receipt_faults(evidence.out, path, anchors):
        yield Row(path.stem, "receipt", False, fault)
    yield _anchors_row(evidence, path.stem, anchors, Anchored(path.stem, document["batchRoot"]))


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
    batch = _batch_of(evidence, document["batchRoot"])
    if batch is None and (fault := presence.event_fault(evidence, document)):
        yield Row(path.stem, "receipt", False, fault)
        return
    about = Anchored(batch.batch.id if batch else "", document["batchRoot"])
    yield _anchors_row(evidence, path.stem, receipts.event_anchors(document), about)


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


class Anchored(NamedTuple):
    """What a receipt's anchors speak of; `batch` "" = not known."""

    batch: str
    root: str


def _anchors_row(evidence: Evidence, subject: str, anchors: list[Document], about: Anchored) -> Row:
    faults, said = [], []
    for anchor in anchors:
        fault = anchor_fault(evidence, anchor, about.root) or presence.above_fault(evidence, anchor)
        fault = fault or _online_fault(evidence, anchor, about)
        if fault:
            faults.append(fault)
        else:
            said.append(_said(evidence, anchor))
    return Row(subject, "receipt", not faults, "; ".join(faults or said) or "not anchored yet")


def _said(evidence: Evidence, anchor: Document) -> str:
    if anchor["chain"].startswith("ots:"):
        return ots_said.said(anchor)
    return f"{anchor['chain']}{_unchecked(evidence, anchor['chain'])}"


def _unchecked(evidence: Evidence, chain: str) -> str:
    """A reader must see what was not looked at."""
    if chain.partition(":")[0] in LOOKERS:
        return "" if evidence.online else " (not checked here: ask with --online)"
    return "" if chain.startswith(_OFFLINE) else " (not checked offline)"


def _online_fault(evidence: Evidence, anchor: Document, about: Anchored) -> str:
    if evidence.online is None:
        return ""
    if not evidence.online.speaks_of(anchor["chain"]):
        known = anchor["chain"].startswith(_OFFLINE)
        return "" if known else f"{anchor['chain']}: no rail of ours, so it cannot be checked"
    if anchor["chain"].startswith("ots:") and ots_said.pending(anchor):
        return ""  # it names no block that a node could be asked for
    via = anchor.get("via")
    batch, root = (str(via.get("batch", "")), via["root"]) if isinstance(via, dict) else about
    return evidence.online.fault(anchor, Anchor(batch, hash_bytes(root)))


def anchor_fault(evidence: Evidence, anchor: Document, root: str) -> str:
    """Why an anchor does not speak for `root`; "" for chains that only a node knows."""
    root = spoken_root(anchor, root)
    if not root:
        return "its path does not lead from the batch to the super-batch"
    if anchor["chain"].startswith("rfc3161:"):
        from vmsh_scheduler.anchors.token_check import token_fault  # its libraries are slow to load

        return token_fault(evidence.trust, anchor, root)
    if anchor["chain"].startswith("ots:"):
        return ots_said.fault_of(evidence.out, anchor, root)
    if not anchor["chain"].startswith("local:"):
        return ""
    view = evidence.view(anchor["chain"], anchor["block"])
    if view is None:
        return f"{anchor['chain']}: there is no such ledger, or it is not sound"
    return view.fault(anchor, root)


def spoken_root(anchor: Document, root: str) -> str:
    """The root that was anchored: the batch's own, or the one of the super-batch above it; "" = it is not above."""
    via = anchor.get("via")
    if via is None:
        return root
    return str(via["root"]) if _leads_up(via, root) else ""


def _leads_up(via: object, root: str) -> bool:
    if not isinstance(via, dict) or not is_hash(via.get("root")) or not isinstance(via.get("path"), list):
        return False
    index, size, path = via.get("index"), via.get("size"), via["path"]
    if type(index) is not int or type(size) is not int or not all(is_hash(node) for node in path):
        return False
    leaf = merkle.leaf_hash(hash_bytes(root))
    nodes = [hash_bytes(node) for node in path]
    return merkle.verify_inclusion(leaf, index, size, nodes, hash_bytes(via["root"]))
