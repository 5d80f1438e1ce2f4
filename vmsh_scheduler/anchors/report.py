"""What a verification says: one row per thing looked at."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import Exit


@dataclass(frozen=True, slots=True)
class Row:
    """`kind`: ledger, checkpoint, batch, member, file, journal, pruned, receipt, anchor, proof, memory, deployment,
    submission, nothing."""

    subject: str
    kind: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All rows; ok only if every one is."""

    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: Iterable[Row]) -> "Report":
        return cls(tuple(rows))

    @property
    def ok(self) -> bool:
        return all(row.ok for row in self.rows)

    @property
    def exit(self) -> Exit:
        return Exit.OK if self.ok else Exit.FAILED

    def to_json(self) -> Document:
        failed = sum(not row.ok for row in self.rows)
        return {"ok": self.ok, "checked": len(self.rows), "failed": failed, "rows": [asdict(row) for row in self.rows]}
