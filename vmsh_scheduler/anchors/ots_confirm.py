"""Open timestamps looked at again: what calendars have by now is added to the proofs, and blocks are checked.

With a bitcoind (`btc` of the rail) only what its block headers bear out is taken, and a block that leaves the chain
reopens the proof. Without one the calendars' word for the block is all there is, and receipts say so."""

from dataclasses import dataclass, field, replace
from time import monotonic

from vmsh_scheduler.anchors import ots_proof
from vmsh_scheduler.anchors.calendars import Reply
from vmsh_scheduler.anchors.chain import Seen, Unreachable
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.failures import Invalid, telling
from vmsh_scheduler.anchors.ots_desk import Desk, open_desk
from vmsh_scheduler.anchors.ots_proof import Contents, InBlock, Promise
from vmsh_scheduler.anchors.pass_report import PASS_S, Moves, said, standing
from vmsh_scheduler.anchors.subject import subject_of
from vmsh_scheduler.anchors.submission import OPEN, Phase, Submission
from vmsh_scheduler.domain.batch import Document, hash_bytes

LONGEST_WAIT_S = 600
"""Between two questions about one batch; calendars are somebody's gift."""
ROUNDS = 3
"""An answer may promise a proof by yet another calendar."""
_MOST_PROMISES = 32


