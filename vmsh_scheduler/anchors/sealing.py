"""`seal`: files -> one batch file with an RFC 6962 tree over (path, sha256, size) of each; or the same over
(job, seq, head) of the journal's chains."""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import disk, journal
from vmsh_scheduler.anchors.facts import Facts, now_s, relative_to_root
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.matching import Omitted, match
from vmsh_scheduler.domain.batch import (
    RFC6962,
    BadBatch,
    Batch,
    Document,
    chain_leaf,
    describe,
    file_leaf,
    head,
    leaves_root,
    parse,
    render,
    with_digest,
)

FILE_LIMIT = 64 << 30
"""Bytes of one sealed file; larger ones are reported and left out."""
_HEAD = 16 << 10
_REPORTED = 100
"""Omitted files named in a batch; the rest is only counted."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to seal and where to put the batch."""

    namespace: str
    files: Sequence[str]
    base: Path
    """Relative to `root`, or absolute."""
    directory: Path
    root: Path
    excluded: tuple[Path, ...] = ()
    journal: Path | None = None
    """The scheduler's, in place of files."""


def wanted(facts: Facts) -> Wanted:
    """From {namespace, files, base, directory, journal}; our own `out/` and state are never sealed."""
    root, directory = facts.root, Path(facts.text("directory") or facts.root / "out" / "batches").absolute()
    if not facts.text("root", "VMSH_ROOT") and directory.parts[-2:] == ("out", "batches"):
        root = directory.parent.parent
    own = directory.parent if directory.parent.name == "out" else directory
    state = facts.keys.parent if facts.keys.parent.name == "state" else facts.keys
    told = facts.text("journal")
    return Wanted(
        journal=Path(told) if told else None,
        namespace=facts.namespace,
        files=facts.texts("files"),
        base=Path(facts.text("base") or "."),
        directory=directory,
        root=root,
        excluded=(own, state),
    )


def run(facts: Facts) -> Document:
    """The verb."""
    return seal(wanted(facts), now_s())


def seal(what: Wanted, now: int) -> Document:
    """Writes a batch unless the newest one of the namespace has the same root; Invalid when no file is left. A journal
    without rows is nothing to seal yet."""
    what = _resolved(what)
    found = _of_files(what) if what.journal is None else _of_journal(what, what.journal)
    if not found["leaves"]:
        return {"status": "unchanged", "count": 0, "omitted": []}
    disk.make_directory(what.directory)
    with disk.locked(what.directory):
        return _settle(what, found, now)


def _of_journal(what: Wanted, path: Path) -> Document:
    """The fields of a batch that are about the journal."""
    heads = journal.heads(path, what.namespace)
    leaves = [chain_leaf(head["job"], head["seq"], head["head"]) for head in heads]
    return {"journal": relative_to_root(path, what.root), "heads": heads, "leaves": leaves}


def _of_files(what: Wanted) -> Document:
    """The fields of a batch that are about files."""
    matches = match(what.base, what.files, _inside(what))
    omitted = matches.omitted
    files: list[Document] = []
    for name in sorted(matches.files):
        found = fingerprint(matches.files[name], what.base)
        if isinstance(found, str):
            omitted.append(Omitted(name, found))
        else:
            files.append({"path": name, "sha256": found[0], "size": found[1]})
    if not files:
        raise Invalid(f"nothing to seal in {what.base}: {_reasons(omitted)}")
    return {
        "base": relative_to_root(what.base, what.root),
        "leaves": [file_leaf(file["path"], file["sha256"], file["size"]) for file in files],
        "files": files,
        "omitted": [asdict(item) for item in omitted[:_REPORTED]],
        "omittedCount": len(omitted),
    }


def _resolved(what: Wanted) -> Wanted:
    """With real paths, so that a link that leads out is seen as one."""
    excluded = tuple(Path(os.path.realpath(path)) for path in what.excluded)
    base = Path(os.path.realpath(what.root / what.base))
    told = None if what.journal is None else Path(os.path.realpath(what.journal))
    return replace(what, base=base, root=Path(os.path.realpath(what.root)), excluded=excluded, journal=told)


def _inside(what: Wanted) -> tuple[Path, ...]:
    """Never the base itself: then nothing would be left."""
    return tuple(path for path in what.excluded if not what.base.is_relative_to(path))


