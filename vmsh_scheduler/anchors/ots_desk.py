"""The `ots` rail's desk: the book of what calendars were given, the proof files, and what receipts say of them.

The book holds the nonce before any calendar is asked, so that whoever comes again asks about the same commitment; then
the proof itself, of which the file below `out/attestations/ots` and the receipts are made, again after a crash too."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from vmsh_scheduler.anchors import disk, ots_proof, rail_entry, receipts, rpc
from vmsh_scheduler.anchors.calendars import Calendars, Reply
from vmsh_scheduler.anchors.chain import Unreachable
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.ots_headers import Headers
from vmsh_scheduler.anchors.ots_said import attestation, proof_path, proof_sha256, state
from vmsh_scheduler.anchors.subject import Subject
from vmsh_scheduler.anchors.submission import Book, Phase, Submission
from vmsh_scheduler.domain.batch import hash_bytes, hash_text

ACCOUNT = "calendars"
"""In the book, where other rails name whose money it is."""


@dataclass(frozen=True, slots=True)
class Desk:
    """One `ots:<name>` below one root."""

    facts: Facts
    target: str
    book: Book
    calendars: Calendars
    need: int
    """So many calendars must answer."""
    alarm_after_s: float
    headers: Headers | None = None
    """None: nothing here can check a block."""
    depth: int = 0
    """At which a block is final; 0 without a node."""

    @property
    def out(self) -> Path:
        return self.facts.root / "out"

    def stamped(self, one: Submission) -> Submission:
        """With what the calendars say to its commitment, written down. Unreachable: too few of them answered."""
        replies = self.calendars.submit(hash_bytes(one.tx))
        good, faults = self._sifted(replies, hash_bytes(one.tx))
        promised = {uri for _, uris in good for uri in uris}
        if min(len(good), len(promised)) < self.need:
            told = f"{min(len(good), len(promised))} of {len(replies)} calendars answered, and {self.need} are needed"
            raise Unreachable("; ".join([told, *faults]))
        with self.book.signing():
            return self._kept(self.book.get(one.batch) or one, [body for body, _ in good], sorted(promised))

    def _sifted(self, replies: Sequence[Reply], digest: bytes) -> tuple[list[tuple[bytes, list[str]]], list[str]]:
        """Answers that promise a proof from somebody whom we may ask for it; and what is wrong with the others."""
        good, faults = [], []
        for reply in replies:
            uris, fault = ([], reply.fault) if reply.fault else self._promised(reply, digest)
            if fault:
                faults.append(fault)
            else:
                good.append((reply.body, uris))
        return good, faults

    def _promised(self, reply: Reply, digest: bytes) -> tuple[list[str], str]:
        try:
            uris = [promise.uri for promise in ots_proof.answered(reply.body, digest).promises]
        except ots_proof.Garbled as error:
            return [], f"{reply.calendar} answered with {error}"
        known = [uri for uri in uris if self.calendars.may_ask(uri)]
        named = (
            f"it sends us to {', '.join(uris)[:200]}, which `trusted` does not name" if uris else "it promises nothing"
        )
        return known, "" if known else f"{reply.calendar}: {named}"

    def _kept(self, now: Submission, answers: Sequence[bytes], promised: list[str]) -> Submission:
        root, digest = hash_bytes(now.root), hash_bytes(now.tx)
        proof = bytes.fromhex(now.raw)
        for answer in answers:
            if proof:
                proof = ots_proof.grafted(proof, root, digest, answer)
            else:
                proof = ots_proof.stamped(root, bytes.fromhex(now.details["nonce"]), [answer])
        details = {**now.details, "calendars": promised, "stamped_at": now_s()}
        after = replace(now, raw=proof.hex(), details=details)
        return self.keep(after.become(Phase.SUBMITTED, now_s()) if now.phase is Phase.SIGNED else after)

    def keep(self, one: Submission) -> Submission:
        """The caller holds the book's lock."""
        kept = replace(one, told=one.details.get("told") == state(one))
        self.book.put(kept)
        return kept

    def told(self, one: Submission) -> bool:
        """Do file and receipts say what the book says?"""
        return one.told and proof_path(self.out, one.target, one.batch).exists()

    def publish(self, batch: str, subject: Subject) -> list[str]:
        """Proof file and receipts as the book has it now; gives warnings. Nothing is done twice."""
        with self.book.signing():
            one = self.book.get(batch)
            if one is None or not one.raw or self.told(one):
                return []
            warnings = self._exported(one)
            covered = receipts.covered_by(subject.batch, subject.document, subject.members)
            whose = {"namespace": one.namespace, "cadence": one.cadence}
            warnings += receipts.record(self.out, covered, attestation(one), **whose)
            self.keep(replace(one, details={**one.details, "told": state(one), "file": proof_sha256(one)}))
            return warnings

    def _exported(self, one: Submission) -> list[str]:
        """A file there that is not ours is kept aside: it may be all that somebody has."""
        path = proof_path(self.out, one.target, one.batch)
        disk.make_directory(path.parent)
        there = disk.read_if_there(path, disk.SMALL_LIMIT)
        proof = bytes.fromhex(one.raw)
        if there == proof:
            return []
        warnings = []
        if there is not None and hash_text(sha256(there).digest()) != one.details.get("file"):
            aside = path.with_suffix(f".{sha256(there).hexdigest()[:8]}.aside")
            path.rename(aside)
            warnings.append(f"{path} was not what was written there; kept as {aside.name}, ours is written anew")
        disk.replace(path, proof)
        return warnings


def open_desk(facts: Facts) -> Desk:
    """Raises ConfigError."""
    rail = rail_entry.ots_rail(facts)
    target = facts.text("target", "VMSH_TARGET")
    node = rail.btc
    calendars = {one.url.rstrip("/"): one.http("calendars") for one in rail.calendars}
    return Desk(
        facts=facts,
        target=target,
        book=Book(facts.root / "out", target),
        calendars=Calendars(calendars, rail.trusted, rail.timeout_s),
        need=rail.need,
        alarm_after_s=rail.alarm_after_s,
        headers=None if node is None else Headers(rpc.Rpc(node.rpc.http()), node.network),
        depth=0 if node is None else node.confirmations,
    )
