"""`verify-audit`: the Remembrancer's database against the roots published of it, its `.receipt` files and receipts."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import deploy_receipts, disk, receipts
from vmsh_scheduler.anchors.deploy_receipts import ANCHOR, DeployReceipt
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.memories import Memory, leaf_of
from vmsh_scheduler.anchors.memory_tree import MemoryTree
from vmsh_scheduler.anchors.remembrancer import Remembrancer, attestation_of, receipt_of, root_line
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.sealing import fingerprint
from vmsh_scheduler.errors import SchedulerError, Usage

_OURS = ("anchor:", "deploy:")
_IN_A_PAGE = re.compile(r"merkle root\W[^\n]*?\b([0-9a-f]{64})\b", re.IGNORECASE)


@dataclass(slots=True)
class _Walk:
    """Roots after every row so far, of which those that somebody published are kept."""

    wanted: Mapping[str, str]
    """Where it stands -> root."""
    tree: MemoryTree = field(default_factory=MemoryTree)
    found: dict[str, int] = field(default_factory=dict)

    def step(self, row: dict[str, Any]) -> str:
        """The row's fault; "" = its stored root is the one of all rows up to it (a foreign row may have none)."""
        self.tree = self.tree.append(leaf_of(row))
        root = self.tree.root()
        if root in self.wanted.values():
            self.found[root] = self.tree.size
        if row["merkle_root"] in (None, "", root):
            return ""
        return "changed, or a row before it: its stored root is not that of the rows up to it"


def audit(root: Path, kept: str = "") -> Iterator[Row]:
    """`kept`: a root that somebody wrote down ("" = none). Every published root must be the root after some row.
    Usage."""
    memory = Remembrancer(root)
    if kept and not root_line(kept.encode()):
        raise Usage(f"--root {kept!r} is not 64 hex digits")
    wanted, broken = _published(memory, kept)
    yield from broken
    if not memory.memories.path.exists():
        yield Row("remembrancer", "memory", not wanted, _nothing(wanted))
        return
    try:
        yield from _walked(memory, _Walk(wanted))
    except (SchedulerError, OSError) as error:
        yield Row("remembrancer", "memory", False, str(error))


def _nothing(wanted: Mapping[str, str]) -> str:
    return f"the database is gone, though {', '.join(wanted)} has a root of it" if wanted else "nothing remembered yet"


def _published(memory: Remembrancer, kept: str) -> tuple[dict[str, str], list[Row]]:
    """Where -> root, and rows for places that hold none."""
    wanted, broken = {"--root": root_line(kept.encode())} if kept else {}, []
    raw = disk.read_if_there(memory.published, disk.SMALL_LIMIT)
    if raw is not None:
        if raw == f"{root_line(raw)}\n".encode():
            wanted[memory.published.name] = root_line(raw)
        else:
            broken.append(Row(memory.published.name, "memory", False, "it holds no root: changed"))
    page = disk.read_if_there(memory.root / "docs" / "REMEMBRANCER.md", disk.SMALL_LIMIT) or b""
    if in_page := _IN_A_PAGE.search(page.decode(errors="replace")):
        wanted["docs/REMEMBRANCER.md"] = in_page[1].lower()
    return wanted, broken


def _walked(memory: Remembrancer, walk: _Walk) -> Iterator[Row]:
    for row in memory.memories.rows():
        fault = walk.step(row) or (_beside(memory, row) if str(row["id"]).startswith(_OURS) else "")
        if fault:
            yield Row(str(row["id"]), "memory", False, fault)
    for place, root in walk.wanted.items():
        ok = root in walk.found
        after = f"the root after {walk.found.get(root)} of {walk.tree.size} memories"
        yield Row(
            place, "memory", ok, after if ok else "no memory has this root after it: rows were changed or removed"
        )
    said = "" if walk.wanted else "; no root was published to compare it with"
    yield Row("remembrancer", "memory", True, f"{walk.tree.size} memories, root {walk.tree.root() or 'none'}{said}")


def _beside(memory: Remembrancer, row: dict[str, Any]) -> str:
    """Why its `.receipt`, or the receipt of its batch, does not say the same."""
    try:
        remembered = Memory(**row)
        receipt = receipt_of(remembered)
        raw = disk.read_if_there(memory.path_of(receipt), disk.SMALL_LIMIT)
    except (Invalid, OSError, TypeError) as error:
        return str(error)
    if raw is None:
        return f"{receipt.name}.receipt is gone"
    if raw != receipt.text().encode():
        return f"{receipt.name}.receipt was changed: it differs from the database"
    return _receipt_fault(memory, remembered) if remembered.type == ANCHOR else ""


def _receipt_fault(memory: Remembrancer, remembered: Memory) -> str:
    attestation = attestation_of(remembered)
    try:
        document = receipts.read(receipts.path_of(memory.root / "out", remembered.version))
    except FileNotFoundError:
        return "the receipt of its batch is gone"
    except (Invalid, OSError) as error:
        return f"the receipt of its batch: {error}"
    same = [a for a in document["anchors"] if (a["chain"], a["tx"]) == (attestation["chain"], attestation["tx"])]
    if not same or document["batchRoot"] != remembered.hash:
        return "the receipt of its batch says something else"
    return ""


def receipt_rows(root: Path, path: Path) -> Iterator[Row]:
    """A `.receipt`: its row, and the file that it speaks of, where that is still there."""
    memory = Remembrancer(root)
    try:
        receipt = deploy_receipts.read(path)
        known = _remembered(memory, receipt)
        fault = "" if known is None else _beside(memory, asdict(known))
    except (SchedulerError, OSError) as error:
        yield Row(path.name, "deployment", False, str(error))
        return
    said = "as remembered" if known else "no memory of it: written by another program"
    yield Row(path.name, "deployment", not fault, fault or said)
    if receipt.evidence.artifact:
        yield _artifact(root / receipt.evidence.artifact, [receipt])


def _remembered(memory: Remembrancer, receipt: DeployReceipt) -> Memory | None:
    if not memory.memories.path.exists():
        return None
    identity = receipt.body.partition("\n")[0] if receipt.type == ANCHOR else ""
    return memory.memories.find(identity or f"deploy:{receipt.component}:{receipt.version}")


def evidence_rows(root: Path, file: Path) -> list[Row]:
    """What the deploy receipts say of a file; empty where none speaks of it."""
    real = file.resolve()
    told = [receipt for receipt in _every(root) if receipt.evidence.artifact and _is(root, receipt, real)]
    return [_artifact(file, told)] if told else []


def _is(root: Path, receipt: DeployReceipt, real: Path) -> bool:
    return (root / receipt.evidence.artifact).resolve() == real


def _every(root: Path) -> Iterator[DeployReceipt]:
    for path in sorted((root / "ops" / "receipts" / "deploy").glob("*.receipt")):
        try:
            yield deploy_receipts.read(path)
        except (Invalid, OSError):
            continue  # verify-audit names it


def _artifact(file: Path, told: list[DeployReceipt]) -> Row:
    """One file may have been deployed in several versions: it has to be one of them."""
    found = fingerprint(file.resolve(), file.resolve().parent)
    if isinstance(found, str):
        return Row(str(file), "deployment", True, f"its evidence is not here any more: {found}")
    same = [receipt for receipt in told if receipt.evidence.sha256 == found[0][7:]]
    if same:
        return Row(str(file), "deployment", True, f"as {same[-1].name}.receipt says")
    newest = max(told, key=lambda receipt: receipt.timestamp)
    return Row(str(file), "deployment", False, f"differs from {newest.name}.receipt: {newest.evidence.sha256}")
