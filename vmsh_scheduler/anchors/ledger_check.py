"""Reads a whole ledger again and holds every entry, checkpoint and signature against the others."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.entries import Anchored, Entry, Line, lines
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.ledger import Place, read_entry, read_note_line
from vmsh_scheduler.anchors.note import Checkpoint, Verifier
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import hash_text


@dataclass(frozen=True)
class View:
    """A ledger that was found sound, up to its newest signed checkpoint."""

    name: str
    verifier: Verifier
    entries: tuple[Entry, ...]
    note: str
    """Newest checkpoint; "" = nothing is signed yet."""
    remark: str = ""
    read_to: int = 0
    """Bytes of the entries file by then."""
    published: bool = True
    """The file `checkpoint` is there."""

    def about(self, batch: str) -> list[Anchored]:
        """What was anchored under this batch id."""
        return self._by_batch.get(batch, [])

    @cached_property
    def _by_batch(self) -> dict[str, list[Anchored]]:
        found: dict[str, list[Anchored]] = {}
        for entry in self.entries:
            found.setdefault(entry.about.batch, []).append(entry.about)
        return found

    def tree(self) -> merkle.Tree:
        return merkle.tree([entry.leaf for entry in self.entries])

    def fault(self, anchor: dict[str, object], root: str) -> str:
        """Why an attestation does not say what stands here; "" if it does."""
        block = anchor["block"]
        if not isinstance(block, int) or not 0 <= block < len(self.entries):
            return f"entry {block} is not in ledger {self.name!r}: cut short, or never written"
        entry = self.entries[block]
        if entry.about.root != root:
            return f"entry {block} of ledger {self.name!r} is about another root"
        if not self.published:
            return f"the file `checkpoint` of ledger {self.name!r} is gone: it was written before any receipt"
        if (entry.tx, entry.ts, self.verifier.name) != (anchor["tx"], anchor["ts"], anchor.get("memo")):
            return f"the attestation differs from entry {block} of ledger {self.name!r}"
        return ""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """Sizes at one moment, so that a writer may go on meanwhile."""

    entries: int
    notes: int
    checkpoint: bytes | None


def inspect(directory: Path) -> tuple[Row, View | None]:
    """One row, and the ledger itself if it is sound."""
    subject = f"local:{directory.name}"
    try:
        view = _read(Place(directory))
    except (Invalid, OSError) as error:
        return Row(subject, "ledger", False, str(error)), None
    if there := ", ".join(map(str, Place(directory).in_the_way)):  # the evidence stands all the same
        return Row(subject, "ledger", False, f"nothing can be anchored: {there} is a directory; move it away"), view
    detail = f"{len(view.entries)} entries, root {_root(view)}, key {view.verifier}"
    return Row(subject, "ledger", True, "; ".join(part for part in (detail, view.remark) if part)), view


def _root(view: View) -> str:
    return hash_text(Checkpoint.read(view.note.partition("\n\n")[0] + "\n").root) if view.note else "none"


def _read(place: Place) -> View:
    verifier = place.verifier()
    if verifier is None:
        raise Corrupt(f"{place.public_key} is missing")
    with disk.locked(place.directory):
        now = _Snapshot(size_of(place.entries), size_of(place.notes), _checkpoint(place))
    entries, rest, notes = _signed_entries(place, now, verifier)
    remarks = [_check_newest(now.checkpoint, notes, is_tailed=place.tail.exists()), *_unsigned(rest, len(entries))]
    remark = "; ".join(part for part in remarks if part)
    note, published = notes[-1] if notes else "", now.checkpoint is not None
    return View(place.directory.name, verifier, tuple(entries), note, remark, now.entries, published)


def _signed_entries(place: Place, now: _Snapshot, verifier: Verifier) -> tuple[list[Entry], list[Line], list[str]]:
    """Entries with a checkpoint, lines without one, and the last two checkpoints."""
    stream = _until(place.entries, now.entries)
    entries: list[Entry] = []
    last: list[str] = []
    tree = merkle.Compact()
    for note_line in _until(place.notes, now.notes):
        line = next(stream, None)
        if line is None:
            raise Corrupt(f"{place.entries} is cut short: {len(entries)} entries, but more are signed")
        entry = _numbered(place.entries, line, len(entries))
        tree = tree.append(line.leaf)
        note = read_note_line(note_line.data)
        _check_note(note, verifier, tree)
        entries.append(entry)
        last = [*last[-1:], note]
    return entries, list(stream), last


def _numbered(path: Path, line: Line, index: int) -> Entry:
    try:
        return read_entry(line, index)
    except Corrupt as error:
        raise Corrupt(f"{path}: entry {index}: {error.message}") from None


def _check_note(note: str, verifier: Verifier, tree: merkle.Compact) -> None:
    try:
        checkpoint = Checkpoint.read(verifier.opens(note))
    except Corrupt as error:
        raise Corrupt(f"checkpoint {tree.size}: {error.message}") from None
    if checkpoint.origin != verifier.name or checkpoint.size != tree.size:
        raise Corrupt(f"checkpoint {tree.size}: another ledger's or out of order")
    if checkpoint.root != tree.root():
        raise Corrupt(f"checkpoint {tree.size}: signed root is not that of the entries")


def _check_newest(raw: bytes | None, notes: list[str], *, is_tailed: bool) -> str:
    """A writer that died between its last two writes leaves the checkpoint before; anything else is a change. The tail
    is written after it."""
    if raw is None and len(notes) <= 1 and not is_tailed:
        return "no checkpoint file yet" if notes else ""
    kept = [note.encode() for note in notes]
    if raw is None or raw not in kept:
        raise Corrupt("the file `checkpoint` is not the newest signed one: changed, or others were removed")
    return "" if raw == kept[-1] else "`checkpoint` is one entry behind (interrupted write)"


def _unsigned(rest: list[Line], index: int) -> Iterator[str]:
    """More than one entry without a checkpoint is no trace of an interrupted write."""
    if len(rest) > 1:
        raise Corrupt(f"{len(rest)} entries from {index} on have no checkpoint: signed ones were removed")
    if rest:
        yield "the last entry is not signed yet (interrupted write; the next append signs or drops it)"


def _until(path: Path, end: int) -> Iterator[Line]:
    return (line for line in lines(path) if line.end <= end)


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _checkpoint(place: Place) -> bytes | None:
    return disk.read_if_there(place.checkpoint, disk.SMALL_LIMIT)


def compare(note: str, view: View) -> Row:
    """A checkpoint that somebody kept: is what it said still the beginning of the ledger?"""
    try:
        kept = Checkpoint.read(view.verifier.opens(note))
    except Corrupt as error:
        return Row(f"local:{view.name}", "checkpoint", False, error.message)
    if kept.size > len(view.entries):
        fault = f"it covers {kept.size} entries, the ledger has {len(view.entries)}: cut short"
    elif merkle.root([entry.leaf for entry in view.entries[: kept.size]]) != kept.root:
        fault = "the ledger no longer begins with what it covers: history was rewritten"
    else:
        return Row(f"local:{view.name}", "checkpoint", True, f"size {kept.size} of {len(view.entries)}, consistent")
    return Row(f"local:{view.name}", "checkpoint", False, fault)
