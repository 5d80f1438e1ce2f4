"""The book of what was signed: written before it is sent, one file per batch and target, below `out/submissions`.

After a crash the same bytes are sent again, so no batch is paid for twice (spec vaultmesh section 18)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.chain import Anchor, Seen, Signed
from vmsh_scheduler.anchors.failures import Corrupt
from vmsh_scheduler.domain.batch import (
    OPEN_MARKS,
    Document,
    digest_holds,
    hash_bytes,
    is_hash,
    load,
    render,
    slug,
    with_digest,
)


class Phase(StrEnum):
    """How far a submission has come."""

    SIGNED = "signed"
    """On disk; it may or may not have reached the node."""
    SUBMITTED = "submitted"
    """The node took it; in no block."""
    VERIFIED = "verified"
    """In a block, not deep enough yet."""
    FINAL = "final"
    REORGED = "reorged"
    """It was in a block that is none any more; it is sent again."""
    LOST = "lost"
    """It never can be mined: the batch is due again."""
    FAULTY = "faulty"
    """Mined, and does not say what it should: a person has to look."""


UNMINED = frozenset({Phase.SIGNED, Phase.SUBMITTED, Phase.REORGED})
OPEN = UNMINED | {Phase.VERIFIED}


@dataclass(frozen=True, slots=True)
class Submission:
    """One batch on one target."""

    target: str
    account: str
    batch: str
    root: str
    """"sha256:<hex>"."""
    tx: str
    raw: str
    signed_at: int
    """Seconds, as every time here: of the first transaction, so that waiting is measured from there."""
    namespace: str = ""
    cadence: str = ""
    phase: Phase = Phase.SIGNED
    need: int = 1
    depth: int = 0
    block: int = 0
    block_hash: str = ""
    ts: int = 0
    changed_at: int = 0
    fault: str = ""
    details: Document = field(default_factory=dict)
    earlier: tuple[Signed, ...] = ()
    """Transactions before this one that were lost or replaced; one of them may be mined all the same."""
    told: bool = False
    """The receipts say all this."""

    @property
    def unfinished(self) -> bool:
        """Not settled, or settled and a crash came before the receipts said so."""
        return self.phase in OPEN or (not self.told and self.phase is not Phase.LOST)

    @property
    def signed(self) -> Signed:
        where = {"blockHash": self.block_hash} if self.block_hash else {}
        return Signed(self.tx, self.raw, {**self.details, **where})

    @property
    def anchor(self) -> Anchor:
        return Anchor(self.batch, hash_bytes(self.root))

    def now(self, seen: Seen | None, at: int) -> "Submission":
        """After a look at the node; None = it knows nothing of it."""
        if seen is None or seen.depth == 0:
            phase = Phase.REORGED if self.block_hash else Phase.SUBMITTED if seen else self.phase
            return self._changed(at, phase=phase, depth=0)
        place = {"block": seen.block, "block_hash": seen.block_hash, "ts": seen.ts}
        if seen.fault:
            return self._changed(at, phase=Phase.FAULTY, fault=seen.fault, **place)
        phase = Phase.FINAL if seen.depth >= self.need else Phase.VERIFIED
        return self._changed(at, phase=phase, depth=min(seen.depth, self.need), **place)

    def become(self, phase: Phase, at: int) -> "Submission":
        return self._changed(at, phase=phase)

    def instead(self, signed: Signed, at: int) -> "Submission":
        """Another transaction in its place, not sent yet."""
        earlier = (*(one for one in self.earlier if one.tx != signed.tx), self.signed)
        fresh = {"tx": signed.tx, "raw": signed.raw, "details": signed.details, "earlier": earlier}
        nowhere = {"phase": Phase.SIGNED, "depth": 0, "block": 0, "block_hash": "", "ts": 0, "fault": ""}
        return self._changed(at, **fresh, **nowhere)

    def _changed(self, at: int, **values: Any) -> "Submission":
        after = replace(self, **values)
        return after if after == self else replace(after, changed_at=at, told=False)

    def heard(self) -> "Submission":
        """The receipts say so."""
        return replace(self, told=True)

    def moved(self, before: "Submission | None", at: int) -> Document:
        """What changed, for logs and metrics; None = it was not there."""
        about = {"batch": self.batch, "namespace": self.namespace, "tx": self.tx}
        phases = {"was": str(before.phase) if before else "", "now": str(self.phase)}
        return {**about, **phases, "seconds": max(0, at - self.signed_at)}

    def attestation(self) -> Document:
        """As receipts hold it (spec vaultmesh section 6); `block` and `ts` are 0 until it is in one."""
        told = {key: value for key, value in self.details.items() if key in ("contract", "memo", "sender")}
        where = {"chain": self.target, "tx": self.tx, "block": self.block, "ts": self.ts or self.signed_at}
        state = {"status": str(self.phase), "depth": self.depth, "need": self.need}
        more = {"blockHash": self.block_hash, "earlier": [one.tx for one in self.earlier]}
        return {**where, **told, **state, **{key: value for key, value in more.items() if value}}


class Book:
    """Of one target below one root. Who signs or sends holds `signing`."""

    def __init__(self, out: Path, target: str) -> None:
        self.target = target
        self._all = out / "submissions"
        self._place = self._all / slug(target)

    @contextmanager
    def signing(self, account: str) -> Iterator[None]:
        """Exclusive among all who sign for this account on this target below this root. Raises Busy."""
        place = self._all / ".accounts" / f"{slug(self.target)}-{slug(account)}"
        disk.make_directory(place)
        with disk.locked(place, wait_s=60.0):
            yield

    def get(self, batch: str) -> Submission | None:
        """Corrupt when it is there and unreadable: signing anew could pay twice."""
        path = self._place / f"{batch}.json"
        raw = disk.read_if_there(path, disk.SMALL_LIMIT)
        return None if raw is None else _read(raw, path)

    def put(self, submission: Submission) -> None:
        """On disk when it returns; marked as unfinished while it is."""
        disk.make_directory(self._place)
        with disk.locked(self._place):
            self._write(submission)

    def move(self, before: Submission, after: Submission) -> Submission:
        """`after` in the place of `before`; when another process was quicker, nothing, and what that one wrote."""
        if after == before:
            return after
        with disk.locked(self._place):
            now = self.get(before.batch)
            if now is not None and now != before:
                return now
            self._write(after)
        return after

    def _write(self, submission: Submission) -> None:
        mark = self._place / OPEN_MARKS / submission.batch
        if submission.unfinished and not mark.exists():
            disk.make_directory(mark.parent)
            mark.touch()
            disk.sync_directory(mark.parent)
        disk.replace(self._place / f"{submission.batch}.json", render(_document(submission)).encode())
        if not submission.unfinished:
            mark.unlink(missing_ok=True)

    def every(self) -> Iterator[Submission]:
        """In order of signing, as far as names tell."""
        if not self._place.is_dir():
            return
        for path in sorted(self._place.glob("*.json")):
            if path.name[0] != ".":
                yield read(path)

    def unfinished(self) -> list[Submission]:
        """Oldest first; a mark that a crash left behind is taken away, so that nobody looks for ever."""
        marks = self._place / OPEN_MARKS
        names = [path.name for path in marks.iterdir()] if marks.is_dir() else []
        marked = [one for one in map(self._marked, names) if one is not None]
        return sorted(marked, key=lambda one: (one.signed_at, one.batch))

    def _marked(self, batch: str) -> Submission | None:
        one = self.get(batch)
        if one is not None and one.unfinished:
            return one
        with disk.locked(self._place):  # whoever writes holds it from the mark to the submission
            one = self.get(batch)
            if one is not None and one.unfinished:
                return one
            (self._place / OPEN_MARKS / batch).unlink(missing_ok=True)
        return None

    def open(self) -> list[Submission]:
        """Those that are not settled, oldest first."""
        return [one for one in self.unfinished() if one.phase in OPEN]


def read(path: Path) -> Submission:
    """Raises Corrupt, OSError."""
    return _read(disk.read(path, disk.SMALL_LIMIT), path)


def _document(submission: Submission) -> Document:
    plain = asdict(submission)
    return with_digest({**plain, "phase": str(submission.phase), "earlier": list(plain["earlier"])})


def _read(raw: bytes, path: Path) -> Submission:
    document = load(raw)
    if isinstance(document, str) or not digest_holds(document) or not is_hash(document.get("root")):
        raise Corrupt(f"{path} was changed or cut short", hint="restore it: it says what was sent already")
    values = {key: value for key, value in document.items() if key != "digest"}
    try:
        values |= {"phase": Phase(values["phase"]), "earlier": tuple(Signed(**one) for one in values["earlier"])}
        return Submission(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path} is of another format: {error}") from None
