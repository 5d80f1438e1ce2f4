"""`combine`: several pending batches -> one super-batch, an RFC 6962 tree over their roots in the order given."""

from pathlib import Path

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.sealing import glance
from vmsh_scheduler.domain.batch import (
    RFC6962,
    BadBatch,
    Batch,
    Document,
    digest_holds,
    is_hash,
    is_id,
    leaves_root,
    load,
    render,
    with_digest,
)

SUPER = "-super-"
"""In the id of all that `combine` made."""


def run(facts: Facts) -> Document:
    """The verb: {directory, namespace, batches: [{id, root}]}."""
    directory = facts.text("directory")
    if not directory:
        raise Invalid("stdin: directory is missing")
    return combine(Path(directory), facts.text("namespace"), _members(facts))


def combine(directory: Path, namespace: str, members: list[Document]) -> Document:
    """The same members give the same file (id, time and all), so doing it twice is doing it once."""
    if len(members) < 2:
        raise Invalid("combine needs at least two batches")
    root = leaves_root(RFC6962, [member["root"] for member in members])
    created = max(_checked(directory, member).created_at for member in members) // 1000
    identity = f"{created}{SUPER}{root[7:23]}"
    document = with_digest(
        {
            "id": identity,
            "root": root,
            "tree": RFC6962,
            "kind": "super",
            "createdAt": created,
            "namespace": namespace,
            "count": len(members),
            "leaves": [member["root"] for member in members],
            "batches": members,
        }
    )
    path = directory / f"{identity}.json"
    with disk.locked(directory):
        _write_once(path, render(document).encode())
    return {"status": "ok", "id": identity, "root": root, "file": str(path), "count": len(members)}


def _write_once(path: Path, text: bytes) -> None:
    there = disk.read_if_there(path, disk.BATCH_LIMIT)
    if there is None:
        disk.replace(path, text)
    elif not _same(there, text):
        raise Corrupt(f"{path} was changed: it is not the super-batch of its name", hint="move it away")


def _same(there: bytes, text: bytes) -> bool:
    """Also where another namespace combined the same (untagged) batches first: both anchor the one file."""
    known, wanted = load(there), load(text)
    if isinstance(known, str) or isinstance(wanted, str) or not digest_holds(known):
        return False
    return with_digest({**known, "namespace": wanted["namespace"]}) == wanted


def _checked(directory: Path, member: Document) -> Batch:
    batch = glance(directory / f"{member['id']}.json")
    if isinstance(batch, BadBatch):
        raise Invalid(f"batch {batch.name}: {batch.reason}")
    if batch.root != member["root"]:
        raise Invalid(f"batch {batch.id} has another root than the one to be combined")
    return batch


def _members(facts: Facts) -> list[Document]:
    found = facts.document.get("batches")
    if not isinstance(found, list):
        raise Invalid("stdin: batches is not a list")
    members = []
    for item in found:
        if not isinstance(item, dict) or not is_id(item.get("id")) or not is_hash(item.get("root")):
            raise Invalid("stdin: batches: each needs a plain id and a root sha256:<hex>")
        members.append({"id": item["id"], "root": item["root"]})
    return members
