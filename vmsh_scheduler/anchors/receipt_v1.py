"""receipt.v1 and batch-manifest.v1 (spec vaultmesh section 6), rendered from our receipts; docs/schemas has both.

Finality is said by code, not by a pattern: `verified` only where nothing is missing to the depth that was asked for."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import NotFound, Usage

_RAILS = {"eip155": ("EVM", "evm"), "btc": ("BTC", "btc"), "rfc3161": ("TSA", "tsa")}
_STATUS = {
    "signed": ("pending", "observed"),
    "submitted": ("submitted", "observed"),
    "verified": ("submitted", "observed"),
    "final": ("verified", "finalized"),
    "reorged": ("reorged", "reorged"),
    "lost": ("failed", "observed"),
    "faulty": ("failed", "observed"),
}
"""Ours -> (status, finality.state). Our `verified` is in a block that is not deep enough yet."""
_SHORTEST_ID = 8
_EVIDENCE = ("blockHash", "contract", "sender", "memo", "earlier", "sig")


def receipt_v1(root: Path, batch: str, chain: str = "") -> Document:
    """Of the strongest anchor that the format has a name for, or of the one on `chain`. NotFound without one."""
    _, found = _all(root, batch, chain)
    if not found:
        wanted = chain or "eip155:, btc: or rfc3161:"
        raise NotFound(f"batch {batch} has no anchor on {wanted}: receipt.v1 has no other rails")
    return found[0]


def manifest_v1(root: Path, batch: str) -> Document:
    """All of a batch. Usage for an id that the format has no room for."""
    if len(batch) < _SHORTEST_ID:
        raise Usage(f"batch-manifest.v1 asks for ids of {_SHORTEST_ID} characters, {batch!r} has {len(batch)}")
    document, found = _all(root, batch)
    if not found:
        raise NotFound(f"batch {batch} has no anchor on eip155:, btc: or rfc3161:")
    first = min(anchor["ts"] for anchor in document["anchors"])
    named = {"namespace": document["namespace"]} if document["namespace"] else {}
    metadata = {"batchRoot": document["batchRoot"], "tree": document["tree"], **named}
    return {"version": "1", "batchId": batch, "createdAt": _time(first), "receipts": found, "metadata": metadata}


def _all(root: Path, batch: str, chain: str = "") -> tuple[Document, list[Document]]:
    """Our receipt, and its anchors as the format has them."""
    document = receipts.of_batch(root / "out", batch)
    seen = int(receipts.path_of(root / "out", batch).stat().st_mtime)
    anchors = [one for one in document["anchors"] if _scheme(one) in _RAILS and chain in ("", one["chain"])]
    return document, [_rendered(document, anchor, seen) for anchor in anchors]


def _scheme(anchor: Document) -> str:
    return str(anchor["chain"].partition(":")[0])


def _rendered(document: Document, anchor: Document, seen: int) -> Document:
    """`root` is the one that is on the chain: of a batch in a super-batch, the super-batch's."""
    scheme, _, network = anchor["chain"].partition(":")
    status, state = _STATUS.get(_phase(scheme, anchor), ("pending", "observed"))
    via = anchor.get("via", {})
    rendered: Document = {
        "version": "1",
        "root": "0x" + via.get("root", document["batchRoot"])[7:],
        "chain": _RAILS[scheme][0],
        "network": network,
        "txScheme": _RAILS[scheme][1],
        "txRef": anchor["tx"],
        "blockNumber": max(0, anchor["block"]),
        "anchorTs": _time(anchor["ts"]),
        "observedAt": _time(seen),
        "status": status,
        "verifier": document["verifier"],
        "finality": {"observedDepth": anchor.get("depth", 0), "requiredDepth": anchor.get("need", 0), "state": state},
        "metadata": {"batchId": document["batchId"], "batchRoot": document["batchRoot"], "tree": document["tree"]},
    }
    return rendered | _optional(scheme, anchor)


def _phase(scheme: str, anchor: Document) -> str:
    """A token is whole at once; a transaction is final at the depth that was asked for, whatever its status says."""
    if scheme == "rfc3161":
        return "final"
    deep_enough: bool = anchor.get("depth", 0) >= max(1, anchor.get("need", 1))
    status = str(anchor.get("status", "submitted"))
    return "verified" if status == "final" and not deep_enough else status


def _optional(scheme: str, anchor: Document) -> Document:
    told: dict[str, Any] = {name: anchor[name] for name in _EVIDENCE if anchor.get(name)}
    if "via" in anchor:
        told["inclusion"] = anchor["via"]
    more: Document = {"evidence": told} if told else {}
    return more | ({"rfc3161Ts": _time(anchor["ts"])} if scheme == "rfc3161" else {"txHash": anchor["tx"]})


def _time(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        raise Invalid(f"a receipt's ts is no time: {seconds}") from None