def _settle(what: Wanted, found: Document, now: int) -> Document:
    count = len(found["leaves"])
    root = leaves_root(RFC6962, found["leaves"])
    newest = newest_of(what.directory, what.namespace)
    report = {"root": root, "count": count, "omitted": found.get("omitted", [])}
    if newest is not None and newest.root == root:
        return {"status": "unchanged", "id": newest.id, "file": _file(what, newest.id), **report}
    created = max(now, newest.created_at // 1000) if newest else now
    identity = _free_id(what.directory, created)
    document = with_digest(
        {
            "id": identity,
            "root": root,
            "tree": RFC6962,
            "createdAt": created,
            "namespace": what.namespace,
            "count": count,
            **found,
        }
    )
    disk.replace(what.directory / f"{identity}.json", render(document).encode())
    return {"status": "ok", "id": identity, "file": _file(what, identity), **report}


def _file(what: Wanted, identity: str) -> str:
    return str(what.directory / f"{identity}.json")


def _free_id(directory: Path, second: int) -> str:
    """`<unix s>-<seq>`, above all of that second; the caller holds the directory's lock."""
    taken = [path.stem.partition("-")[2] for path in directory.glob(f"{second}-*.json")]
    numbers = [int(part) for part in taken if part.isascii() and part.isdigit()]
    return f"{second}-{max(numbers, default=0) + 1}"


def newest_of(directory: Path, namespace: str) -> Batch | None:
    """Newest sealed batch of a namespace, by id."""
    names = sorted(batch_files(directory), key=_by_number, reverse=True)
    for path in names:
        batch = glance(path)
        if isinstance(batch, Batch) and batch.namespace == namespace and not batch.combined:
            return batch
    return None


def batch_files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.glob("*.json") if not path.name.startswith("."))


def _by_number(path: Path) -> tuple[int, int, str]:
    first, _, second = path.stem.partition("-")
    numbers = [int(part[:20]) if part.isascii() and part.isdigit() else 0 for part in (first, second)]
    return numbers[0], numbers[1], path.stem


def glance(path: Path) -> Batch | BadBatch:
    """By the beginning of the file where that is enough."""
    try:
        with open(disk.open_regular(path), "rb") as file:
            beginning = head(file.read(_HEAD))
        if beginning is not None:
            return describe(beginning, path.stem)
        return parse(disk.read(path, disk.BATCH_LIMIT), path.stem)
    except (OSError, Invalid) as error:
        return BadBatch(path.stem, str(error))


def fingerprint(path: Path, base: Path) -> tuple[str, int] | str:
    """(sha256, size), or why not; a file that changes while it is read is tried twice."""
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(base):
        return "a link that leads out of the base directory"
    for _ in range(2):
        try:
            found = _read_once(real)
        except OSError as error:
            return error.strerror or str(error)
        if found is not None:
            return found
    return "changed while it was read"


def _read_once(path: Path) -> tuple[str, int] | str | None:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, "rb", buffering=0) as file:
        before = os.fstat(handle)
        if not stat.S_ISREG(before.st_mode):
            return "not a regular file"
        if before.st_size > FILE_LIMIT:
            return f"larger than {FILE_LIMIT} bytes"
        total, size = sha256(), 0
        while size <= before.st_size and (block := file.read(1 << 20)):
            total.update(block)
            size += len(block)
        after = os.fstat(handle)
    same = (before.st_size, before.st_mtime_ns, before.st_ctime_ns) == (size, after.st_mtime_ns, after.st_ctime_ns)
    return ("sha256:" + total.hexdigest(), size) if same else None


def _reasons(omitted: Sequence[Omitted]) -> str:
    return "; ".join(f"{item.path}: {item.reason}" for item in omitted[:5]) or "no patterns given"


def sealed_files(document: Mapping[str, Any]) -> list[Document]:
    """[{path, sha256, size}] of a sealed batch; empty for any other."""
    files = document.get("files", [])
    return files if isinstance(files, list) else []


def sealed_heads(document: Mapping[str, Any]) -> list[Document]:
    """[{job, seq, head}] of a sealed journal; empty for any other batch."""
    heads = document.get("heads", [])
    return heads if isinstance(heads, list) else []
