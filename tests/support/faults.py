"""What the fault tests share: a place with cadences that keep a ledger, and looks at processes from outside."""

import os
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.support.daemon import UNMEASURED, Place
from tests.support.ledger import SCRIPT, Books, Entry, read
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.journal import JournalReader
from vmsh_scheduler.stores.local.load import Opened, peek

BATCH = '{"id": "b1", "root": "sha256:%s", "leaves": ["sha256:%s"], "createdAt": 1700000000}'


@dataclass(frozen=True, slots=True)
class Cadence:
    """A namespace of its own with one level `fast`; `more`: further lines of its mapping."""

    name: str
    command: Sequence[str]
    every: str = "1s"
    more: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        return f"{self.name}/fast"

    def yaml(self) -> str:
        lines = ["reanchor: true", *self.more]
        return (
            f"  {self.name}:\n    cadence:\n      fast:\n        target: local:{self.name}\n"
            f"        every: {self.every}\n        command: {_flow(self.command)}\n"
            + "".join(f"        {line}\n" for line in lines)
        )


def _flow(argv: Sequence[str]) -> str:
    return "[" + ", ".join("'" + word.replace("'", "''").replace("$", "$$") + "'" for word in argv) + "]"


def document(*cadences: Cadence) -> str:
    """namespaces.yaml."""
    return "namespaces:\n" + "".join(cadence.yaml() for cadence in cadences)


@dataclass(frozen=True, slots=True)
class Site:
    """A `Place` with a batch to anchor, the script that keeps the ledger, and the ledger."""

    place: Place

    @property
    def ledger(self) -> Path:
        return self.place.root / "ledger"

    def entries(self) -> list[Entry]:
        return read(self.ledger)

    def starts(self, cadence: Cadence) -> list[Entry]:
        return [entry for entry in self.entries() if entry.kind == "start" and entry.job == cadence.job]

    def work(self, name: str, *more: str, every: str = "1s", seconds: float = 0, failing: int = 0) -> Cadence:
        """A cadence whose command writes to the ledger, works for `seconds`, fails its first `failing` attempts."""
        argv = ("/bin/sh", str(self.place.root / "work.sh"), str(self.ledger), f"{seconds:g}", str(failing))
        return Cadence(name, argv, every, more)

    def configure(self, *cadences: Cadence, **files: str) -> None:
        self.place.configure(document(*cadences), **files)

    def peek(self) -> Opened:
        """The state on disk, as it would be loaded now."""
        with closing(open_directory(self.place.state)) as directory:
            return peek(directory)

    def books(self) -> Books:
        return books(self.place.state)


def books(state: Path) -> Books:
    """The journal beside the snapshot `state`."""
    with closing(open_directory(state)) as directory:
        return Books.of(JournalReader(directory))


def site(root: Path, **environ: str) -> Site:
    """`root` gets everything but a configuration. What runs there is not measured."""
    place = Place(root, {"METRICS_PORT": "0", **UNMEASURED, **environ})
    digest = "00" * 32
    place.write("out/batches/b1.json", BATCH % (digest, digest))
    place.write("work.sh", SCRIPT)
    return Site(place)


def alive(pid: int) -> bool:
    """A zombie is dead: who has to reap it may take its time."""
    return _status(pid).get("State", "Z")[0] not in "ZX"


def rss_kb(pid: int) -> int:
    return int(_status(pid)["VmRSS"].split()[0])


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - the names are all that is wanted


def _status(pid: int) -> dict[str, str]:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return {}
