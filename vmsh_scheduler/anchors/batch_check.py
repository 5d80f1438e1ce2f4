"""A batch file against itself, against the ledgers that fixed its bytes, and against the files it sealed."""

from collections.abc import Iterator
from pathlib import Path

from vmsh_scheduler.anchors import journal_check
from vmsh_scheduler.anchors.evidence import Evidence, Glance, Loaded
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.sealing import fingerprint, sealed_files
from vmsh_scheduler.domain.batch import BadBatch, Document, digest_holds, file_leaf, is_hash, leaves_root, render

_OWN = ("files", "heads", "batches", "count", "digest")
"""Fields that only our writers make: with any of them a document must match its own digest."""


def check(evidence: Evidence, path: Path) -> Iterator[Row]:
    """The batch row, one for each member of a super-batch that is not what was combined, and those of a journal: it
    only grows, so each batch of it has to hold for ever, and not the newest alone."""
    loaded = evidence.load(path)
    if isinstance(loaded, BadBatch):
        yield Row(path.stem, "batch", False, loaded.reason)
        return
    fault = fault_of(loaded) or _ledger_fault(evidence, loaded)
    yield Row(path.stem, "batch", not fault, fault or _praise(loaded))
    yield from _members(evidence, loaded)
    if not fault:
        yield from journal_check.check(evidence, loaded)


def _praise(loaded: Loaded) -> str:
    leaves = loaded.document.get("leaves")
    if leaves is None:
        return f"{loaded.batch.tree}, no leaves in it: the root cannot be recomputed"
    return f"{loaded.batch.tree}, root recomputed from {len(leaves)} leaves"


def fault_of(loaded: Loaded) -> str:
    """What is wrong with a batch file by itself; "" = its parts, where it has them, fit each other."""
    return _own_fault(loaded) or _leaves_fault(loaded)


def _own_fault(loaded: Loaded) -> str:
    if not any(name in loaded.document for name in _OWN):
        return ""
    if not digest_holds(loaded.document) or render(loaded.document).encode() != loaded.raw:
        return "corrupt: it does not match its own digest"
    return ""


def _leaves_fault(loaded: Loaded) -> str:
    leaves = loaded.document.get("leaves")
    if leaves is None:
        return "corrupt: it has no leaves" if {"files", "heads", "batches"} & loaded.document.keys() else ""
    if not isinstance(leaves, list) or not all(is_hash(leaf) for leaf in leaves):
        return "corrupt: leaves are no list of sha256:<hex>"
    if leaves_root(loaded.batch.tree, leaves) != loaded.batch.root:
        return "corrupt: its leaves do not give its root"
    if "files" in loaded.document and _leaves_of(loaded.document) != leaves:
        return "corrupt: its files are not its leaves"
    if "heads" in loaded.document and journal_check.leaves_of(loaded.document) != leaves:
        return "corrupt: its heads are not its leaves"
    if loaded.batch.combined and _roots_of(loaded.document) != leaves:
        return "corrupt: its batches are not its leaves"
    return ""


def _leaves_of(document: Document) -> list[str] | None:
    try:
        return [file_leaf(file["path"], file["sha256"], file["size"]) for file in sealed_files(document)]
    except (KeyError, TypeError, ValueError):
        return None


def _roots_of(document: Document) -> list[str] | None:
    try:
        return [item["root"] for item in document["batches"]]
    except (KeyError, TypeError):
        return None


def _ledger_fault(evidence: Evidence, loaded: Loaded) -> str:
    """A ledger entry fixes the file's bytes, not only its root."""
    for name, (_, view) in evidence.ledgers.items():
        for about in view.about(loaded.batch.id) if view else ():
            if about.root != loaded.batch.root:
                return f"corrupt: ledger {name!r} has another root for it"
            if about.file and about.file != loaded.sha256:
                return "corrupt: the file changed after it was anchored"
    return ""


def _members(evidence: Evidence, loaded: Loaded) -> Iterator[Row]:
    listed = loaded.document.get("batches")
    for item in listed if isinstance(listed, list) else []:
        identity, root = (item.get("id", ""), item.get("root")) if isinstance(item, dict) else ("", None)
        member = evidence.batches.get(identity) if isinstance(identity, str) else None
        if not isinstance(member, Glance):
            yield Row(loaded.batch.id, "member", False, f"batch {identity} is {member.reason if member else 'gone'}")
        elif member.batch.root != root:
            yield Row(loaded.batch.id, "member", False, f"batch {identity} changed after it was combined")


def check_files(evidence: Evidence, path: Path) -> Iterator[Row]:
    """Files as they are now against a sealed batch: one row for each that changed, one for all that did not."""
    loaded = evidence.load(path)
    if isinstance(loaded, BadBatch) or fault_of(loaded):
        return
    files = sealed_files(loaded.document)
    base = (evidence.root / str(loaded.document.get("base", "."))).resolve()
    same = 0
    for file in files:
        fault = file_fault(base, file)
        if fault:
            yield Row(file["path"], "file", False, f"{fault} (batch {loaded.batch.id})")
        else:
            same += 1
    if files:
        yield Row(loaded.batch.id, "file", True, f"{same} of {len(files)} files are as sealed")


def file_fault(base: Path, file: Document) -> str:
    """ "" = as sealed."""
    found = fingerprint(base / file["path"], base)
    if isinstance(found, str):
        return f"cannot be read: {found}"
    return "" if found == (file["sha256"], file["size"]) else "changed since sealed"
