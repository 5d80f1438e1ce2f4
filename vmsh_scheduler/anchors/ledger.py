"""`local:<name>`: an append-only transparency log on disk, with a signed checkpoint after every entry.

Order of writes: entry, then its signed checkpoint, each durable; index, `checkpoint` and tail can be made anew."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.entries import Anchored, Entry, KeyIndex, Line, lines
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.keys import KeyPlace, signer_for
from vmsh_scheduler.anchors.note import Checkpoint, Signer, Verifier, is_name
from vmsh_scheduler.domain.batch import canonical, digest_holds, load, with_digest
from vmsh_scheduler.domain.merkle import Compact
from vmsh_scheduler.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files of one ledger are."""

    directory: Path

    @property
    def entries(self) -> Path:
        return self.directory / "entries.jsonl"

    @property
    def notes(self) -> Path:
        """Every checkpoint ever signed, as one JSON string a line: line k is that of size k."""
        return self.directory / "checkpoints.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The newest one, as a plain signed note."""
        return self.directory / "checkpoint"

    @property
    def public_key(self) -> Path:
        return self.directory / "key.pub"

    @property
    def tail(self) -> Path:
        return self.directory / "tail.json"

    @property
    def in_the_way(self) -> Iterator[Path]:
        """Directories where a file has to be made before anything can be appended; they may hold anything."""
        made = (self.checkpoint, self.tail)
        paths = (*made, *map(disk.temporary, made))
        return (path for path in paths if path.is_dir() and not path.is_symlink())

    @property
    def index(self) -> KeyIndex:
        return KeyIndex(self.directory / "index")

    def verifier(self) -> Verifier | None:
        """None: a new ledger."""
        raw = disk.read_if_there(self.public_key, disk.SMALL_LIMIT)
        if raw is None:
            return None
        text = raw.decode(errors="replace")
        if not text.endswith("\n"):
            raise Corrupt(f"{self.public_key} was changed")
        return Verifier.read(text[:-1])


@dataclass(frozen=True, slots=True)
class Tail:
    """A ledger's end: enough to append without reading the rest."""

    tree: Compact = field(default_factory=Compact)
    entries: int = 0
    """Bytes of the entries file."""
    notes: int = 0
    """Bytes of the notes file."""
    last_note: int = 0
    """Where its last line begins."""

    def text(self) -> str:
        document = {
            "size": self.tree.size,
            "hashes": [node.hex() for node in self.tree.hashes],
            "entries": self.entries,
            "notes": self.notes,
            "last_note": self.last_note,
        }
        return canonical(with_digest(document)) + "\n"

    @classmethod
    def read(cls, raw: bytes) -> "Tail | None":
        """None unless it is whole: it is only a cache."""
        document = load(raw)
        if isinstance(document, str) or not digest_holds(document):
            return None
        tree = Compact(document["size"], tuple(bytes.fromhex(node) for node in document["hashes"]))
        return cls(tree, document["entries"], document["notes"], document["last_note"])


@dataclass(frozen=True, slots=True)
class Appended:
    """Where an anchored batch stands."""

    entry: Entry
    size: int
    """Entries in the ledger by now."""
    added: bool
    """False: the same key and root stood there already."""


