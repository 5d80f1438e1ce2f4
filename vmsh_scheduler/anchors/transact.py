"""One batch onto one chain: sign, write down, send, wait a little. Whoever comes again finds what was written down."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from vmsh_scheduler.anchors import paid, receipts
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


@dataclass(frozen=True, slots=True)
class _Part:
    """One batch of those that a run is about."""

    subject: Subject
    before: Submission | None
    now: Submission


def anchor(facts: Facts, chain: Chain, patience: Patience) -> Document:
    """The verb's result. A run whose bytes are on disk has succeeded, even if the node fell silent then:
    `confirm` goes on with it. What an earlier run signed of it is brought on first, and paid for once (`also`)."""
    asked, out = read_subject(facts), facts.root / "out"
    book = Book(out, chain.target)
    chain.meet()
    with book.signing():
        (*kept, last), warnings = paid.parts(facts, book, asked)
        parts = [_resumed(chain, book, one) for one in kept]
        before = _known(book, last.batch.id, last.batch.root)
        newest = _Part(last, before, _submitted(facts, chain, book, last, before))
    also = []
    for part in parts:
        try:
            also.append(_followed(chain, book, out, part, Patience(0)))
        except Refused as error:
            warnings.append(f"batch {part.now.batch}: {error}")
    result = _followed(chain, book, out, newest, patience)
    return _united(result, also, warnings) if also or last is not asked else _told(result, warnings)


def _resumed(chain: Chain, book: Book, subject: Subject) -> _Part:
    """Of one that is in the book. Refused now, it is found mined, lost or stuck by `confirm`."""
    known = book.get(subject.batch.id)
    if known is None:
        raise Corrupt(f"batch {subject.batch.id} is gone from the book of {book.target}", hint="try again")
    now = known
    with suppress(Refused):
        now = sent(chain, book, known) if known.phase in UNMINED else known
    return _Part(subject, known, now)


def _followed(chain: Chain, book: Book, out: Path, part: _Part, patience: Patience) -> Document:
    """What became of it, in its receipts too."""
    warnings: list[str] = []
    submission = part.now
    with _paid(warnings):
        submission = _awaited(chain, book, submission, patience)
    _check_sound(submission)
    with _paid(warnings):
        submission, told = tell(book, out, part.subject, submission)
        warnings += told
    result: Document = {"status": "ok", "attestation": submission.attestation(), "phase": str(submission.phase)}
    if part.before is None or part.before.phase is not submission.phase:
        result["changed"] = [submission.moved(part.before, now_s())]
    return {**result, "batch": {"id": submission.batch, "root": submission.root}, "warnings": warnings}


def _check_sound(submission: Submission) -> None:
    if submission.phase is Phase.FAULTY:
        raise Refused(f"{submission.tx} is in block {submission.block}, and {submission.fault}")


def _told(result: Document, warnings: list[str]) -> Document:
    """Of a run about one batch, which is the one that it was asked for."""
    every = [*warnings, *result["warnings"]]
    plain = {key: value for key, value in result.items() if key not in ("batch", "warnings")}
    return {**plain, "warnings": every} if every else plain


def _united(result: Document, also: list[Document], warnings: list[str]) -> Document:
    """Of a run about several: `batch` says which one the attestation is of, `also` has the others."""
    every = [*warnings, *(said for one in (*also, result) for said in one["warnings"])]
    changed = [moved for one in (*also, result) for moved in one.get("changed", ())]
    others = [{name: one[name] for name in ("batch", "attestation", "phase")} for one in also]
    return {**result, "also": others, "changed": changed, "warnings": every}


def probe(facts: Facts, chain: Chain, patience: Patience) -> Document:
    """Did a run of this batch sign? Then it is brought to its end; `exit` 1 = it did not, and nothing can be paid. One
    that signed for a part of a super-batch counts as none: the next run finds that part.

    While nothing may be written to chains, what was signed counts as done without a word to the node: it is on disk,
    and the first pass of `confirm` after that sends it."""
    (identity, root), out = facts.batch, facts.root / "out"
    book = Book(out, chain.target)
    known = _known(book, identity, root)
    if known is None:
        return {"status": "none", "exit": 1}
    if facts.write_off:
        if known.phase is Phase.LOST:  # nobody goes on with it but a run that signs anew
            return {"status": "none", "exit": 1}
        _check_sound(known)
        known, warnings = tell(book, out, read_subject(facts), known)
        return {"status": "ok", "attestation": known.attestation(), "phase": str(known.phase), "warnings": warnings}
    return anchor(facts, chain, patience)


@contextmanager
def _paid(warnings: list[str]) -> Iterator[None]:
    """What fails after the payment (a full disk, a node that refuses to be asked) is made good by `confirm`. As a
    failure of the run it would be tried again, for nothing."""
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


def _submitted(facts: Facts, chain: Chain, book: Book, subject: Subject, before: Submission | None) -> Submission:
    if before is not None and before.phase is not Phase.LOST:
        return before if before.phase in (Phase.FINAL, Phase.FAULTY) else sent(chain, book, before)
    _send_waiting(chain, book)
    fresh = _signed(facts, chain, subject, before)
    book.put(fresh)
    return _first_sent(chain, book, fresh)


def _known(book: Book, identity: str, root: str) -> Submission | None:
    known = book.get(identity)
    if known is not None and known.root != root:
        raise Corrupt(f"batch {known.batch} was sent to {known.target} with another root", hint=f"see {known.tx}")
    return known


def _signed(facts: Facts, chain: Chain, subject: Subject, before: Submission | None) -> Submission:
    signed = chain.sign(Anchor(subject.batch.id, hash_bytes(subject.batch.root)))
    if before is not None:
        members = subject.listed or before.members
        return replace(before.instead(signed, now_s()), account=chain.account, members=members)
    return Submission(
        target=chain.target,
        account=chain.account,
        batch=subject.batch.id,
        root=subject.batch.root,
        tx=signed.tx,
        raw=signed.raw,
        signed_at=now_s(),
        changed_at=now_s(),
        namespace=facts.namespace,
        cadence=facts.cadence,
        need=chain.need,
        details=signed.details,
        members=subject.listed,
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
    """The same bytes (again); unchanged when the node does not answer, or has them and the disk is full: what failed
    then would be tried again, although it is done. Raises Refused."""
    try:
        chain.send(submission.signed)
    except Unreachable:
        return submission
    if submission.phase is not Phase.SIGNED:
        return submission
    try:
        return book.move(submission, submission.become(Phase.SUBMITTED, now_s()))
    except OSError:
        return submission


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