@dataclass(slots=True)
class Deepening:
    """One pass over one rail's book."""

    desk: Desk
    moves: Moves
    warnings: list[str] = field(default_factory=list)
    _silent: set[str] = field(default_factory=set)
    """Calendars that failed in this pass: they are not asked again in it."""
    _answers: int = 0
    _until: float = field(default_factory=lambda: monotonic() + PASS_S)
    """No calendar is asked later; who was asked least recently is first in the next pass."""

    def run(self) -> Document:
        """As confirm.Deepening.run; `overdue`: accepted, and in no block for longer than the rail's alarmAfter."""
        if self.desk.headers is not None:
            self.desk.headers.meet()
        for before in self._work():
            try:
                with self.moves.of(before):
                    after = self._step(before)
                    self.moves.note(after)
            except Invalid as error:  # of this one alone: its proof, or what the book has of it, cannot be read
                self.warnings.append(f"batch {before.batch}: {error}")
                continue
            self._publish(after)
        return self._result()

    def _work(self) -> list[Submission]:
        """What is not settled, or not told, or was settled without a node and now there is one."""
        unchecked = [one for one in self.desk.book.every() if self._unchecked(one)] if self.desk.headers else []
        every = {one.batch: one for one in (*self.desk.book.unfinished(), *unchecked)}
        return sorted(every.values(), key=lambda one: (one.details.get("asked_at", 0), one.signed_at))

    def _unchecked(self, one: Submission) -> bool:
        return self.desk.headers is not None and one.phase is Phase.FINAL and not one.details.get("checked")

    def _step(self, one: Submission) -> Submission:
        try:
            if monotonic() < self._until and (one.phase is Phase.SIGNED or self._stale(one)):
                one = self.desk.stamped(one)
        except Unreachable as error:
            self.warnings.append(f"batch {one.batch}: {error}")
        if not one.raw or not (one.phase in OPEN or self._unchecked(one)):
            return one
        claim, seen = self._borne_out(_read(one))
        if claim is None and self._is_time(one):
            one = self._asked(one)
            claim, seen = self._borne_out(_read(one))
        return self._kept(one, claim, seen)

    def _stale(self, one: Submission) -> bool:
        """Overdue: the calendars get the same commitment once more, as they may have lost it; it costs nothing."""
        since = abs(now_s() - one.details.get("stamped_at", one.signed_at))  # as `age`
        return one.phase in (Phase.SUBMITTED, Phase.REORGED) and since > self.desk.alarm_after_s

    def _is_time(self, one: Submission) -> bool:
        """Often at first, every ten minutes later."""
        wait = min(LONGEST_WAIT_S, _age(one) // 10)
        since = now_s() - one.details.get("asked_at", 0)
        return (since < 0 or since >= wait) and monotonic() < self._until  # below 0: the clock was ahead for a while

    def _borne_out(self, contents: Contents) -> tuple[InBlock | None, Seen | None]:
        """The first block that the node has as the proof says; without a node, the first that the proof names."""
        for claim in contents.blocks:
            seen = self._judged(claim)
            if seen is None or (seen.depth > 0 and not seen.fault):
                return claim, seen
        return None, None

    def _judged(self, claim: InBlock) -> Seen | None:
        """None: nobody here can judge it."""
        return None if self.desk.headers is None else self.desk.headers.judge(claim) or Seen()

    def _asked(self, one: Submission) -> Submission:
        root, proof = hash_bytes(one.root), bytes.fromhex(one.raw)
        seen: set[Promise] = set()
        for _ in range(ROUNDS):
            promises = [each for each in ots_proof.contents(proof, root).promises if self._worth(each, seen)]
            if not promises:
                break
            seen |= set(promises)
            for promise, reply in zip(promises, self.desk.calendars.upgrades(promises), strict=True):
                proof = self._fuller(proof, root, promise, reply)
        with self.desk.book.signing():
            now = self.desk.book.get(one.batch) or one
            details = {**now.details, "asked_at": now_s()}
            whole = ots_proof.united(bytes.fromhex(now.raw), proof, root)
            return self.desk.keep(replace(now, raw=whole.hex(), details=details))

    def _worth(self, promise: Promise, seen: set[Promise]) -> bool:
        fresh = promise not in seen and len(seen) < _MOST_PROMISES and promise.uri not in self._silent
        return fresh and self.desk.calendars.may_ask(promise.uri)

    def _fuller(self, proof: bytes, root: bytes, promise: Promise, reply: Reply) -> bytes:
        """The proof with the answer in it, if that is sound."""
        fault = reply.fault
        if reply.body:
            try:
                fault = self._unsound(ots_proof.answered(reply.body, promise.commitment))
                if not fault:
                    proof = ots_proof.grafted(proof, root, promise.commitment, reply.body)
            except ots_proof.Garbled as error:
                fault = str(error)
        if reply.fault:
            self._silent.add(promise.uri)
        self._answers += not reply.fault
        if fault:
            self.warnings.append(f"{promise.uri}: {fault}")
        return proof

    def _unsound(self, contents: Contents) -> str:
        """Why nothing of it is taken (yet); it can be had again at any time."""
        for claim in contents.blocks:
            seen = self._judged(claim)
            if seen is not None and seen.fault:
                return f"block {claim.height}: {seen.fault}"
            if seen is not None and seen.depth == 0:
                return f"block {claim.height} is not in our node's chain yet"
        return ""

    def _kept(self, one: Submission, claim: InBlock | None, seen: Seen | None) -> Submission:
        with self.desk.book.signing():
            now = self.desk.book.get(one.batch) or one
            after = self._after(replace(now, need=self.desk.depth), claim, seen)
            return self.desk.keep(after) if after != now else now

    def _after(self, now: Submission, claim: InBlock | None, seen: Seen | None) -> Submission:
        if claim is None:
            bare = {key: value for key, value in now.details.items() if key not in ("merkleRoot", "checked")}
            if now.phase is Phase.FINAL:
                now = replace(now, block=0).become(Phase.SUBMITTED, now_s())
            return replace(now, details=bare).now(None, now_s())
        details = {**now.details, "merkleRoot": claim.merkle_root, "checked": seen is not None}
        now = replace(now, details=details)
        if seen is not None:
            return now.now(seen, now_s())
        return replace(now, block=claim.height).become(Phase.FINAL, now_s())

    def _publish(self, one: Submission) -> None:
        if not one.raw or self.desk.told(one):
            return
        try:
            self.warnings += self.desk.publish(one.batch, subject_of(self.desk.out, one))
        except (Invalid, OSError) as error:
            self.warnings.append(f"batch {one.batch}: no receipt: {error}")

    def _result(self) -> Document:
        result = {**self.standing(), **self.moves.told()}
        if self._silent and not self._answers:
            told = {"status": "failed", "exit": int(Unreachable.exit), "message": "; ".join(self.warnings)[:1000]}
            result = {"code": "unreachable", **result, **told}
        return {**result, "warnings": said([*self.desk.book.complaints(), *self.warnings])}

    def standing(self) -> Document:
        desk = self.desk
        return standing(desk.book, desk.target, now_s(), desk.alarm_after_s, lambda one: {"seconds": _age(one)})


def run(facts: Facts) -> Document:
    """The verb `confirm` for targets `ots:`. Raises what the node's side raises: nothing is lost by it, and what is
    open is told all the same."""
    desk = open_desk(facts)
    deepening = Deepening(desk, Moves(desk.book))
    with telling(deepening.moves.told, deepening.standing):
        return deepening.run()


def _read(one: Submission) -> Contents:
    return ots_proof.contents(bytes.fromhex(one.raw), hash_bytes(one.root))


def _age(one: Submission) -> int:
    return one.age(now_s())
