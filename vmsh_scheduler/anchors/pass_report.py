"""What one pass over a book tells logs and metrics: what stands in it, what moved, what went wrong."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice

from vmsh_scheduler.anchors.submission import UNMINED, Book, Phase, Submission
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import SchedulerError

LISTED = 50
"""So many of a kind are told one by one: of a result line beyond 64 KiB the daemon keeps both ends, and reads none."""
PASS_S = 120.0
"""Nothing slow is begun later than this: a pass that is killed at its time limit tells nothing."""
_WARNINGS, _WARNING = 20, 300


@dataclass(slots=True)
class Moves:
    """Each as it is noted: no later pass finds again that a block is gone."""

    book: Book
    _every: list[Document] = field(default_factory=list)
    _last: Submission | None = None

    @contextmanager
    def of(self, before: Submission) -> Iterator[None]:
        """A failure within it (a directory that is not synced, a node that refuses) may come after the write; then the
        book says what moved."""
        self._last = before
        try:
            yield
        except (SchedulerError, OSError):
            with suppress(SchedulerError, OSError):
                self.note(self.book.get(before.batch) or self._last)
            raise

    def note(self, after: Submission) -> None:
        if self._last is not None and after.place != self._last.place:
            self._every.append(after.moved(self._last, after.changed_at))
        self._last = after

    def told(self) -> Document:
        """{changed, unlisted}: what only went deeper comes last; what is not listed is told by its sums."""
        moves = sorted(self._every, key=lambda moved: moved["was"] == moved["now"])
        rest = moves[LISTED:]
        return {"changed": moves[:LISTED], **({"unlisted": _summed(rest)} if rest else {})}


def standing(
    book: Book, target: str, now: int, alarm_after_s: float, row: Callable[[Submission], Document]
) -> Document:
    """{status, target, phases, open, oldest_open_s} as the book has it; and {code, overdue, late} where something is in
    no block for `alarm_after_s`."""
    left, phases = book.standing()
    oldest = max((one.age(now) for one in left), default=0)
    about = {"status": "ok", "target": target, "phases": phases, "open": len(left), "oldest_open_s": oldest}
    late = [one for one in left if one.phase in UNMINED and one.age(now) > alarm_after_s]
    overdue = [{"batch": one.batch, "namespace": one.namespace, **row(one)} for one in late[:LISTED]]
    return {**about, "code": "overdue", "overdue": overdue, "late": len(late)} if late else about


def said(warnings: Iterable[str]) -> list[str]:
    """As many as there is room for."""
    return [text[:_WARNING] for text in islice(warnings, _WARNINGS)]


def _summed(moves: list[Document]) -> Document:
    lost, final = _to(Phase.REORGED, moves), _to(Phase.FINAL, moves)
    return {"moves": len(moves), "reorged": len(lost), "final": len(final), "final_s": sum(m["seconds"] for m in final)}


def _to(phase: Phase, moves: list[Document]) -> list[Document]:
    return [moved for moved in moves if moved["now"] == phase != moved["was"]]
