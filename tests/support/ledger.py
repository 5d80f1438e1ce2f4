"""What commands themselves wrote about their runs, and what may never be read there (docs/guarantees.md 2, 3, 6, 8)."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmsh_scheduler.domain.decision import Decision, Note
from vmsh_scheduler.domain.run import Execution, Status
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.stores.local.journal import JournalReader

EVERYTHING = 100_000

SCRIPT = """\
#!/bin/sh
# $1 ledger  $2 seconds of work  $3 fail every attempt up to this number
facts="$VMSH_RUN_ID $VMSH_IDEMPOTENCY_KEY $VMSH_ATTEMPT $VMSH_FENCE_TOKEN $$"
echo "start $facts" >> "$1"
[ "$2" = 0 ] || sleep "$2"
if [ "$VMSH_ATTEMPT" -le "${3:-0}" ]; then
    echo "fail $facts" >> "$1"
    exit 1
fi
echo "end $facts" >> "$1"
"""
"""The command that keeps the ledger. Each line is one write to a file opened with O_APPEND: its order is true."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line. `kind`: start | end | fail; `key`: job/slot."""

    kind: str
    run: str
    key: str
    attempt: int
    fence: int
    pid: int

    @property
    def job(self) -> str:
        return self.key.rpartition("/")[0]

    @property
    def slot(self) -> Millis:
        return int(self.key.rpartition("/")[2])


def read(path: Path) -> list[Entry]:
    """Every line, in the order they were written."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [_entry(*line.split(" ")) for line in lines]


def _entry(kind: str, run: str, key: str, attempt: str, fence: str, pid: str) -> Entry:
    return Entry(kind, run, key, int(attempt), int(fence), int(pid))


@dataclass
class _Job:
    """What was seen of one job up to a line."""

    open: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    attempts: dict[str, int] = field(default_factory=dict)
    newest: Millis = 0


def violations(entries: Iterable[Entry]) -> list[str]:
    """One line per thing that must not be, naming the entry that shows it; empty = all is well."""
    jobs: defaultdict[str, _Job] = defaultdict(_Job)
    runs: set[str] = set()
    found: list[str] = []
    for entry in entries:
        job = jobs[entry.job]
        if entry.kind == "start":
            complaints = [*_of_start(entry, job), *(["run started twice"] if entry.run in runs else [])]
            runs.add(entry.run)
            job.open.add(entry.run)
            job.attempts[entry.key] = max(entry.attempt, job.attempts.get(entry.key, 0))
        else:
            complaints = list(_of_end(entry, job))
            job.open.discard(entry.run)
        if entry.kind == "end":
            job.done.add(entry.key)
            job.newest = max(job.newest, entry.slot)
        found += [f"{complaint}: {entry}" for complaint in complaints]
    return found


def _of_start(entry: Entry, job: _Job) -> Iterator[str]:
    if entry.key in job.done:
        yield "started again after it had succeeded"
    elif entry.slot < job.newest:
        yield "a slot older than the newest success was started"
    if job.open:
        yield f"started while {sorted(job.open)} went on"
    if entry.attempt <= job.attempts.get(entry.key, 0):
        yield "the attempt number does not rise"


def _of_end(entry: Entry, job: _Job) -> Iterator[str]:
    if entry.run not in job.open:
        yield "an end without its start"
    if entry.kind == "end" and entry.key in job.done:
        yield "completed twice"


@dataclass(frozen=True, slots=True)
class Books:
    """The journal, all of it."""

    decisions: Sequence[Decision]
    executions: Sequence[Execution]
    notes: Sequence[Note]

    @classmethod
    def of(cls, journal: JournalReader) -> "Books":
        return cls(
            journal.decisions(limit=EVERYTHING), journal.executions(limit=EVERYTHING), journal.notes(limit=EVERYTHING)
        )


def differences(entries: Sequence[Entry], books: Books) -> list[str]:
    """Where the journal says something else than the commands did: lost and invented outcomes, unknown ones."""
    said = Counter((e.run.id, e.outcome.status) for e in books.executions)
    ended = {entry.run: entry for entry in entries if entry.kind == "end"}
    failed = {entry.run: entry for entry in entries if entry.kind == "fail"}
    started = {entry.run for entry in entries if entry.kind == "start"}
    never = {str(note.details["run"]) for note in books.notes if note.kind == "never_began"}
    return [
        *(f"written down {count} times: {run}" for (run, _), count in said.items() if count > 1),
        *(f"unknown: {run}" for run, status in said if status is Status.UNKNOWN),
        *(f"a success nobody saw: {run}" for run, status in said if status is Status.OK and run not in ended),
        *(f"a failure nobody saw: {run}" for run, status in said if status is Status.FAILED and run not in failed),
        *(f"a lost success: {entry}" for run, entry in ended.items() if (run, Status.OK) not in said),
        *(f"a lost failure: {entry}" for run, entry in failed.items() if (run, Status.FAILED) not in said),
        *(f"said to have never begun: {run}" for run in sorted(never & started)),
    ]


def gaps(books: Books, periods: Mapping[str, Millis]) -> list[str]:
    """Grid slots between the first and the last decided one that do not have exactly one decision."""
    found: list[str] = []
    for job, period in periods.items():
        slots = Counter(slot for decision in books.decisions if decision.job_id == job for slot in slots_of(decision))
        grid = range(min(slots, default=0), max(slots, default=0) + 1, period)
        found += [f"{job}/{slot} has {slots[slot]} decisions" for slot in grid if slots[slot] != 1]
        found += [f"{job}/{slot} is off the grid" for slot in slots if slot not in grid]
    return found


def slots_of(decision: Decision) -> list[Millis]:
    """Every slot that a row is about, newest first."""
    return [decision.slot - number * decision.step for number in range(decision.count)]
