"""`verify` of the books of what was signed: one that was changed could have a batch paid for twice, or never."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.rails import MODULES
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.submission import Book, Phase, Submission, read
from vmsh_scheduler.domain.batch import Document, is_id, slug

KIND = "submission"
_LOOKS = 3


def check(out: Path, only: Collection[str] = ()) -> Iterator[Row]:
    """One row per file of `out/submissions`. `only`: of these batches."""
    for path in sorted((out / "submissions").glob("*/*.json")):
        if path.name[0] != "." and path.parent.name[0] != "." and (not only or path.stem in only):
            yield _row(out, path)


def _row(out: Path, path: Path) -> Row:
    subject = f"{path.parent.name}/{path.stem}"
    try:
        found = read(path)
    except (Corrupt, OSError) as error:
        return Row(subject, KIND, False, str(error))
    if (slug(found.target), found.batch) != (path.parent.name, path.stem):
        return Row(subject, KIND, False, f"lies in the wrong place: it is of {found.batch} at {found.target}")
    if fault := _untold(out, found):
        return Row(subject, KIND, False, fault)
    return Row(subject, KIND, True, f"{found.phase}: {found.tx}" if found.tx else str(found.phase))


def _untold(out: Path, found: Submission) -> str:
    """What was paid for must be in its batch's receipt, unless a pass of `confirm` is still to tell it."""
    if not found.told or found.phase is Phase.LOST:
        return ""
    try:
        anchors = receipts.read(receipts.path_of(out, found.batch))["anchors"]
    except FileNotFoundError:
        return f"its receipt is gone: {found.tx} at {found.target} is in none"
    except (Corrupt, OSError):
        return ""  # its own row says so
    known = any(anchor["chain"] == found.target for anchor in anchors)
    return "" if known else f"its receipt does not speak of {found.target}: {found.tx}"


def receipt_faults(out: Path, path: Path, anchors: Sequence[Document]) -> list[str]:
    """What the receipt at `path` says of transactions that is not what was written down when they were paid for. Where
    the book knows none, or a pass is still to tell of it, nothing. It is read anew before anything is said: between
    two looks a pass beside us may have moved both on."""
    faults: list[str] = []
    for _ in range(_LOOKS):
        faults = [fault for anchor in anchors if (fault := _told_otherwise(out, path.stem, anchor))]
        if not faults:
            break
        try:
            anchors = receipts.read(path)["anchors"]
        except (Invalid, OSError):
            break
    return faults


def _told_otherwise(out: Path, batch: str, anchor: Document) -> str:
    via = anchor.get("via")
    name = via.get("batch") if isinstance(via, dict) else batch
    if anchor["chain"].partition(":")[0] not in MODULES or not is_id(name):
        return ""
    try:
        paid = Book(out, anchor["chain"]).get(str(name))
    except (Corrupt, OSError):
        return ""  # its own row says so
    if paid is None or not paid.told or paid.phase is Phase.LOST:
        return ""
    said = {key: value for key, value in anchor.items() if key != "via"}
    told = f"{anchor['chain']}: it says something else of {paid.tx} than out/submissions"
    return "" if said == paid.attestation() else told
