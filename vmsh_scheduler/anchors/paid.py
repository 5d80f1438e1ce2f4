"""Which of the batches that a run is asked for the target's book covers already, by themselves or below a super-batch.

A run that failed after it had signed is asked for again with what arrived meanwhile: another super-batch, of which only
what is new may be paid for (spec vaultmesh section 18: never build a second transaction)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vmsh_scheduler.anchors import combine, disk, receipts
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.sealing import glance
from vmsh_scheduler.anchors.subject import Subject, read_subject, subject_of
from vmsh_scheduler.anchors.submission import Book, Phase, Submission
from vmsh_scheduler.domain.batch import BadBatch, Batch, Document, is_hash, is_id, load

Item = tuple[object, object]
"""Id and root of a batch."""


@dataclass(frozen=True, slots=True)
class Division:
    """Of what was asked for."""

    kept: tuple[Submission, ...] = ()
    """What the book has of it, oldest first: to be brought to its end, and never paid for again."""
    doubtful: tuple[Corrupt, ...] = ()
    """Files of the book that may speak of some of it, and cannot be read."""
    left: tuple[Batch, ...] = ()
    """Nobody paid for these, and what was signed for them, if anything, never can be mined."""


def divided(book: Book, out: Path, asked: Subject) -> Division:
    """Whoever signs for `left` holds `Book.signing` from before this on."""
    wanted = {(one.id, one.root): one for one in asked.members or (asked.batch,)}
    kept, doubtful = [], []
    covered: set[Item] = set()
    for name, told in _candidates(book, out, wanted).items():
        try:
            one = book.get(name)
        except Corrupt as error:
            items = told | _items(out, name) | {item for item in wanted if item[0] == name}
            if items & wanted.keys():
                doubtful.append(error)
                covered |= items
            continue
        if one is None or one.phase is Phase.LOST:
            continue
        items = {item for item in _covered(out, one, told) if item[0] != name} | {(one.batch, one.root)}
        if items & wanted.keys():
            kept.append(one)
            covered |= items
    left = tuple(batch for item, batch in wanted.items() if item not in covered)
    return Division(tuple(sorted(kept, key=lambda one: one.signed_at)), tuple(doubtful), left)


def _candidates(book: Book, out: Path, wanted: Iterable[tuple[str, str]]) -> Mapping[str, set[Item]]:
    """All that the book has, and what receipts tell of each: they are no witness of what is missing in them, for one
    that was lost may have been begun anew by another target."""
    book.open()  # a copy without its dotfiles is marked anew
    found: dict[str, set[Item]] = {name: set() for name in book.batches()}
    for identity, _ in wanted:
        found.setdefault(identity, set())
        try:
            receipt = receipts.read(receipts.path_of(out, identity))
        except (Invalid, OSError):
            continue
        for anchor in receipt["anchors"]:
            name = receipts.above(anchor)
            if name and anchor["chain"] == book.target:
                found.setdefault(name, set()).add((identity, receipt["batchRoot"]))
    return found


def _covered(out: Path, one: Submission, told: set[Item]) -> set[Item]:
    """As the book says. An entry from before it said so: as receipts and the batch file do, which is big and read only
    where it may be a super-batch's."""
    if one.members:
        return set(one.members)
    return told | (_items(out, one.batch) if one.unfinished or combine.SUPER in one.batch else set())


def _items(out: Path, name: str) -> set[Item]:
    """What the batch file of this name speaks for; nothing where it is gone or none."""
    path = out / "batches" / f"{name}.json"
    batch = glance(path)
    if isinstance(batch, BadBatch):
        return set()
    members: object = []
    if batch.combined:
        document = load(disk.read(path, disk.BATCH_LIMIT))
        members = document.get("batches") if isinstance(document, dict) else []
    listed = [one for one in members if isinstance(one, dict)] if isinstance(members, list) else []
    told = ((one.get("id"), one.get("root")) for one in listed)
    return {(batch.id, batch.root), *((name, root) for name, root in told if is_id(name) and is_hash(root))}


def parts(facts: Facts, book: Book, asked: Subject) -> tuple[list[Subject], list[str]]:
    """What is to be anchored in the place of `asked`, the new one last, and what to say of it. Corrupt when all of it
    is in doubt."""
    out, exact = facts.root / "out", book.get(asked.batch.id)
    if exact is not None and exact.phase is not Phase.LOST:
        return [asked], list(asked.warnings)
    found = divided(book, out, asked)
    if not found.kept and not found.doubtful:
        return [asked], list(asked.warnings)
    if not found.kept and not found.left:
        raise found.doubtful[0]
    warnings = [*asked.warnings, *(f"skipped, it may be paid for: {error}" for error in found.doubtful)]
    new = [_fresh(facts, asked, found.left)] if found.left else []
    going_on = [one for one in found.kept if one.unfinished] or list(found.kept[-1:] if not new else ())
    subjects = []
    for one in going_on:
        try:
            subjects.append(subject_of(out, one))
        except (Invalid, OSError) as error:
            if not new and one is going_on[-1]:
                raise
            warnings.append(f"batch {one.batch}: {error}")
    faulty = [f"skipped, {one.tx} paid for it: {one.fault}" for one in found.kept if one.phase is Phase.FAULTY]
    return [*subjects, *new], [*warnings, *faulty]


def _fresh(facts: Facts, asked: Subject, left: tuple[Batch, ...]) -> Subject:
    """`left` alone, as a batch or a super-batch of its own."""
    directory = Path(facts.text("batch.file", "VMSH_BATCH_FILE")).parent
    members: list[Document] = [{"id": one.id, "root": one.root} for one in left]
    if len(members) > 1:
        batch = combine.combine(directory, facts.namespace, members)
    else:
        batch = {**members[0], "file": str(directory / f"{left[0].id}.json")}
    return read_subject(Facts({**facts.document, "batch": batch}, facts.environ))
