"""`verify` of the books of what was signed: one that was changed could have a batch paid for twice, or never."""

from collections.abc import Iterator
from pathlib import Path

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.submission import Phase, Submission, read
from vmsh_scheduler.domain.batch import slug

KIND = "submission"


def check(out: Path) -> Iterator[Row]:
    """One row per file of `out/submissions`."""
    for path in sorted((out / "submissions").glob("*/*.json")):
        if path.name[0] != "." and path.parent.name[0] != ".":
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
