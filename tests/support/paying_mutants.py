"""Rails that pay, wrong in one place: test_paying.py has to tell each of them from the real one."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.support.model_chain import ModelChain, Tx
from tests.support.mutants import Mutant, Original
from vmsh_scheduler.anchors import paid, transact
from vmsh_scheduler.anchors.chain import Anchor, Chain, Refused, Signed
from vmsh_scheduler.anchors.confirm import Deepening
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.subject import Subject
from vmsh_scheduler.anchors.submission import OPEN, UNMINED, Book, Phase, Submission

Step = tuple[str, str, int, str]
"""Verb, batch, moment, what happens then."""


def sent_first(right: Original) -> Original:
    def submitted(facts: Facts, chain: Chain, book: Book, subject: Subject, before: Submission | None) -> Submission:
        if before is not None:
            return right(facts, chain, book, subject, before)  # type: ignore[no-any-return]  # the real one
        fresh = transact._signed(facts, chain, subject, None)
        chain.send(fresh.signed)
        book.put(fresh.become(Phase.SUBMITTED, fresh.signed_at))
        return fresh

    return submitted


def signed_at_every_run(right: Original) -> Original:
    def submitted(facts: Facts, chain: Chain, book: Book, subject: Subject, before: Submission | None) -> Submission:
        fresh = transact._signed(facts, chain, subject, None)
        book.put(fresh)
        return transact.sent(chain, book, fresh)

    return submitted


def given_up_when_refused(right: Original) -> Original:
    """Also when it was sent before: by now it may be refused for being mined, or be in other nodes' hands."""

    def sent(chain: Chain, book: Book, submission: Submission) -> Submission:
        try:
            return right(chain, book, submission)  # type: ignore[no-any-return]  # the real one
        except Refused:
            book.move(submission, submission.become(Phase.LOST, submission.changed_at))
            raise

    return sent


def given_up_in_silence(right: Original) -> Original:
    def sent(chain: Chain, book: Book, submission: Submission) -> Submission:
        after: Submission = right(chain, book, submission)
        if after.phase is not Phase.SIGNED:
            return after
        return book.move(after, after.become(Phase.LOST, after.changed_at))

    return sent


def as_it_is_asked_for(right: Original) -> Original:
    """What an earlier run signed counts for nothing once a batch has arrived meanwhile."""
    return lambda facts, book, asked: ([asked], [])


def open_ones_only(right: Original) -> Original:
    """What became final before the retry is paid for again."""

    def candidates(book: Book, out: Path, wanted: object) -> Mapping[str, set[paid.Item]]:
        return {one.batch: set() for one in book.open()}

    return candidates


def by_their_own_name_only(right: Original) -> Original:
    return lambda out, one, told: set()


def asked_after_the_look(right: Original) -> Original:
    """What is mined between the look and the question counts as somebody else's."""

    def moved(self: Deepening, now: Submission) -> Submission:
        now = self._found(now)
        if now.phase in UNMINED and self.chain.lost(now.signed):
            return self._again(now)
        return right(self, now) if now.phase in UNMINED else now

    return moved


def only_the_newest(right: Original) -> Original:
    def found(self: Deepening, now: Submission) -> Submission:
        return transact.looked(self.chain, self.book, now)

    return found


def without_the_old_bytes(right: Original) -> Original:
    def instead(self: Submission, signed: Signed, at: int) -> Submission:
        after: Submission = right(self, signed, at)
        return replace(after, earlier=tuple(Signed(one.tx, "", {}) for one in after.earlier))

    return instead


def done_when_final(right: Original) -> Original:
    """A crash between the book and the receipt is never made good."""
    return property(lambda self: self.phase in OPEN)  # type: ignore[return-value]  # a property in a property's place


def lost_at_once(right: Original) -> Original:
    def lost(self: ModelChain, tx: Tx) -> bool:
        spender, _ = self.network.mined().get(tx.coin, (tx, 0))
        return spender != tx

    return lost


