"""What has to be there because something else says so: one row for each file that is not."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.evidence import Evidence, Glance, Loaded
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.domain.batch import Document, is_id


def check(evidence: Evidence) -> Iterator[Row]:
    """Of everything. Batch files first; then receipts, which are read at the end, since a run beside us writes its
    ledger's entry before its receipt."""
    yield from _files_gone(evidence)
    yield from _receipts_gone(evidence, _wanted(evidence, _below(evidence)))


def check_batch(evidence: Evidence, identity: str) -> Iterator[Row]:
    """Of one batch, and what it combined."""
    yield from _files_gone(evidence, identity)
    every = _below(evidence)
    wanted, members = _wanted(evidence, every), every.get(identity, [])
    yield from _receipts_gone(evidence, {key: why for key, why in wanted.items() if key[0] in (identity, *members)})
    path = receipts.path_of(evidence.out, identity)
    if not path.exists() and (below := [member for member in members if identity in above(evidence, member)]):
        yield Row(
            identity, "receipt", False, f"{_named(evidence, path)} is gone, though that of {below[0]} leads to it"
        )


def knows(evidence: Evidence, identity: str) -> bool:
    """Does a receipt or a ledger speak of it, be its file gone?"""
    views = (view for _, view in evidence.ledgers.values() if view)
    return receipts.path_of(evidence.out, identity).exists() or any(view.about(identity) for view in views)


def above_fault(evidence: Evidence, anchor: Document) -> str:
    """Of a receipt that leads to a super-batch: its file and its receipt were written before."""
    identity = receipts.above(anchor)
    if not identity:
        return ""
    for path in (evidence.batch_path(identity), receipts.path_of(evidence.out, identity)):
        if not path.exists():
            return f"{_named(evidence, path)} of the super-batch that it leads to is gone"
    return ""


def file_fault(evidence: Evidence, document: Document) -> str:
    """Of a batch's receipt: the batch's file is gone, and the receipt is not of a root that came alone."""
    path = evidence.batch_path(document["batchId"])
    if document.get("source", receipts.FILE) == receipts.ROOT or path.exists():
        return ""
    return f"{_named(evidence, path)}, which was anchored, is gone"


def event_fault(evidence: Evidence, document: Document) -> str:
    """Of a v0 receipt whose root is that of no batch here: its mark (`vmr1-<batch>-<event>`) names the batch."""
    mark, event = document.get("integrity"), document.get("eventId")
    if not isinstance(mark, str) or not isinstance(event, str):
        return ""
    identity = mark.removeprefix("vmr1-").removesuffix(f"-{event}")
    if mark != f"vmr1-{identity}-{event}" or not is_id(identity):
        return "its integrity mark names another event"
    return "" if receipts.alone(evidence.out, identity) else f"its batch {identity} is gone, or is another one now"


def _files_gone(evidence: Evidence, only: str = "") -> Iterator[Row]:
    for name, (_, view) in evidence.ledgers.items():
        anchored = {entry.about.batch for entry in view.entries if entry.about.file} if view else set()
        for identity in sorted({only} & anchored if only else anchored):
            if not evidence.batch_path(identity).exists():
                yield Row(identity, "batch", False, f"gone, though ledger {name!r} anchored it")


_Wanted = dict[tuple[str, str], str]
"""(batch, chain) -> who says that it was anchored there."""


def _wanted(evidence: Evidence, below: Mapping[str, list[str]]) -> _Wanted:
    """By the ledgers, and by super-batches: what a super-batch's receipt says goes for each of its members, who are
    asked for in its place: a run that was killed before it wrote the receipt may have been followed by one that
    combined them anew."""
    wanted: _Wanted = {}
    for name, (_, view) in evidence.ledgers.items():
        for entry in view.entries if view else ():
            for identity in below.get(entry.about.batch) or [entry.about.batch]:
                wanted[identity, f"local:{name}"] = f"entry {entry.index} of ledger {name!r} is about it"
    for identity, members in below.items():
        for chain in evidence.told.get(identity) or _chains(evidence, identity) or ():
            wanted |= {(member, chain): f"super-batch {identity} was anchored there" for member in members}
    return wanted


def _below(evidence: Evidence) -> dict[str, list[str]]:
    """The members of each super-batch."""
    return {identity: members for identity in evidence.batches if (members := _members(evidence, identity))}


def _members(evidence: Evidence, identity: str) -> list[str]:
    """Of a super-batch, those whose files are still what was combined: the others have rows of their own."""
    glance = evidence.batches.get(identity)
    if not isinstance(glance, Glance) or not glance.batch.combined:
        return []
    loaded = evidence.load(evidence.batch_path(identity))
    listed = loaded.document.get("batches") if isinstance(loaded, Loaded) else None
    found = []
    for item in listed if isinstance(listed, list) else []:
        member = evidence.batches.get(item.get("id", "")) if isinstance(item, dict) else None
        if isinstance(member, Glance) and member.batch.root == item.get("root"):
            found.append(member.batch.id)
    return found


def _receipts_gone(evidence: Evidence, wanted: _Wanted) -> Iterator[Row]:
    for (identity, chain), why in sorted(wanted.items()):
        if chain in evidence.told.get(identity, ()):
            continue
        there, path = _chains(evidence, identity), receipts.path_of(evidence.out, identity)
        if there is not None and chain not in there:
            fault = f"does not speak of {chain}" if there else "is gone"
            yield Row(identity, "receipt", False, f"{_named(evidence, path)} {fault}, though {why}")


def _chains(evidence: Evidence, identity: str) -> set[str] | None:
    """Empty: there is no receipt. None: it cannot be read, which its own row says."""
    try:
        return {anchor["chain"] for anchor in _anchors(evidence, identity)}
    except (OSError, Invalid):
        return None


def above(evidence: Evidence, identity: str) -> set[str]:
    """Super-batches that its receipt leads to."""
    try:
        return {receipts.above(anchor) for anchor in _anchors(evidence, identity)}
    except (OSError, Invalid):
        return set()


def _anchors(evidence: Evidence, identity: str) -> list[Document]:
    try:
        anchors: list[Document] = receipts.read(receipts.path_of(evidence.out, identity))["anchors"]
    except FileNotFoundError:
        return []
    return anchors


def _named(evidence: Evidence, path: Path) -> str:
    return path.relative_to(evidence.root).as_posix()
