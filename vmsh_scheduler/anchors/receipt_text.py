"""`receipt`: one receipt as it stands on disk, found by a name that can lead nowhere else."""

from pathlib import Path

from vmsh_scheduler.anchors import deploy_receipts, disk, receipts
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.domain.batch import is_id, render
from vmsh_scheduler.errors import NotFound, Usage


def batch_id(name: str) -> str:
    """Usage unless it can be one."""
    if not is_id(name):
        raise Usage(f"{name!r} is no batch id (letters, digits, . _ -)")
    return name


def text(root: Path, name: str) -> str:
    """`<type>/<name>` below `ops/receipts`, or a batch id, whose receipt has to be whole. NotFound, Usage, Corrupt."""
    kind, slash, rest = name.partition("/")
    if not slash:
        return _harmless(render(receipts.of_batch(root / "out", batch_id(name))))  # exactly what is on disk
    path = _of_deployment(root, kind, rest.removesuffix(".receipt"))
    raw = disk.read_if_there(path, disk.SMALL_LIMIT)
    if raw is None:
        raise NotFound(f"there is no receipt {name}: {path}")
    return _harmless(raw.decode(errors="replace"))


def _of_deployment(root: Path, kind: str, name: str) -> Path:
    try:
        return deploy_receipts.path_of(root / "ops", kind, name)
    except Invalid as error:  # as it would be of a row; here somebody typed it
        raise Usage(error.message) from None


def _harmless(text: str) -> str:
    """For a terminal, whoever wrote the file."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)
