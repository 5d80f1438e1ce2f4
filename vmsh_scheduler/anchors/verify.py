"""`verify`: recomputes everything that can be recomputed; one row per thing looked at."""

from collections.abc import Iterator
from pathlib import Path

from vmsh_scheduler.anchors import (
    audit,
    batch_check,
    disk,
    ledger_check,
    online,
    ots_proof,
    ots_said,
    presence,
    receipt_check,
    receipts,
    submission_check,
)
from vmsh_scheduler.anchors.evidence import Evidence, Glance
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.proof import FORMAT, check_proof, proof, proof_rows
from vmsh_scheduler.anchors.report import Report, Row
from vmsh_scheduler.anchors.trust import Trust
from vmsh_scheduler.domain.batch import Document, is_id, load
from vmsh_scheduler.errors import NotFound, Usage


def run(facts: Facts) -> Document:
    """The verb: {root, what}."""
    report = verify(facts.root, facts.text("what") or "all", online.of_facts(facts), trust=_trust(facts))
    return {"status": "ok" if report.ok else "failed", "exit": int(report.exit), **report.to_json()}


def _trust(facts: Facts) -> Trust:
    anchors, one = facts.text("anchors", "VMSH_ANCHORS"), facts.text("trust")
    return Trust(facts.root, Path(anchors) if anchors else None, facts.environ, Path(one) if one else None)


def verify(root: Path, what: str = "all", asking: online.Online | None = None, *, trust: Trust | None = None) -> Report:
    """`what`: all, a batch id, local:<ledger>, or a file: batch, receipt, proof, kept checkpoint, sealed file
    or deployed one.

    Raises Usage when it is none of these."""
    return Report.of(checks(root, what, asking, trust=trust))


def checks(
    root: Path, what: str = "all", asking: online.Online | None = None, *, trust: Trust | None = None
) -> Iterator[Row]:
    """The same row by row, for a progress display. `asking`: nodes are asked too. `trust`: whose time stamps count;
    default what anchors.yaml below the root says."""
    evidence = Evidence(root, asking, trust=trust)
    if what in ("", "all"):
        return _everything(evidence)
    if what.startswith("local:"):
        return _ledger(evidence, what)
    path = evidence.find(Path(what))
    if path.is_file():
        return _file(evidence, path)
    if is_id(what) and (evidence.batch_path(what).exists() or presence.knows(evidence, what)):
        return _batch(evidence, what)
    raise Usage(f"{what!r} is no batch, ledger or file below {evidence.root}")


def _everything(evidence: Evidence) -> Iterator[Row]:
    seen = False
    for row in _all_rows(evidence):
        seen = True
        yield row
    if not seen:
        yield Row(str(evidence.out), "nothing", True, "nothing to verify yet: no batch, ledger or receipt")


def _all_rows(evidence: Evidence) -> Iterator[Row]:
    for row, _ in evidence.ledgers.values():
        yield row
    for path in evidence.batch_paths():
        yield from batch_check.check(evidence, path)
    for path in _receipts(evidence, "batches"):
        yield from receipt_check.check_batch_receipt(evidence, path)
    for path in _receipts(evidence, ""):
        yield from receipt_check.check_event_receipt(evidence, path)
    yield from presence.check(evidence)
    yield from submission_check.check(evidence.out)
    for batch in evidence.newest().values():
        yield from batch_check.check_files(evidence, evidence.batch_path(batch.id))
    if (evidence.root / "ops" / "data").is_dir():
        yield from audit.audit(evidence.root)


def _receipts(evidence: Evidence, part: str) -> list[Path]:
    return sorted(path for path in (evidence.out / "receipts" / part).glob("*.json") if path.name[0] != ".")


def _ledger(evidence: Evidence, what: str) -> Iterator[Row]:
    found = evidence.ledgers.get(what.partition(":")[2])
    if found is None:
        raise Usage(f"there is no ledger {what} below {evidence.out}")
    yield found[0]


def _batch(evidence: Evidence, identity: str) -> Iterator[Row]:
    """Its file may be gone."""
    if evidence.batch_path(identity).exists():
        yield from batch_check.check(evidence, evidence.batch_path(identity))
        yield from batch_check.check_files(evidence, evidence.batch_path(identity))
    yield from submission_check.check(evidence.out, {identity, *presence.above(evidence, identity)})
    receipt = receipts.path_of(evidence.out, identity)
    missing = list(presence.check_batch(evidence, identity))
    if receipt.exists():
        yield from receipt_check.check_batch_receipt(evidence, receipt)
    elif not missing:
        yield Row(identity, "receipt", True, "none: not anchored yet, or by a rail that writes none")
    yield from missing


def _file(evidence: Evidence, path: Path) -> Iterator[Row]:
    """By what it is: the place decides for batches and receipts, the content for proofs and checkpoints."""
    place = path.resolve().parent
    if place == (evidence.out / "batches").resolve():
        return _batch(evidence, path.stem)
    if place == (evidence.out / "receipts" / "batches").resolve():
        return receipt_check.check_batch_receipt(evidence, path)
    if place == (evidence.out / "receipts").resolve():
        return receipt_check.check_event_receipt(evidence, path)
    if place.parent == (evidence.root / "ops" / "receipts").resolve() and path.suffix == ".receipt":
        return audit.receipt_rows(evidence.root, path)
    return _by_content(evidence, path) or _deployed_or_sealed(evidence, path)


def _deployed_or_sealed(evidence: Evidence, path: Path) -> Iterator[Row]:
    """A file that a deploy receipt speaks of need not be sealed as well."""
    told = audit.evidence_rows(evidence.root, path)
    yield from told
    yield from _sealed(evidence, path, needed=not told)


def _by_content(evidence: Evidence, path: Path) -> Iterator[Row] | None:
    try:
        raw = disk.read(path, disk.SMALL_LIMIT)
    except (OSError, Invalid):
        return None
    if raw.startswith(ots_proof.MAGIC):
        known = {one.batch.root: name for name, one in evidence.batches.items() if isinstance(one, Glance)}
        return iter([ots_said.file_row(raw, known, str(path))])
    document = load(raw)
    if isinstance(document, dict) and document.get("format") == FORMAT:
        return iter(check_proof(document, trust=evidence.trust))
    text = raw.decode(errors="replace")
    for _, view in evidence.ledgers.values():
        if view is not None and text.startswith(f"{view.verifier.name}\n") and "\n\n— " in text:
            return iter([ledger_check.compare(text, view)])
    return None


def _sealed(evidence: Evidence, path: Path, *, needed: bool) -> Iterator[Row]:
    """A file: its newest anchored batch, the way up to the checkpoint, and whether it still is what was sealed."""
    subject = str(path)
    try:
        document = proof(evidence.root, path, evidence=evidence)
    except (NotFound, Invalid) as error:
        if needed or not isinstance(error, NotFound):
            yield Row(subject, "file", False, str(error))
        return
    batch = evidence.batches.get(document["batch"]["id"])
    if isinstance(batch, Glance):
        yield from batch_check.check(evidence, evidence.batch_path(batch.batch.id))
    yield from proof_rows(document, path, evidence.trust)