class Ledger:
    """Opened for writing, under its lock; made by `opened`."""

    def __init__(self, place: Place, signer: Signer) -> None:
        self.place = place
        self.dropped = 0
        """Bytes of an interrupted, never acknowledged write that were cut off on opening."""
        self._signer = signer
        self._verifier = signer.verifier
        self._tail = self._recover()

    @property
    def origin(self) -> str:
        return self._signer.name

    def append(self, about: Anchored, ts: int) -> Appended:
        """Durable and signed when it returns; the same key and root again adds nothing."""
        known = self._find(about)
        if known is not None:
            return Appended(known, self._tail.tree.size, added=False)
        entry = Entry(self._tail.tree.size, ts, about)
        line = entry.line
        disk.append(self.place.entries, line + b"\n")
        start = self._tail.entries
        self._tail = self._signed(self._tail, [self._tail.tree.append(entry.leaf)], start + len(line) + 1)
        self.place.index.add([(about, start)])
        self._publish(self._tail)
        return Appended(entry, entry.index + 1, added=True)

    def _find(self, about: Anchored) -> Entry | None:
        for start in self.place.index.find(about):
            try:
                entry = Entry.read(next(lines(self.place.entries, start)).data)
            except (Corrupt, StopIteration):
                continue  # the index is only a cache; a damaged ledger is found by its checkpoint
            if (entry.about.key, entry.about.root) == (about.key, about.root):
                return entry
        return None

    def _recover(self) -> Tail:
        """From the kept tail if it fits the last signed checkpoint, else from the beginning."""
        if path := next(self.place.in_the_way, None):
            raise Corrupt(f"{path} is a directory", hint="move it away: a file is made in its place")
        raw = _cached(self.place.tail)
        kept = Tail.read(raw) if raw and self.place.index.there else None
        if kept is not None and kept.tree.size:
            try:
                return self._replay(kept)
            except Corrupt:
                pass  # the tail is only a cache: what the files themselves say decides, below
        self.place.tail.unlink(missing_ok=True)
        self.place.index.make_anew()
        return self._replay(Tail())

    def _replay(self, tail: Tail) -> Tail:
        """Reads on from `tail`, holds entries and checkpoints against each other, repairs the unsigned end."""
        if tail.tree.size:
            self._check_last(tail)
            self._check_there(tail)
        notes = lines(self.place.notes, tail.notes)
        unsigned: list[Compact] = []
        seen: list[tuple[Anchored, int]] = []
        end = signed = tail
        for line in lines(self.place.entries, tail.entries):
            note = next(notes, None)
            entry = self._entry_at(end.tree.size, line, required=note is not None)
            if entry is None:
                break
            seen.append((entry.about, line.start))
            end = replace(end, tree=end.tree.append(line.leaf), entries=line.end)
            if note is None:
                unsigned.append(end.tree)
            else:
                signed = end = _with_note(end, note)
        if next(notes, None) is not None:
            raise Corrupt(f"{self.place.entries} is cut short: a signed checkpoint says more than it holds")
        self.place.index.add(seen)
        return self._repaired(signed, unsigned, end)

    def _entry_at(self, index: int, line: Line, *, required: bool) -> Entry | None:
        """None for a line that is no entry and was never signed."""
        try:
            return read_entry(line, index)
        except Corrupt as error:
            if not required:
                return None
            raise Corrupt(f"{self.place.entries}: entry {index}: {error.message}") from None

    def _repaired(self, signed: Tail, unsigned: list[Compact], end: Tail) -> Tail:
        """Cuts torn ends off, signs whole entries that had not been signed when their writer died."""
        if signed.tree.size:
            self._check_last(signed)
        self.dropped = disk.cut(self.place.entries, end.entries) + disk.cut(self.place.notes, signed.notes)
        if unsigned:
            disk.sync(self.place.entries)
        tail = self._signed(signed, unsigned, end.entries) if unsigned else signed
        if tail.tree.size:
            self._publish(tail)
        return tail

    def _signed(self, tail: Tail, trees: list[Compact], entries: int) -> Tail:
        """One durable checkpoint for each of the sizes given, oldest first."""
        text = b""
        last = tail.notes
        for tree in trees:
            last = tail.notes + len(text)
            note = self._signer.sign(str(Checkpoint(self._signer.name, tree.size, tree.root())))
            text += note_line(note)
        disk.append(self.place.notes, text)
        return Tail(trees[-1], entries, tail.notes + len(text), last)

    def _check_last(self, tail: Tail) -> None:
        checkpoint = Checkpoint.read(self._verifier.opens(self._last_note(tail)))
        if (checkpoint.size, checkpoint.root) != (tail.tree.size, tail.tree.root()):
            raise Corrupt(f"{self.place.notes}: the checkpoint of size {checkpoint.size} has another root")

    def _check_there(self, tail: Tail) -> None:
        if not disk.ends_a_line(self.place.entries, tail.entries):
            raise Corrupt(f"{self.place.entries} is cut short")

    def _last_note(self, tail: Tail) -> str:
        line = next(lines(self.place.notes, tail.last_note), None)
        if line is None or line.end != tail.notes:
            raise Corrupt(f"{self.place.notes} is cut short")
        return read_note_line(line.data)

    def _publish(self, tail: Tail) -> None:
        """What can be made anew: written only where it differs."""
        for path, text in ((self.place.checkpoint, self._last_note(tail)), (self.place.tail, tail.text())):
            if _cached(path) != text.encode():
                disk.replace(path, text.encode(), durable=False)


def _cached(path: Path) -> bytes | None:
    """None: it is not there, or nobody can read it; then it is worth nothing, and made anew."""
    try:
        return disk.read_if_there(path, disk.SMALL_LIMIT)
    except (Invalid, OSError):
        return None


def read_entry(line: Line, index: int) -> Entry:
    """Corrupt when it is no entry or stands at another place than it says."""
    entry = Entry.read(line.data)
    if entry.index != index:
        raise Corrupt(f"entry {entry.index} stands in its place")
    return entry


def note_line(note: str) -> bytes:
    return json.dumps(note, ensure_ascii=False).encode() + b"\n"


def read_note_line(data: bytes) -> str:
    """Corrupt unless it is exactly what `note_line` writes."""
    try:
        note = json.loads(data)
    except (ValueError, RecursionError):
        raise Corrupt("a kept checkpoint was changed") from None
    if not isinstance(note, str) or note_line(note) != data + b"\n":
        raise Corrupt("a kept checkpoint was changed")
    return note


def _with_note(tail: Tail, line: Line) -> Tail:
    """Held against the kept checkpoint of that size; its signature counts only for the last one."""
    text, blank, _ = read_note_line(line.data).partition("\n\n")
    checkpoint = Checkpoint.read(text + "\n")
    if not blank or (checkpoint.size, checkpoint.root) != (tail.tree.size, tail.tree.root()):
        raise Corrupt(f"entries and checkpoints differ at size {tail.tree.size}")
    return Tail(tail.tree, tail.entries, line.end, line.start)


@contextmanager
def opened(directory: Path, keys: KeyPlace, *, name: str, origin: str = "") -> Iterator[Ledger]:
    """Made at first use; `origin` names the log in its checkpoints and cannot be changed later."""
    place = Place(directory)
    disk.make_directory(directory)
    with disk.locked(directory):
        known = place.verifier()
        if known is None and place.notes.exists():
            raise Corrupt(f"{place.public_key} is gone though the ledger has checkpoints")
        wanted = origin or (known.name if known else f"vmsh.local/{name}")
        if not is_name(wanted):
            raise ConfigError(f"ledger {name!r}: origin {wanted!r} has a space or a plus sign, or is too long")
        signer = signer_for(keys, name, wanted, known=known is not None)
        if (known is not None and signer.verifier != known) or (origin and signer.name != origin):
            raise ConfigError(
                f"ledger {name!r} was made with another key or origin than {signer.verifier}",
                hint=f"restore the key that {place.public_key} names, or anchor to a new ledger",
            )
        if known is None:
            disk.replace(place.public_key, f"{signer.verifier}\n".encode())
        yield Ledger(place, signer)
