"""One batch onto one chain: sign, write down, send, wait a little. Whoever comes again finds what was written down."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.chain import Anchor, Chain, Refused, Unreachable
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.anchors.subject import Subject, read_subject
from vmsh_scheduler.anchors.submission import UNMINED, Book, Phase, Submission
from vmsh_scheduler.domain.batch import Document, hash_bytes
from vmsh_scheduler.errors import SchedulerError

LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a run waits for the first block: short on chains with fast blocks, not at all on others."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


def anchor(facts: Facts, chain: Chain, patience: Patience) -> Document:
    """The verb's result. A run whose bytes are on disk has succeeded, even if the node fell silent then:
    `confirm` goes on with it."""
    subject, out = read_subject(facts), facts.root / "out"
    book = Book(out, chain.target)
    chain.meet()
    with book.signing(chain.account):
        before = book.get(subject.batch.id)
        submission = _submitted(facts, chain, book, subject)
    warnings = list(subject.warnings)
    with _paid(warnings):
        submission = _awaited(chain, book, submission, patience)
    if submission.phase is Phase.FAULTY:
        raise Refused(f"{submission.tx} is in block {submission.block}, and {submission.fault}")
    with _paid(warnings):
        submission, told = tell(book, out, subject, submission)
        warnings += told
    result: Document = {"status": "ok", "attestation": submission.attestation(), "phase": str(submission.phase)}
    if before is None or before.phase is not submission.phase:
        result["changed"] = [submission.moved(before, now_s())]
    return {**result, "warnings": warnings} if warnings else result


def probe(facts: Facts, chain: Chain, patience: Patience) -> Document:
    """Did a run of this batch sign? Then it is brought to its end; `exit` 1 = it did not, and nothing can be paid.

    While nothing may be written to chains, what was signed counts as done without a word to the node: it is on disk,
    and the first pass of `confirm` after that sends it."""
    (identity, _), out = facts.batch, facts.root / "out"
    book = Book(out, chain.target)
    known = book.get(identity)
    if known is None:
        return {"status": "none", "exit": 1}
    if facts.environ.get("ANCHOR_WRITE_ENABLED") == "0":
        known, warnings = tell(book, out, read_subject(facts), known)
        return {"status": "ok", "attestation": known.attestation(), "phase": str(known.phase), "warnings": warnings}
    return anchor(facts, chain, patience)


@contextmanager
def _paid(warnings: list[str]) -> Iterator[None]:
    """What fails after the payment (a full disk, a node that refuses to be asked) is made good by `confirm`. As a
    failure of the run it would be tried again, with the batches that came meanwhile: paid for once more."""
    try:
        yield
    except (SchedulerError, OSError) as error:
        warnings.append(f"not finished yet: {error}")


def tell(book: Book, out: Path, subject: Subject, submission: Submission) -> tuple[Submission, list[str]]:
    """Into the receipts of all that the batch covers; gives warnings. Again when the book moved on meanwhile, so that
    the receipts never stay behind it."""
    covered = receipts.covered_by(subject.batch, subject.document, subject.members)
    for _ in range(10):
        told = {"namespace": submission.namespace, "cadence": submission.cadence}
        warnings = receipts.record(out, covered, submission.attestation(), **told)
        after = book.move(submission, submission.heard())
        if after == submission.heard():
            break
        submission = after
    return after, warnings


def _submitted(facts: Facts, chain: Chain, book: Book, subject: Subject) -> Submission:
    known = book.get(subject.batch.id)
    if known is not None and known.root != subject.batch.root:
        raise Corrupt(f"batch {known.batch} was sent to {known.target} with another root", hint=f"see {known.tx}")
    if known is not None and known.phase is not Phase.LOST:
        return known if known.phase in (Phase.FINAL, Phase.FAULTY) else sent(chain, book, known)
    _send_waiting(chain, book)
    fresh = _signed(facts, chain, subject, known)
    book.put(fresh)
    return _first_sent(chain, book, fresh)


def _signed(facts: Facts, chain: Chain, subject: Subject, before: Submission | None) -> Submission:
    signed = chain.sign(Anchor(subject.batch.id, hash_bytes(subject.batch.root)))
    if before is not None:
        return replace(before.instead(signed, now_s()), account=chain.account)
    return Submission(
        target=chain.target,
        account=chain.account,
        batch=subject.batch.id,
        root=subject.batch.root,
        tx=signed.tx,
        raw=signed.raw,
        signed_at=now_s(),
        changed_at=now_s(),
        namespace=facts.text("namespace", "VMSH_NAMESPACE"),
        cadence=facts.text("cadence", "VMSH_CADENCE"),
        need=chain.need,
        details=signed.details,
    )


def _send_waiting(chain: Chain, book: Book) -> None:
    """What was signed and may not have arrived goes first: a gap in the nonces would hold up all that follow."""
    for waiting in book.open():
        if waiting.account == chain.account and waiting.phase is Phase.SIGNED:
            with suppress(Refused):
                sent(chain, book, waiting)


def _first_sent(chain: Chain, book: Book, fresh: Submission) -> Submission:
    """Refused the first time: it was paid by nobody and never will be, so it may be signed anew."""
    try:
        return sent(chain, book, fresh)
    except Refused:
        if chain.find(fresh.signed, fresh.anchor) is None:
            book.move(fresh, fresh.become(Phase.LOST, now_s()))
        raise


def sent(chain: Chain, book: Book, submission: Submission) -> Submission:
    """The same bytes (again); unchanged when the node does not answer. Raises Refused."""
    try:
        chain.send(submission.signed)
    except Unreachable:
        return submission
    if submission.phase is not Phase.SIGNED:
        return submission
    return book.move(submission, submission.become(Phase.SUBMITTED, now_s()))


def _awaited(chain: Chain, book: Book, submission: Submission, patience: Patience) -> Submission:
    """Looks at once, and until it is in a block or patience is over."""
    until = patience.clock() + patience.seconds
    while submission.phase in UNMINED:
        submission = looked(chain, book, submission)
        if patience.clock() >= until:
            break
        patience.sleep(LOOK_EVERY_S)
    return submission


def looked(chain: Chain, book: Book, submission: Submission) -> Submission:
    """As the node sees it now, written down; unchanged when it does not answer."""
    try:
        seen = chain.find(submission.signed, submission.anchor)
    except (Unreachable, Invalid):
        return submission
    return book.move(submission, submission.now(seen, now_s()))
