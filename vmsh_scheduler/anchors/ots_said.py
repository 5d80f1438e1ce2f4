"""What receipts say of a timestamp, and whether that is so: offline, from the receipt, the proof and the book."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from vmsh_scheduler.anchors import disk, ots_proof
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.ots_proof import Contents, InBlock
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.submission import Book, Submission
from vmsh_scheduler.domain.batch import Document, canonical, hash_bytes, hash_text, is_hash, is_id
from vmsh_scheduler.errors import ConfigError

_SETTLED: tuple[str, ...] = ("merkleRoot", "checked")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


def proof_path(out: Path, target: str, batch: str) -> Path:
    """Below the rail's name: two rails have two proofs of one batch."""
    return out / "attestations" / "ots" / target.partition(":")[2] / f"{batch}.ots"


def proof_sha256(one: Submission) -> str:
    return hash_text(sha256(bytes.fromhex(one.raw)).digest())


def attestation(one: Submission) -> Document:
    """As receipts hold it: `tx` is the commitment, `block` that of Bitcoin once there is one."""
    file = proof_path(Path("out"), one.target, one.batch).as_posix()
    proof = {"proof": file, "proofSha256": proof_sha256(one), "calendars": one.details.get("calendars", [])}
    settled: Document = {name: one.details[name] for name in _SETTLED if name in one.details}
    return {**one.attestation(), **proof, **settled}


def state(one: Submission) -> str:
    """Of what receipts say."""
    return hash_text(sha256(canonical(attestation(one)).encode()).digest())


def fault_of(out: Path, anchor: Document, root: str) -> str:
    """Why an attestation `ots:<name>` does not speak for the batch root `root`; "" = it does."""
    try:
        claim_of(out, anchor, root)
    except FileNotFoundError:
        return f"{anchor['chain']}: the proof {anchor.get('proof')} is gone"
    except (OSError, Invalid, ConfigError) as error:
        return f"{anchor['chain']}: {error}"
    return ""


def claim_of(out: Path, anchor: Document, root: str) -> InBlock | None:
    """The block that an attestation names and its proof leads to; None: it names none. Raises Invalid, OSError, and
    ConfigError where the extra is not installed."""
    contents = _contents(out, anchor, root)
    if pending(anchor):
        if not {promise.uri for promise in contents.promises}.issuperset(anchor.get("calendars", ["?"])):
            raise Invalid("the proof is not from the calendars that the receipt names")
        return None
    for block in contents.blocks:
        if (block.height, block.merkle_root) == (anchor["block"], anchor.get("merkleRoot")):
            return block
    raise Invalid(f"the proof does not lead to block {anchor['block']} and the merkle root that the receipt names")


def pending(anchor: Document) -> bool:
    """Does it speak of no block (any more)?"""
    return not anchor["block"] or anchor.get("status") == "reorged"


def said(anchor: Document) -> str:
    """Of an attestation without a fault: what it says, and what of that is left for the reader to trust or to check."""
    if pending(anchor):
        return f"{anchor['chain']} (pending at {', '.join(anchor['calendars'])})"
    told = f"{anchor['chain']} (in Bitcoin block {anchor['block']}, merkle root {anchor['merkleRoot']}"
    if anchor.get("checked"):
        return f"{told}, as a node said then)"
    return f"{told}, on the calendars' word: compare it with the block's)"


def file_row(proof: bytes, known: Mapping[str, str], name: str) -> Row:
    """Of a proof file alone; `known`: batches by their root."""
    try:
        root = ots_proof.digest_of(proof)
        contents = ots_proof.contents(proof, root)
    except (Invalid, ConfigError) as error:
        return Row(name, "proof", False, str(error))
    batch = known.get(hash_text(root))
    about = f"batch {batch}" if batch else f"{hash_text(root)}, which is no batch's root here"
    return Row(name, "proof", batch is not None, f"of {about}: {_words(contents)}")


def _words(contents: Contents) -> str:
    """What a reader without a node has."""
    if contents.blocks:
        first = contents.blocks[0]
        return f"in Bitcoin block {first.height}, if that block's merkle root is {first.merkle_root}"
    return "pending at " + ", ".join(sorted({promise.uri for promise in contents.promises}))


def _contents(out: Path, anchor: Document, root: str) -> Contents:
    name, file = anchor["chain"].partition(":")[2], anchor.get("proof")
    batch = Path(file).stem if isinstance(file, str) else ""
    if not _NAME.fullmatch(name) or ".." in name or not is_id(batch):
        raise Invalid("its proof has no proper name")
    if file != proof_path(Path("out"), anchor["chain"], batch).as_posix():
        raise Invalid("its proof is said to be where none belongs")
    proof = disk.read(proof_path(out, anchor["chain"], batch), ots_proof.PROOF_LIMIT)
    one = Book(out, anchor["chain"]).get(batch)
    _check_bytes(anchor, proof, one)
    contents = ots_proof.contents(proof, hash_bytes(root))
    if not is_hash(anchor["tx"]) or hash_bytes(anchor["tx"]) not in contents.messages:
        raise Invalid("the proof does not hold the commitment that the receipt names")
    return contents


def _check_bytes(anchor: Document, proof: bytes, one: Submission | None) -> None:
    """A pass that was interrupted may have written a fuller proof, which only the book knows."""
    digest = hash_text(sha256(proof).digest())
    told = {name: value for name, value in anchor.items() if name != "via"}
    if one is not None and one.told and told != attestation(one):
        raise Invalid("the receipt says something else than was written down of it")
    known = {anchor.get("proofSha256"), proof_sha256(one) if one is not None else ""}
    if digest not in known:
        raise Invalid("the proof was changed after the receipt was written")
