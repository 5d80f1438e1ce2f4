"""Everything that is on disk about anchoring below one root, read once and held for a verification."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.journal import Chains
from vmsh_scheduler.anchors.ledger import Place
from vmsh_scheduler.anchors.ledger_check import View, inspect, size_of
from vmsh_scheduler.anchors.online import Online
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.sealing import batch_files
from vmsh_scheduler.anchors.trust import Trust
from vmsh_scheduler.domain.batch import BadBatch, Batch, Document, describe, load


@dataclass(frozen=True, slots=True)
class Loaded:
    """A batch file: what it is, what it says, and its bytes' hash."""

    batch: Batch
    document: Document
    sha256: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Glance:
    """What is kept of every batch; the document is read again where it is needed."""

    batch: Batch
    sha256: str


class Evidence:
    """Lazy; a snapshot of nothing: a verification beside a running daemon may see newer files than ledgers."""

    def __init__(self, root: Path, online: Online | None = None, *, trust: Trust | None = None) -> None:
        self.root = Path(root).absolute()
        self.trust = trust or Trust(self.root)
        """Whose time stamps are believed."""
        self.out = self.root / "out"
        self.online = online
        """None: no node is asked."""
        self.told: dict[str, set[str]] = {}
        """Chains that the receipts read so far speak of, by batch."""
        self._chains: dict[str, Chains] = {}

    @cached_property
    def ledgers(self) -> dict[str, tuple[Row, View | None]]:
        directory = self.out / "ledgers"
        names = sorted(path.name for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
        return {name: inspect(directory / name) for name in names}

    @cached_property
    def batches(self) -> dict[str, Glance | BadBatch]:
        """By id, in order of their names."""
        found: dict[str, Glance | BadBatch] = {}
        for path in self.batch_paths():
            loaded = self.load(path)
            found[path.stem] = loaded if isinstance(loaded, BadBatch) else Glance(loaded.batch, loaded.sha256)
        return found

    def chains(self, path: str) -> Chains:
        """Of a sealed journal, by its path as the batch has it."""
        if path not in self._chains:
            self._chains[path] = Chains(self.root / path)
        return self._chains[path]

    def find(self, name: Path) -> Path:
        """Absolute; a relative one from the working directory if it is there, else below the root."""
        here = name.absolute()
        return here if here.exists() else self.root / name

    def batch_paths(self) -> Iterator[Path]:
        return iter(sorted(batch_files(self.out / "batches")))

    def batch_path(self, identity: str) -> Path:
        return self.out / "batches" / f"{identity}.json"

    def view(self, chain: str, block: object = 0) -> View | None:
        """Of `local:<name>`, read again if it grew and does not hold `block` yet; None: none, or not sound."""
        name = chain.partition(":")[2]
        view = self.ledgers.get(name, (None, None))[1]
        if view is not None and isinstance(block, int) and block >= len(view.entries) and self._grew(view):
            self.ledgers[name] = inspect(self.out / "ledgers" / name)
            view = self.ledgers[name][1]
        return view

    def _grew(self, view: View) -> bool:
        return size_of(Place(self.out / "ledgers" / view.name).entries) > view.read_to

    def load(self, path: Path) -> Loaded | BadBatch:
        try:
            raw = disk.read(path, disk.BATCH_LIMIT)
        except (OSError, Invalid) as error:
            return BadBatch(path.stem, str(error))
        document = load(raw)
        if isinstance(document, str):
            return BadBatch(path.stem, document)
        batch = describe(document, path.stem)
        if isinstance(batch, BadBatch):
            return batch
        return Loaded(batch, document, "sha256:" + sha256(raw).hexdigest(), raw)

    def newest(self) -> dict[str, Batch]:
        """The newest batch of each namespace, super-batches aside."""
        newest: dict[str, Batch] = {}
        for glance in self.batches.values():
            if isinstance(glance, Glance) and not glance.batch.combined:
                known = newest.get(glance.batch.namespace)
                if known is None or known.order < glance.batch.order:
                    newest[glance.batch.namespace] = glance.batch
        return newest
