"""What a rail anchors: a batch, as its file shows it."""

from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from vmsh_scheduler.anchors import disk, receipts
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.sealing import glance
from vmsh_scheduler.anchors.submission import Submission
from vmsh_scheduler.domain.batch import BadBatch, Batch, Document, describe, is_hash, is_id, leaves_root, load


@dataclass(frozen=True, slots=True)
class Subject:
    """The batch to anchor, as its file shows it."""

    batch: Batch
    file: str = ""
    """sha256 of the file; "" = no file was given."""
    document: Document = field(default_factory=dict)
    members: tuple[Batch, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def listed(self) -> tuple[tuple[str, str], ...]:
        """Of a super-batch: id and root of all that were combined, also of those whose file changed since."""
        listed = self.document.get("batches")
        return tuple((one["id"], one["root"]) for one in listed) if isinstance(listed, list) else ()


def read_subject(facts: Facts) -> Subject:
    """Invalid unless the file, when there is one, has the id and root that were given (decision 23)."""
    identity, root = facts.batch
    file = facts.text("batch.file", "VMSH_BATCH_FILE")
    if not file:
        return Subject(Batch(identity, root, 0, identity, namespace=facts.namespace))
    path = Path(file)
    try:
        raw = disk.read(path, disk.BATCH_LIMIT)
    except FileNotFoundError:
        raise Invalid(f"{path} is gone") from None
    document = load(raw)
    batch = BadBatch(path.stem, document) if isinstance(document, str) else describe(document, path.stem)
    if isinstance(batch, BadBatch) or isinstance(document, str):
        raise Invalid(f"{path}: {batch.reason if isinstance(batch, BadBatch) else document}")
    if (batch.id, batch.root) != (identity, root):
        raise Invalid(f"{path} is not the batch that was to be anchored: {batch.id} {batch.root}")
    members, lost = _members(path.parent, document)
    digest = "sha256:" + sha256(raw).hexdigest()
    return Subject(batch, digest, document, members, (*_mismatch(batch, document), *lost))


def subject_of(out: Path, one: Submission) -> Subject:
    """Of what a book has, as its batch file shows it now, or bare where its receipt says that the root came alone.
    Raises Invalid, OSError."""
    file = out / "batches" / f"{one.batch}.json"
    batch = {"id": one.batch, "root": one.root}
    if file.exists() or receipts.alone(out, one.batch) != one.root:
        batch["file"] = str(file)
    subject = read_subject(Facts({"batch": batch, "namespace": one.namespace}, {}))
    if one.members and subject.listed != one.members:
        raise Invalid(f"{file} lists other batches than were paid for with {one.tx}", hint="restore it")
    return subject


def _mismatch(batch: Batch, document: Document) -> tuple[str, ...]:
    leaves = document.get("leaves")
    if not isinstance(leaves, list):
        return ()
    sound = all(is_hash(leaf) for leaf in leaves) and leaves_root(batch.tree, leaves) == batch.root
    return () if sound else (f"batch {batch.id}: its leaves do not give its root",)


def _members(directory: Path, document: Document) -> tuple[tuple[Batch, ...], tuple[str, ...]]:
    """Of a super-batch: those whose file still is what was combined."""
    found, lost = [], []
    listed = document.get("batches", [])
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict) or not is_id(item.get("id")) or not is_hash(item.get("root")):
            raise Invalid("super-batch: a member without id or root")
        batch = glance(directory / f"{item['id']}.json")
        if isinstance(batch, BadBatch) or batch.root != item["root"]:
            lost.append(f"batch {item['id']} changed after it was combined; it gets no receipt")
        else:
            found.append(batch)
    return tuple(found), tuple(lost)
