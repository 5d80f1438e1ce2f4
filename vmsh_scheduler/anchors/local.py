"""`local`: the batch's root goes into the ledger `local:<name>`, and the receipts say so."""

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.entries import Anchored
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.keys import KeyPlace
from vmsh_scheduler.anchors.ledger import Appended, Ledger, opened
from vmsh_scheduler.anchors.subject import Subject, read_subject
from vmsh_scheduler.domain.batch import Document


def run(facts: Facts) -> Document:
    """The verb; the same idempotency key and root again gives the same attestation and adds nothing."""
    name, out = facts.ledger, facts.root / "out"
    subject = read_subject(facts)
    keys = KeyPlace(facts.keys, facts.credentials)
    origin = facts.text("origin", "VMSH_LEDGER_ORIGIN")
    with opened(out / "ledgers" / name, keys, name=name, origin=origin) as ledger:
        appended = ledger.append(_about(facts, subject), now_s())
        warnings = [*subject.warnings, *_dropped(ledger)]
        attestation = _attestation(name, ledger, appended)
    covered = receipts.covered_by(subject.batch, subject.document, subject.members)
    warnings += receipts.record(out, covered, attestation, namespace=facts.namespace, cadence=facts.cadence)
    return _result(appended, attestation, warnings)


def _result(appended: Appended, attestation: Document, warnings: list[str]) -> Document:
    result = {"status": "ok", "attestation": attestation, "added": appended.added, "size": appended.size}
    return {**result, "warnings": warnings} if warnings else result


def _attestation(name: str, ledger: Ledger, appended: Appended) -> Document:
    return {
        "chain": f"local:{name}",
        "tx": appended.entry.tx,
        "block": appended.entry.index,
        "ts": appended.entry.ts,
        "memo": ledger.origin,
    }


def _about(facts: Facts, subject: Subject) -> Anchored:
    return Anchored(
        batch=subject.batch.id,
        root=subject.batch.root,
        namespace=facts.namespace,
        cadence=facts.cadence,
        key=facts.text("idempotency_key", "VMSH_IDEMPOTENCY_KEY"),
        file=subject.file,
    )


def _dropped(ledger: Ledger) -> list[str]:
    if not ledger.dropped:
        return []
    return [f"{ledger.dropped} bytes of an interrupted, never acknowledged write were cut off"]
