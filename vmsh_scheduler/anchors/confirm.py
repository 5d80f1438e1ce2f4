"""Open submissions of one target, looked at again: deeper, final, out of its block, stuck, or lost and due again."""

from dataclasses import dataclass, field
from time import monotonic

from vmsh_scheduler.anchors import transact
from vmsh_scheduler.anchors.chain import Chain, Refused
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.failures import Invalid, telling
from vmsh_scheduler.anchors.pass_report import PASS_S, Moves, said, standing
from vmsh_scheduler.anchors.subject import subject_of
from vmsh_scheduler.anchors.submission import OPEN, UNMINED, Book, Submission
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import ConfigError, Denied


@dataclass(frozen=True, slots=True)
class Limits:
    """Without a block for longer: replaced by a dearer one; said aloud (`overdue`). Seconds."""

    stuck_after_s: int
    alarm_after_s: int = 86_400


@dataclass(slots=True)
class Deepening:
    """One pass over one target's book."""

    facts: Facts
    chain: Chain
    book: Book
    limits: Limits
    moves: Moves
    _until: float = field(default_factory=lambda: monotonic() + PASS_S)

    def run(self) -> Document:
        """`standing`, what moved, and what could not be done."""
        self.chain.meet()
        warnings = []
        for before in self.book.unfinished():
            if monotonic() > self._until:
                warnings.append(
                    f"batch {before.batch} and those after it wait for the next pass: this one took {PASS_S:.0f} s"
                )
                break
            try:
                with self.moves.of(before):
                    after = self._step(before)
                warnings += self._recorded(after)
            except (Invalid, Denied, ConfigError) as error:  # of this one: `meet` has shown that the node serves us
                warnings.append(f"batch {before.batch}: {before.tx}: {error}")
        return {**self.standing(), **self.moves.told(), "warnings": said([*self.book.complaints(), *warnings])}

    def standing(self) -> Document:
        alarm_after_s = self.limits.alarm_after_s
        return standing(self.book, self.chain.target, now_s(), alarm_after_s, lambda one: {"tx": one.tx})

    def _step(self, before: Submission) -> Submission:
        now = transact.looked(self.chain, self.book, before) if before.phase in OPEN else before
        self.moves.note(now)
        if now.phase not in UNMINED:
            return now
        with self.book.signing():
            after = self._moved(self.book.get(now.batch) or now)
        self.moves.note(after)
        return after

    def _moved(self, now: Submission) -> Submission:
        """Of one that was in no block. `lost` is asked first: what is mined between the two is found by the look.

        What another account sent is only sent again: nobody here can say what became of its nonces or coins."""
        ours = now.account == self.chain.account
        lost = ours and self.chain.lost(now.signed)
        now = self._found(now)
        if now.phase not in UNMINED:
            return now
        if lost:
            return self._again(now)
        stuck = abs(now_s() - now.changed_at) > self.limits.stuck_after_s  # abs: a clock that was ahead for a while
        return self._hurried(now) if ours and stuck else self._sent(now)

    def _found(self, now: Submission) -> Submission:
        """The one of its transactions that is in a block, be it one that another was to replace."""
        for signed in (now.signed, *now.earlier):
            seen = self.chain.find(signed, now.anchor)
            if seen is not None and seen.depth > 0:
                placed = now if signed.tx == now.tx else now.instead(signed, now_s())
                return self.book.move(now, placed.now(seen, now_s()))
        return now

    def _again(self, now: Submission) -> Submission:
        """Lost: nothing of it can ever be mined, so that another transaction pays for the batch only now."""
        return self._sent(self.book.move(now, now.instead(self.chain.sign(now.anchor), now_s())))

    def _hurried(self, now: Submission) -> Submission:
        fresh = self.chain.hurried(now.signed, now.anchor)
        return self._sent(now if fresh is None else self.book.move(now, now.instead(fresh, now_s())))

    def _sent(self, now: Submission) -> Submission:
        try:
            return transact.sent(self.chain, self.book, now)
        except Refused:
            return now  # a later pass finds it mined, lost, or stuck and to be hurried

    def _recorded(self, submission: Submission) -> list[str]:
        if submission.told:
            return []
        try:
            subject = subject_of(self.facts.root / "out", submission)
        except (Invalid, OSError) as error:
            return [f"batch {submission.batch}: no receipt: {error}"]
        return transact.tell(self.book, self.facts.root / "out", subject, submission)[1]


def confirm(facts: Facts, chain: Chain, limits: Limits) -> Document:
    """The verb's result. Raises what `Chain` raises: a node that is down fails the pass, nothing else, and what
    moved and how old the open ones are is told all the same: nobody would hear of them otherwise while it is down."""
    book = Book(facts.root / "out", chain.target)
    deepening = Deepening(facts, chain, book, limits, Moves(book))
    with telling(deepening.moves.told, deepening.standing):
        return deepening.run()
