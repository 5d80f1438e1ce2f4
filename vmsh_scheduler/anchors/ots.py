"""`ots`: the batch's root, blinded, goes to several OpenTimestamps calendars, which bring it into Bitcoin, free."""

from dataclasses import dataclass, replace
from pathlib import Path

from vmsh_scheduler.anchors import ots_proof
from vmsh_scheduler.anchors.chain import Anchor, Seen
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.anchors.ots_desk import ACCOUNT, Desk, open_desk
from vmsh_scheduler.anchors.ots_headers import Headers
from vmsh_scheduler.anchors.ots_said import attestation, claim_of
from vmsh_scheduler.anchors.subject import Subject, read_subject
from vmsh_scheduler.anchors.submission import Phase, Submission
from vmsh_scheduler.domain.batch import Document, hash_bytes, hash_text


def run(facts: Facts) -> Document:
    """The verb; for a batch that calendars have already it asks nobody, and sees to it that its receipts are there."""
    desk, subject = open_desk(facts), read_subject(facts)
    one = blinded(desk, subject)
    if one.phase is Phase.SIGNED:
        one = desk.stamped(one)
    warnings = [*subject.warnings, *desk.publish(one.batch, subject)]
    result = {"status": "ok", "attestation": attestation(one), "phase": str(one.phase)}
    return {**result, "warnings": warnings} if warnings else result


def probe(facts: Facts) -> Document:
    """Do calendars have this batch? `exit` 1: not that we know, and asking them again costs nothing."""
    desk, (identity, _) = open_desk(facts), facts.batch
    known = desk.book.get(identity)
    return {"status": "none", "exit": 1} if known is None or known.phase is Phase.SIGNED else run(facts)


def confirm(facts: Facts) -> Document:
    """The verb `confirm` for targets `ots:`."""
    from vmsh_scheduler.anchors import ots_confirm  # a run that stamps does not need it

    return ots_confirm.run(facts)


@dataclass(frozen=True, slots=True)
class OtsLooker:
    """Attestations against block headers."""

    headers: Headers
    out: Path

    def meet(self) -> None:
        self.headers.meet()

    def look(self, attestation: Document, anchor: Anchor) -> Seen | None:
        """Of one taken on the calendars' word no time is known, so none is compared."""
        claim = claim_of(self.out, attestation, hash_text(anchor.root))
        seen = None if claim is None else self.headers.judge(claim)
        if seen is None or attestation.get("checked"):
            return seen
        return replace(seen, ts=attestation["ts"])


def looker(facts: Facts) -> OtsLooker | None:
    """For `verify --online`. None: the entry names no node."""
    headers = open_desk(facts).headers
    return None if headers is None else OtsLooker(headers, facts.root / "out")


def blinded(desk: Desk, subject: Subject) -> Submission:
    """What the book has for the batch, made now if it has nothing: the nonce is on disk before anybody is asked."""
    with desk.book.signing():
        known = desk.book.get(subject.batch.id)
        if known is not None and known.root != subject.batch.root:
            raise Corrupt(f"batch {known.batch} was stamped with another root", hint="see out/submissions")
        return known or desk.keep(_fresh(desk, subject))


def _fresh(desk: Desk, subject: Subject) -> Submission:
    nonce = ots_proof.fresh_nonce()
    return Submission(
        target=desk.target,
        account=ACCOUNT,
        batch=subject.batch.id,
        root=subject.batch.root,
        tx=hash_text(ots_proof.commitment(hash_bytes(subject.batch.root), nonce)),
        raw="",
        signed_at=now_s(),
        namespace=desk.facts.namespace,
        cadence=desk.facts.cadence,
        need=desk.depth,
        details={"nonce": nonce.hex()},
    )
