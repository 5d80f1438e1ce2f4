"""Receipts (spec vaultmesh section 6): who anchored which batch where. One file per batch, one anchor per chain.

The receipts of v0 events, which their sealer wrote, get the same anchors."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import (
    V0,
    Batch,
    Document,
    digest_holds,
    hash_bytes,
    hash_text,
    is_hash,
    is_id,
    load,
    parse,
    render,
    strength,
    with_digest,
)
from vmsh_scheduler.errors import NotFound

VERIFIER = "did:vm:arbiter:local-sealer"
FILE, ROOT = "file", "root"
"""`source` of a receipt: a batch file, which has to be there as long as the receipt is, or a root that came alone. One
that does not say is of a file."""
_UNSETTLED = ("signed", "submitted", "reorged", "lost", "faulty")
_TEXTS = ("tree", "namespace", "verifier")
"""Of every batch's receipt, beside what `read` looks at."""
_RESTORE = "restore it from a copy"
_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class Covered:
    """A batch that an anchor speaks for; `via`: where its root stands in the super-batch that was anchored."""

    batch: Batch
    via: Document = field(default_factory=dict)
    source: str = FILE


def covered_by(batch: Batch, document: Mapping[str, Any], members: Sequence[Batch]) -> list[Covered]:
    """The batch itself and, of a super-batch, each member with its path up to the root. `document`: its file's; empty
    where the root came alone."""
    covered, listed = [Covered(batch, source=FILE if document else ROOT)], document["batches"] if members else []
    places = {item["id"]: index for index, item in enumerate(listed)}
    tree = merkle.tree([merkle.leaf_hash(hash_bytes(item["root"])) for item in listed])
    for member in members:
        path = [hash_text(node) for node in tree.inclusion(places[member.id])]
        via = {"batch": batch.id, "root": batch.root, "index": places[member.id], "size": tree.size, "path": path}
        covered.append(Covered(member, via))
    return covered


def path_of(out: Path, batch_id: str) -> Path:
    """Apart from event receipts, so that no event id can name it."""
    return out / "receipts" / "batches" / f"{batch_id}.json"


def record(
    out: Path, covered: Sequence[Covered], attestation: Document, *, namespace: str = "", cadence: str = ""
) -> list[str]:
    """Adds the attestation to every receipt concerned, and has the first of them remembered where that is wanted;
    what could not be done is returned as warnings."""
    disk.make_directory(out / "receipts" / "batches")
    with disk.locked(out / "receipts"):
        if not (out.parent / "ops").is_dir():
            return _record_all(out, covered, attestation)[:_WARNINGS]
        from vmsh_scheduler.anchors.remembrancer import Remembrancer  # with SQLite: only for those who want it

        memory = Remembrancer(out.parent)
        warnings = memory.settle(out)
        memory.intend(covered[0].batch, attestation, namespace=namespace, cadence=cadence)
        warnings += _record_all(out, covered, attestation)
        return [*warnings, *memory.settle(out)][:_WARNINGS]


def _record_all(out: Path, covered: Sequence[Covered], attestation: Document) -> list[str]:
    warnings: list[str] = []
    for item in covered:
        warnings += _record_batch(out, item, attestation)
    events = {item.batch.root: item for item in covered if item.batch.tree == V0}
    if events:
        warnings += _record_events(out / "receipts", events, attestation)
    return warnings


def read(path: Path) -> Document:
    """Of a batch; Corrupt unless it is exactly what `record` writes."""
    raw = disk.read(path, disk.SMALL_LIMIT)
    document = load(raw)
    if isinstance(document, str):
        raise Corrupt(f"receipt is {document}")
    anchors = document.get("anchors")
    if not isinstance(anchors, list) or not anchors or not all(is_attestation(anchor) for anchor in anchors):
        raise Corrupt("receipt has no well-formed anchors")
    if not digest_holds(document) or render(document).encode() != raw or document.get("batchId") != path.stem:
        raise Corrupt("receipt was changed: it does not match its own digest")
    if not is_hash(document.get("batchRoot")) or document.get("anchor") != anchors[0]:
        raise Corrupt("receipt lacks its root, or its anchor is not the first of its anchors")
    return document


def of_batch(out: Path, batch_id: str) -> Document:
    """`read`, for who asked by the id: whatever is wrong is said with the path. NotFound."""
    path = path_of(out, batch_id)
    try:
        document = read(path)
    except FileNotFoundError:
        raise NotFound(f"there is no receipt {batch_id}: {path}") from None
    except Corrupt as error:
        raise Corrupt(f"{path}: {error.message}", hint=_RESTORE) from None
    if lacking := [name for name in _TEXTS if not isinstance(document.get(name), str)]:
        raise Corrupt(f"{path}: receipt lacks {', '.join(lacking)}", hint=_RESTORE)
    if not all(map(_is_whole, document["anchors"])):
        raise Corrupt(f"{path}: receipt has an anchor with an odd status, depth, need or via", hint=_RESTORE)
    return document


def _is_whole(anchor: Document) -> bool:
    """Also in what may stand beside `is_attestation`."""
    numbers, via = (anchor.get(name, 0) for name in ("depth", "need")), anchor.get("via", {})
    leads = "via" not in anchor or (isinstance(via, dict) and is_hash(via.get("root")))
    return leads and isinstance(anchor.get("status", ""), str) and all(type(number) is int for number in numbers)


def alone(out: Path, batch_id: str) -> str:
    """The root that came alone, as its receipt says; "" = it came with a file, or there is no receipt to be read."""
    try:
        receipt = read(path_of(out, batch_id))
    except (Invalid, OSError):
        return ""
    return str(receipt["batchRoot"]) if receipt.get("source") == ROOT else ""