def hurried_beside(right: Original) -> Original:
    def hurried(self: ModelChain, signed: Signed, anchor: Anchor) -> Signed:
        return self._signed(anchor, self._coin(), self.network.floor)

    return hurried


def never_hurried(right: Original) -> Original:
    return lambda self, now: self._sent(now)


MUTANTS: Mapping[str, Mutant] = {
    "sends before it writes down": (transact, "_submitted", sent_first),
    "signs anew at every run": (transact, "_submitted", signed_at_every_run),
    "refused means never sent": (transact, "sent", given_up_when_refused),
    "silence means never sent": (transact, "sent", given_up_in_silence),
    "pays for a grown super-batch as a whole": (paid, "parts", as_it_is_asked_for),
    "forgets what became final before the retry": (paid, "_candidates", open_ones_only),
    "does not look below what is open": (paid, "_covered", by_their_own_name_only),
    "asks what is lost after it looked": (Deepening, "_moved", asked_after_the_look),
    "does not look at what was replaced": (Deepening, "_found", only_the_newest),
    "forgets the bytes of what was replaced": (Submission, "instead", without_the_old_bytes),
    "takes final for told": (Submission, "unfinished", done_when_final),
    "takes one block for lost": (ModelChain, "_lost", lost_at_once),
    "spends something else to hurry": (ModelChain, "hurried", hurried_beside),
    "never hurries": (Deepening, "_hurried", never_hurried),
}
ANY = -1
"""Stands for every moment of a verb, one after another."""
_ANCHOR, _CONFIRM, _LATE = ("anchor", "b1", 0, ""), ("confirm", "", 0, ""), ("late", "", 0, "")
_HURRIED = [_ANCHOR, _LATE, _CONFIRM]
_GROWN: Step = ("together", "b3", 0, "")
_TWO_SIGNED: list[Step] = [("anchor", "b1", 1, "down"), ("together", "b2", ANY, "denied after it acted")]


def _world(*what: str) -> list[Step]:
    return [("world", "", 0, one) for one in what]


SHOWN_BY: Mapping[str, list[Step]] = {
    "sends before it writes down": [("anchor", "b1", ANY, "crash after")],
    "signs anew at every run": [("anchor", "b1", ANY, "crash after")],
    "refused means never sent": [_ANCHOR, *_world("stranger"), _ANCHOR, *_world("stale block")],
    "silence means never sent": [("anchor", "b1", ANY, "silent after it acted")],
    "pays for a grown super-batch as a whole": [("anchor", "b1", ANY, "denied"), _GROWN],
    "forgets what became final before the retry": [*_TWO_SIGNED, *_world("block", "block", "block"), _CONFIRM, _GROWN],
    "does not look below what is open": [*_TWO_SIGNED, _GROWN],
    "asks what is lost after it looked": [*_HURRIED, ("confirm", "", ANY, "long sleep")],
    "does not look at what was replaced": [*_HURRIED, *_world("stale block")],
    "forgets the bytes of what was replaced": [
        *(*_HURRIED, *_world("stale block"), _CONFIRM),
        *_world("empty reorganisation", "forgotten mempool"),
    ],
    "takes final for told": [_ANCHOR, *_world("block", "block", "block"), ("confirm", "", ANY, "crash after")],
    "takes one block for lost": [_ANCHOR, *_world("stranger", "block"), _CONFIRM, *_world("stale reorganisation")],
    "spends something else to hurry": [*_HURRIED, *_world("block")],
    "never hurries": [_ANCHOR, *_world("higher floor"), _LATE, _CONFIRM],
}
"""What has to happen for each of them to be seen."""


def mutated(name: str, patch: Any) -> None:
    """`patch`: pytest's monkeypatch."""
    owner, function, wrong = MUTANTS[name]
    patch.setattr(owner, function, wrong(getattr(owner, function)))
