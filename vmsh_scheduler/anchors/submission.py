"""The book of what was signed: written before it is sent, one file per batch and target, below `out/submissions`.

After a crash the same bytes are sent again, so no batch is paid for twice (spec vaultmesh section 18)."""

import errno
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, get_origin

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.chain import Anchor, Seen, Signed
from vmsh_scheduler.anchors.failures import Corrupt, Invalid
from vmsh_scheduler.domain.batch import (
    OPEN_MARKS,
    Document,
    digest_holds,
    hash_bytes,
    is_hash,
    is_id,
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


_RESTORE = "restore it: it says what was sent already"
_HEX = re.compile(r"(0x)?([0-9a-fA-F]{2})*")
_DETAILS: Mapping[str, type] = {
    **dict.fromkeys(("contract", "memo", "sender", "blockHash", "merkleRoot", "file"), str),
    **dict.fromkeys(("gas", "maxFeePerGas", "maxPriorityFeePerGas", "fee", "vsize", "stamped_at", "asked_at"), int),
    "persist": bool,
    "checked": bool,
    "calendars": list,
}
"""Of every rail, where they are there; what is not named here is compared at most."""
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
    members: tuple[tuple[str, str], ...] = ()
    """Of a super-batch: id and root of each that it covers. Empty = a batch by itself, or an entry from before this
    was written down."""

    @property
    def unfinished(self) -> bool:
        """Not settled, or settled and a crash came before the receipts said so."""
        return self.phase in OPEN or (not self.told and self.phase is not Phase.LOST)

    @property
    def place(self) -> tuple[object, ...]:
        """What moves: neither when it was looked at last nor what the receipts say of it."""
        return self.tx, self.phase, self.depth, self.block_hash

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

    def age(self, at: int) -> int:
        """Seconds; what a clock that was ahead for a while dated into the future is no younger for that."""
        return abs(at - self.signed_at)

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
        self.damaged: dict[str, Corrupt] = {}
        """By batch, those of its files that this book came upon and could not read. They stay where they are: nobody
        knows what was paid for with them."""

    @contextmanager
    def signing(self) -> Iterator[None]:
        """Exclusive among all who sign for this target below this root, with whatever key: two with a key each would
        both find that nobody has paid, and use no nonce twice. Raises Busy."""
        place = self._all / ".signing" / slug(self.target)
        disk.make_directory(place)
        with disk.locked(place, wait_s=60.0):
            yield

    def get(self, batch: str) -> Submission | None:
        """Corrupt when it is there and unreadable: signing anew could pay twice."""
        path = self._place / f"{batch}.json"
        try:
            one = read(path)
        except FileNotFoundError:
            return None
        if (one.target, one.batch) != (self.target, batch):
            raise Corrupt(f"{path} lies in the wrong place: it is of {one.batch} at {one.target}", hint=_RESTORE)
        return one

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
        if submission.unfinished:
            self._mark(submission.batch)
        disk.replace(self._place / f"{submission.batch}.json", render(_document(submission)).encode())
        if not submission.unfinished:
            (self._place / OPEN_MARKS / submission.batch).unlink(missing_ok=True)

    def _mark(self, batch: str) -> None:
        mark = self._place / OPEN_MARKS / batch
        if not mark.exists():
            disk.make_directory(mark.parent)
            mark.touch()
            disk.sync_directory(mark.parent)

    def every(self) -> Iterator[Submission]:
        """In order of signing, as far as names tell; without those that are `damaged`."""
        for batch in self.batches():
            one = self._readable(batch)
            if one is not None:
                yield one

    def batches(self) -> list[str]:
        """All that something was signed for, as file names tell."""
        return sorted(path.stem for path in self._place.glob("*.json") if path.name[0] != ".")

    def standing(self) -> tuple[list[Submission], dict[str, int]]:
        """Those that are not settled, and how many there are of each phase; a person has to look at `damaged` ones.
        An unfinished one that lost its mark gets one, for the next pass."""
        every = list(self.every())
        for one in every:
            with suppress(OSError):  # a full disk: who asks wants to know all the same
                if one.unfinished:
                    self._mark(one.batch)
        phases = Counter(str(one.phase) for one in every)
        if self.damaged:
            phases[str(Phase.FAULTY)] += len(self.damaged)
        return [one for one in every if one.phase in OPEN], dict(phases)

    def complaints(self) -> list[str]:
        """Of all that are `damaged`."""
        return [f"batch {batch}: {error}" for batch, error in self.damaged.items()]

    def _readable(self, batch: str) -> Submission | None:
        try:
            return self.get(batch)
        except Corrupt as error:
            self.damaged[batch] = error
        return None

    def unfinished(self) -> list[Submission]:
        """Oldest first, without those that are `damaged`; a mark that a crash left behind is taken away, so that
        nobody looks for ever."""
        marks = self._place / OPEN_MARKS
        if not marks.is_dir():
            self._mark_anew(marks)
        names = [path.name for path in marks.iterdir()] if marks.is_dir() else []
        marked = [one for one in map(self._marked, names) if one is not None]
        return sorted(marked, key=lambda one: (one.signed_at, one.batch))

    def _mark_anew(self, marks: Path) -> None:
        """A copy without its dotfiles: without marks, what is open in it would be paid for again."""
        if every := list(self.every()):
            disk.make_directory(marks)
        for one in every:
            if one.unfinished:
                self._mark(one.batch)

    def _marked(self, batch: str) -> Submission | None:
        one = self._readable(batch)
        if one is not None and one.unfinished:
            return one
        with disk.locked(self._place):  # whoever writes holds it from the mark to the submission
            one = self._readable(batch)
            if batch in self.damaged or (one is not None and one.unfinished):
                return one
            (self._place / OPEN_MARKS / batch).unlink(missing_ok=True)
        return None

    def open(self) -> list[Submission]:
        """Those that are not settled, oldest first."""
        return [one for one in self.unfinished() if one.phase in OPEN]


def read(path: Path) -> Submission:
    """Raises Corrupt where trying again does not help, else OSError."""
    try:
        return _read(disk.read(path, disk.BATCH_LIMIT), path)  # it lists as many members as a batch file
    except Corrupt:
        raise
    except Invalid as error:
        raise Corrupt(error.message, hint=_RESTORE) from None
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise Corrupt(f"{path} cannot be read: {error.strerror}", hint=_RESTORE) from None


def _document(submission: Submission) -> Document:
    plain, members = asdict(submission), [list(one) for one in submission.members]
    return with_digest({**plain, "phase": str(submission.phase), "earlier": list(plain["earlier"]), "members": members})


def _read(raw: bytes, path: Path) -> Submission:
    document = load(raw)
    if isinstance(document, str) or not digest_holds(document) or render(document).encode() != raw:
        raise Corrupt(f"{path} was changed or cut short", hint=_RESTORE)
    if not is_hash(document.get("root")):
        raise Corrupt(f"{path} is of another format: root", hint=_RESTORE)
    values = {key: value for key, value in document.items() if key != "digest"}
    try:
        values |= {"phase": Phase(values["phase"]), "earlier": tuple(Signed(**one) for one in values["earlier"])}
        values["members"] = _members(values.get("members", []))
        found = Submission(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path} is of another format: {error}", hint=_RESTORE) from None
    wrong = _misfit(found) or next(filter(None, map(_misfit, found.earlier)), "") or _unfit_details(found)
    if wrong:
        raise Corrupt(f"{path} is of another format: {wrong}", hint=_RESTORE)
    return found


def _members(listed: object) -> tuple[tuple[str, str], ...]:
    """Raises ValueError, TypeError: read as fewer than there are, the others would be paid for again."""
    if not isinstance(listed, list):
        raise TypeError("members")
    for one in listed:
        if not isinstance(one, list) or len(one) != 2 or not is_id(one[0]) or not is_hash(one[1]):
            raise ValueError("members")
    return tuple((identity, root) for identity, root in listed)


_KINDS = {of: [(each.name, get_origin(each.type) or each.type) for each in fields(of)] for of in (Submission, Signed)}
"""Of each field; asked for once, since every file of a book is read at every pass."""


def _misfit(one: Submission | Signed) -> str:
    """Name of a field with a value of another kind; "" = none has. Its digest may fit all the same."""
    for name, kind in _KINDS[type(one)]:
        value = getattr(one, name)
        if type(value) is not kind or (kind is int and value < 0):
            return name
    if isinstance(one, Submission) and not is_id(one.batch):
        return "batch"
    return "" if _HEX.fullmatch(one.raw) else "raw"


def _unfit_details(one: Submission) -> str:
    kinds = {**_DETAILS, "nonce": str if one.target.startswith("ots:") else int}
    for details in (one.details, *(each.details for each in one.earlier)):
        for name, value in details.items():
            if type(value) is not kinds.get(name, type(value)):
                return f"details.{name}"
    return ""