def above(anchor: Mapping[str, Any]) -> str:
    """Id of the super-batch that it leads to; "" = none."""
    via = anchor.get("via")
    identity = via.get("batch") if isinstance(via, dict) else None
    return str(identity) if is_id(identity) else ""


def is_attestation(value: object) -> bool:
    """chain, tx, block, ts of the right types."""
    if not isinstance(value, dict):
        return False
    texts = all(isinstance(value.get(name), str) and value[name] for name in ("chain", "tx"))
    return texts and all(type(value.get(name)) is int for name in ("block", "ts"))


def merged(anchors: Sequence[Document], new: Document) -> list[Document]:
    """Strongest chain first; the earliest anchor of a chain stays, but what is told of the same transaction, or of
    one that took its place, is told anew, and one that was in no block, or is faulty, gives way."""
    known = next((anchor for anchor in anchors if anchor["chain"] == new["chain"]), None)
    other = known is not None and known["tx"] not in (new["tx"], *new.get("earlier", ()))
    if known is not None and other and known.get("status") not in _UNSETTLED:
        return list(anchors)
    kept = [anchor for anchor in anchors if anchor is not known]
    return sorted([*kept, new], key=lambda anchor: (strength(anchor["chain"]), anchor["chain"]))


def _record_batch(out: Path, item: Covered, attestation: Document) -> list[str]:
    path = path_of(out, item.batch.id)
    warnings: list[str] = []
    before: Document = {}
    if path.exists():
        try:
            before = _sound(path, item.batch)
        except Invalid as error:
            aside = path.with_suffix(".damaged")
            path.rename(aside)
            warnings.append(f"{path}: {error.message}; kept as {aside.name}, a new one is written")
    anchors = before.get("anchors", [])
    after, source = merged(anchors, _attested(attestation, item)), _source(out, before, item)
    if after != anchors or source != before.get("source", FILE):
        held = before.get("fileSha256") or (_file_sha256(out, item.batch) if source == FILE else "")
        disk.replace(path, render(_batch_receipt(item.batch, after, source, held)).encode())
    return warnings


def _file_sha256(out: Path, batch: Batch) -> str:
    """Of a v0 batch, which has no digest of its own; "" where its file is not the one that was anchored."""
    raw = disk.read_if_there(out / "batches" / f"{batch.id}.json", disk.BATCH_LIMIT) if batch.tree == V0 else None
    if raw is None:
        return ""
    found = parse(raw, batch.id)
    return hash_text(sha256(raw).digest()) if isinstance(found, Batch) and found.root == batch.root else ""


def _source(out: Path, before: Document, item: Covered) -> str:
    """A file that was there once has to stay, whoever comes without it later. One that lies elsewhere is for no
    `verify` to look for."""
    if before and before.get("source", FILE) == FILE:
        return FILE
    return item.source if (out / "batches" / f"{item.batch.id}.json").exists() else ROOT


def _sound(path: Path, batch: Batch) -> Document:
    document = read(path)
    if document["batchRoot"] != batch.root:
        raise Corrupt("receipt is for another root")
    return document


def _batch_receipt(batch: Batch, anchors: list[Document], source: str, file_sha256: str) -> Document:
    return with_digest(
        {
            "batchId": batch.id,
            "batchRoot": batch.root,
            "tree": batch.tree,
            "namespace": batch.namespace,
            "source": source,
            **({"fileSha256": file_sha256} if file_sha256 else {}),
            "anchor": anchors[0],
            "anchors": anchors,
            "verifier": VERIFIER,
            "integrity": f"vmr1-{batch.id}",
        }
    )


def _attested(attestation: Document, item: Covered) -> Document:
    return {**attestation, "via": item.via} if item.via else attestation


def _record_events(directory: Path, wanted: Mapping[str, Covered], attestation: Document) -> list[str]:
    warnings = []
    for path in sorted(directory.glob("*.json")):
        try:
            document = read_event(path)
        except (OSError, Invalid) as error:
            warnings.append(f"{path}: {error}")
            continue
        item = wanted.get(document["batchRoot"])
        if item is not None:
            _record_event(path, document, _attested(attestation, item))
    return warnings


def _record_event(path: Path, document: Document, attestation: Document) -> None:
    after = merged(event_anchors(document), attestation)
    changed = {**document, "anchor": after[0], "anchors": after}
    if changed != document:
        disk.replace(path, json.dumps(changed, indent=2, ensure_ascii=False).encode() + b"\n")


def event_anchors(document: Document) -> list[Document]:
    """Of a v0 receipt, however its writer kept them; `vm:internal` is no anchor."""
    listed = document.get("anchors", [document.get("anchor")])
    return [anchor for anchor in listed if is_attestation(anchor) and not anchor["chain"].startswith("vm:")]


def read_event(path: Path) -> Document:
    """A v0 event receipt; Invalid when it is none."""
    document = load(disk.read(path, disk.SMALL_LIMIT))
    if isinstance(document, str):
        raise Invalid(f"receipt is {document}")
    path_texts = document.get("path")
    hashes = is_hash(document.get("eventHash")) and is_hash(document.get("batchRoot"))
    if not hashes or not isinstance(path_texts, list) or not all(is_hash(text) for text in path_texts):
        raise Invalid("receipt lacks eventHash, batchRoot or path")
    if not isinstance(document.get("anchors", []), list):
        raise Invalid("receipt's anchors are no list")
    return document
