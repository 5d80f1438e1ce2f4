"""The hash chain of a job's journal rows: what a row's hash covers, and what a broken chain proves."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

START = "0" * 64
"""What the first row of every job follows."""


@dataclass(frozen=True, slots=True)
class Row:
    """One journal row; `body` is canonical JSON and all that counts, the other columns only index it."""

    job: str
    seq: int
    kind: str
    body: str
    prev: str
    hash: str


@dataclass(frozen=True, slots=True)
class Segment:
    """Rows that retention removed: `first`..`last`, the first one following `prev`, the last one hashed `head`."""

    job: str
    first: int
    last: int
    prev: str
    head: str


@dataclass(frozen=True, slots=True)
class Link:
    """Where a job's chain stands after its newest row."""

    seq: int = 0
    hash: str = START


def digest(prev: str, job: str, seq: int, kind: str, body: str) -> str:
    return hashlib.sha256(f"{prev}\n{job!a}\n{seq}\n{kind}\n{body}".encode("utf-8", "backslashreplace")).hexdigest()


def next_row(link: Link, job: str, kind: str, body: str) -> Row:
    seq = link.seq + 1
    return Row(job, seq, kind, body, link.hash, digest(link.hash, job, seq, kind, body))


def check(job: str, segments: Iterable[Segment], rows: Iterable[Row], end: Link | None) -> list[str]:
    """One line per finding; `end` is where the journal says the chain stands. Segments and rows rise."""
    name = job or "the program's own notes"
    link, findings = _check_segments(name, segments)
    for row in rows:
        if row.seq != link.seq + 1:
            findings.append(f"{name}: rows {link.seq + 1} to {row.seq - 1} are missing")
        elif row.prev != link.hash:
            findings.append(f"{name}: row {row.seq} does not follow row {link.seq}")
        if digest(row.prev, row.job, row.seq, row.kind, row.body) != row.hash:
            findings.append(f"{name}: row {row.seq} was edited")
        link = Link(row.seq, row.hash)
    if end is None or end != link:
        stands = "nowhere" if end is None else f"at row {end.seq}"
        findings.append(f"{name}: the chain ends at row {link.seq}, but the journal says it stands {stands}")
    return findings


def _check_segments(name: str, segments: Iterable[Segment]) -> tuple[Link, list[str]]:
    link, findings = Link(), []
    for segment in segments:
        if (segment.first, segment.prev) != (link.seq + 1, link.hash) or segment.last < segment.first:
            findings.append(f"{name}: the record of pruned rows {segment.first} to {segment.last} does not fit")
        link = Link(segment.last, segment.head)
    return link, findings
