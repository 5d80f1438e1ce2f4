"""What one pass over a book moved, for logs and metrics."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from vmsh_scheduler.anchors.submission import Book, Phase, Submission
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import SchedulerError

LISTED = 100
"""So many of a kind are told one by one: of a result line beyond 64 KiB the daemon keeps both ends, and reads none."""


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
        """{changed, unlisted}; what is not listed is told by its sums."""
        rest = self._every[LISTED:]
        return {"changed": self._every[:LISTED], **({"unlisted": _summed(rest)} if rest else {})}


def _summed(moves: list[Document]) -> Document:
    lost, final = _to(Phase.REORGED, moves), _to(Phase.FINAL, moves)
    return {"moves": len(moves), "reorged": len(lost), "final": len(final), "final_s": sum(m["seconds"] for m in final)}


def _to(phase: Phase, moves: list[Document]) -> list[Document]:
    return [moved for moved in moves if moved["now"] == phase != moved["was"]]
