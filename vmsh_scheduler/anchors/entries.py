"""Entries of a ledger: one canonical JSON line each; a line without its newline is the leaf's data."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.domain.batch import canonical, hash_text, is_hash, is_id, load, with_digest
from vmsh_scheduler.domain.merkle import leaf_hash

LINE_LIMIT = 64 << 10
"""Bytes of a line."""


@dataclass(frozen=True, slots=True)
class Anchored:
    """What is to be recorded about one anchored batch."""

    batch: str
    root: str
    namespace: str = ""
    cadence: str = ""
    key: str = ""
    """Idempotency key; "" = none, every append adds."""
    file: str = ""
    """sha256 of the batch file as it was, so that not only its root is fixed."""


_ABOUT = tuple(field.name for field in fields(Anchored))


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf of a ledger."""

    index: int
    ts: int
    """UTC seconds."""
    about: Anchored

    @property
    def line(self) -> bytes:
        about = {name: getattr(self.about, name) for name in _ABOUT}
        return canonical(with_digest({"index": self.index, "ts": self.ts, **about})).encode()

    @property
    def leaf(self) -> bytes:
        return leaf_hash(self.line)

    @property
    def tx(self) -> str:
        """What an attestation calls this entry: its leaf hash."""
        return hash_text(self.leaf)

    @classmethod
    def read(cls, line: bytes) -> "Entry":
        """Corrupt unless it is exactly what `line` writes."""
        document = load(line)
        if isinstance(document, str):
            raise Corrupt(f"entry is {document}")
        entry = _entry(document)
        if entry is None or entry.line != line:
            raise Corrupt("entry was changed: it does not match its own digest")
        return entry


def _entry(document: dict[str, Any]) -> Entry | None:
    about = {name: document.get(name) for name in _ABOUT}
    texts = all(isinstance(value, str) for value in about.values())
    numbers = all(type(document.get(name)) is int for name in ("index", "ts"))
    if not texts or not numbers or not is_id(about["batch"]) or not is_hash(about["root"]):
        return None
    return Entry(document["index"], document["ts"], Anchored(**about))  # type: ignore[arg-type]  # checked above


@dataclass(frozen=True, slots=True)
class Line:
    """A whole line (without its newline) and where the next one begins."""

    data: bytes
    start: int
    end: int

    @property
    def leaf(self) -> bytes:
        """Of an entry's line."""
        return leaf_hash(self.data)


def lines(path: Path, start: int = 0) -> Iterator[Line]:
    """Every complete line from `start` on; a last one without newline is left out; Corrupt beyond LINE_LIMIT, and what
    is no regular file."""
    try:
        handle = disk.open_regular(path, otherwise=Corrupt)
    except FileNotFoundError:
        return
    with open(handle, "rb") as file:
        file.seek(start)
        while data := file.readline(LINE_LIMIT):
            if not data.endswith(b"\n"):
                if len(data) == LINE_LIMIT:
                    raise Corrupt(f"{path.name}: a line of more than {LINE_LIMIT} bytes")
                return
            yield Line(data[:-1], start, start + len(data))
            start += len(data)


class KeyIndex:
    """Finds the entry of an idempotency key without reading the ledger; only a cache, made anew by a replay."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def there(self) -> bool:
        return self._directory.is_dir()

    def add(self, found: Iterable[tuple[Anchored, int]]) -> None:
        """(what, where its line starts); durable when it returns."""
        shards: dict[Path, bytes] = {}
        for about, start in found:
            if about.key:
                shard, name = self._shard(about)
                shards[shard] = shards.get(shard, b"") + f"{name} {start}\n".encode()
        new = any(not shard.exists() for shard in shards)
        for shard, text in shards.items():
            disk.append(shard, text)
        if new:
            disk.sync_directory(self._directory)

    def find(self, about: Anchored) -> list[int]:
        """Where entries with this key and root may start."""
        if not about.key:
            return []
        shard, name = self._shard(about)
        raw = disk.read_if_there(shard, disk.BATCH_LIMIT) or b""
        found = [line.split() for line in raw.splitlines() if line.startswith(name.encode())]
        return [int(parts[1]) for parts in found if len(parts) == 2 and parts[1].isdigit()]

    def make_anew(self) -> None:
        """Empty."""
        disk.make_directory(self._directory)
        for shard in self._directory.iterdir():
            shard.unlink()

    def _shard(self, about: Anchored) -> tuple[Path, str]:
        name = sha256(f"{about.key}\n{about.root}".encode()).hexdigest()[:32]
        return self._directory / name[:2], name
