"""scheduler.db: exactly the logged rows, provably untouched, and never in the way of scheduling."""

import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.contract.world import NOW, FixedClock, decision, execution, run
from tests.support.daemon import PATIENCE_S
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import DAY, HOUR
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import database, journal
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.journal import JournalReader
from vmsh_scheduler.stores.local.records import Position, read_tail
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.stores.local.store import LocalStore, open_store

DATA = Path(__file__).parents[1] / "data" / "state"


def reader(tmp_path: Path) -> JournalReader:
    return JournalReader(open_directory(tmp_path / "scheduler.json", create=False))


def edit(tmp_path: Path, *statements: str) -> None:
    connection = sqlite3.connect(tmp_path / "scheduler.db")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


async def fill(store: LocalStore, numbers: Sequence[int], job_id: str = "a/b") -> None:
    for n in numbers:
        note = Note("resume", NOW + n, job_id)
        await store.states.apply([Change(job_id, JobState(), (decision(job_id, n),), execution(job_id, n), (note,))])


async def filled(tmp_path: Path, count: int = 10) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, range(count))
    await store.close()


async def test_rows_arrive_within_a_second_by_themselves(tmp_path: Path) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, range(5))
    deadline = time.monotonic() + 60
    beside = reader(tmp_path)
    while len(beside.decisions()) < 5 and time.monotonic() < deadline:
        pass
    assert len(beside.executions()) == 5
    assert store.journal.trouble == ""
    await store.close()


async def test_a_job_s_rows_come_as_they_were_written_though_the_clock_stood_far_ahead_for_a_while(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, [1, 10**12, 2])
    await store.close()
    assert [row.at - NOW for row in reader(tmp_path).decisions("a/b")] == [2, 10**12, 1]
    assert [row.slot - NOW for row in reader(tmp_path).decisions("a/b", limit=1)] == [2]


async def test_no_journal_yet_is_an_empty_one(tmp_path: Path) -> None:
    beside = reader(tmp_path)
    assert (beside.decisions(), beside.notes(), beside.execution("x"), beside.verify()) == ([], [], None, [])


TAMPERINGS: list[tuple[str, list[str], str]] = [
    ("edit", ["UPDATE entries SET body = replace(body, 'due', 'cat') WHERE seq = 7"], "row 7 was edited"),
    ("kind", ["UPDATE entries SET kind = 'note' WHERE seq = 4"], "row 4 was edited"),
    ("gap", ["DELETE FROM entries WHERE seq IN (5, 6)"], "rows 5 to 6 are missing"),
    ("head", ["DELETE FROM entries WHERE seq <= 3"], "rows 1 to 3 are missing"),
    (
        "tail",
        ["DELETE FROM entries WHERE seq > 25"],
        "the chain ends at row 25, but the journal says it stands at row 30",
    ),
    ("all", ["DELETE FROM entries"], "the chain ends at row 0"),
    ("no head", ["DELETE FROM heads"], "stands nowhere"),
    (
        "swap",
        [
            "UPDATE entries SET seq = 100 WHERE seq = 3",
            "UPDATE entries SET seq = 3 WHERE seq = 4",
            "UPDATE entries SET seq = 4 WHERE seq = 100",
        ],
        "row 3 does not follow row 2",
    ),
    ("forged segment", ["INSERT INTO segments VALUES('a/b', 5, 9, '', '', 0)"], "pruned rows 5 to 9 does not fit"),
]


@pytest.mark.parametrize(("statements", "finding"), [case[1:] for case in TAMPERINGS], ids=[c[0] for c in TAMPERINGS])
async def test_tampering_is_proved(tmp_path: Path, statements: list[str], finding: str) -> None:
    await filled(tmp_path)
    assert reader(tmp_path).verify() == []
    edit(tmp_path, *statements)
    found = reader(tmp_path).verify("a/b")
    assert any(finding in line for line in found), found
    assert reader(tmp_path).verify() == found


async def test_index_columns_that_say_otherwise_than_the_row_are_found(tmp_path: Path) -> None:
    await filled(tmp_path, 2)
    edit(tmp_path, "UPDATE entries SET at = 1 WHERE seq = 1")
    assert reader(tmp_path).verify() == ["a/b: row 1 is filed under another time or run than it says"]


async def test_r6_retention_prunes_whole_segments_and_the_chain_still_holds(tmp_path: Path) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock(), keep=Retention(rows=10))
    clock = store.journal._clock
    assert isinstance(clock, FixedClock)
    for round_ in range(3):
        await fill(store, range(100 * round_, 100 * round_ + 100))
        store.journal.reached(store.states.synced)
        assert store.journal.flush()
        clock.at += HOUR
    await fill(store, [1000])
    await store.close()
    edit(tmp_path)
    beside = reader(tmp_path)
    assert len(beside.decisions(limit=1000)) < 100
    assert beside.verify() == []
    connection = sqlite3.connect(tmp_path / "scheduler.db")
    first, last = connection.execute("SELECT min(first), max(last) FROM segments").fetchone()
    connection.close()
    assert first == 1
    assert last > 250
    edit(tmp_path, "DELETE FROM segments")
    assert any(f"rows 1 to {last} are missing" in line for line in beside.verify())


async def test_r6_retention_by_size(tmp_path: Path) -> None:
    clock = FixedClock()
    store = open_store(tmp_path / "scheduler.json", clock, keep=Retention(bytes=4096))
    await fill(store, range(40))
    store.journal.reached(store.states.synced)
    assert store.journal.flush()
    clock.at += 7 * DAY
    late = replace(decision("a/b", 0), at=clock.at)
    await store.states.apply([Change("a/b", JobState(), (late,))])
    await store.close()
    left = reader(tmp_path).decisions(limit=100)
    assert left[0] == late
    assert len(left) < 40, "all but the newest"
    assert reader(tmp_path).verify() == []


async def test_a_lost_journal_is_refilled_from_the_logs_exactly_once(tmp_path: Path) -> None:
    await filled(tmp_path)
    remove(tmp_path)
    for _ in range(2):
        await open_store(tmp_path / "scheduler.json", FixedClock()).close()
        assert len(reader(tmp_path).decisions()) == 10
        assert reader(tmp_path).verify() == []


async def test_rows_a_crash_kept_out_are_taken_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Journal and states of one directory, closed without their rows, as kill -9 leaves them; no thread of the dead
    writes beside the next start."""
    monkeypatch.setattr(journal, "GATHER_S", PATIENCE_S)
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, range(4))
    store.journal.reached(store.states.synced)
    store.journal.flush()
    await fill(store, range(4, 8))
    await store.states.close()
    store.lock.close()
    again = open_store(tmp_path / "scheduler.json", FixedClock())
    await again.close()
    assert [row.at - NOW for row in reader(tmp_path).decisions()] == [7, 6, 5, 4, 3, 2, 1, 0]
    store.journal.close()
    assert len(reader(tmp_path).decisions()) == 8


def remove(tmp_path: Path) -> None:
    for name in ("scheduler.db", "scheduler.db-wal", "scheduler.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)


def remove_the_log_alone(tmp_path: Path) -> None:
    """SQLite's own: what goes on into it nobody else would ever see."""
    (tmp_path / "scheduler.db-wal").unlink()


def put_a_copy_in_place(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "scheduler.db")) as here, closing(sqlite3.connect(tmp_path / "new")) as new:
        here.backup(new)
    remove(tmp_path)
    (tmp_path / "new").rename(tmp_path / "scheduler.db")


@pytest.mark.parametrize("take_away", [remove, remove_the_log_alone, put_a_copy_in_place])
async def test_a_journal_that_is_taken_away_meanwhile_is_begun_anew(
    tmp_path: Path, take_away: Callable[[Path], None]
) -> None:
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    for n in range(3):
        await fill(store, [n])
        assert store.journal.flush()
    assert store.troubles() == ()
    take_away(tmp_path)
    await fill(store, [3])
    assert store.journal.flush()
    assert [row.at - NOW for row in reader(tmp_path).decisions()] == [3, 2, 1, 0]
    assert reader(tmp_path).verify() == []
    assert [line for line in store.troubles() if "scheduler.db was taken away" in line]
    await fill(store, [4])
    await store.close()
    assert len(store.journal.findings) == 1
    assert [row.at - NOW for row in reader(tmp_path).decisions()] == [4, 3, 2, 1, 0]
    assert reader(tmp_path).verify() == []


async def test_a_journal_that_is_gone_is_a_finding_unless_nothing_was_ever_written(tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_bytes((DATA / "v0.json").read_bytes())
    assert reader(tmp_path).verify() == [], "the original's file: it has no journal"
    (tmp_path / "scheduler.json").unlink()
    await filled(tmp_path)
    remove(tmp_path)
    (finding,) = reader(tmp_path).verify()
    assert f"{tmp_path / 'scheduler.db'} is gone" in finding
    await open_store(tmp_path / "scheduler.json", FixedClock()).close()
    assert reader(tmp_path).verify() == []


async def test_a_gap_that_an_older_journal_put_back_leaves_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logs that held the rows between are gone; those that are left are taken."""
    monkeypatch.setattr("vmsh_scheduler.stores.local.log.LogFile.__init__.__kwdefaults__", {"rotate_at": 400})
    await filled(tmp_path, 2)
    older = (tmp_path / "scheduler.db").read_bytes()
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    for n in range(2, 6):
        await fill(store, [n])
        assert store.journal.flush()
        await store.states.save()
    await store.close()
    assert store.troubles() == ()
    remove(tmp_path)
    (tmp_path / "scheduler.db").write_bytes(older)
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    assert store.journal.flush()
    await fill(store, [6])
    await store.close()
    (finding,) = store.troubles()
    assert re.fullmatch(r"scheduler\.db lacks rows: scheduler\.\d+\.wal is missing", finding)
    assert [row.at - NOW for row in reader(tmp_path).decisions()] == [6, 5, 1, 0]
    assert reader(tmp_path).verify() == []


def trash(path: Path) -> None:
    path.write_bytes(b"this is no database" * 500)


def scramble(path: Path) -> None:
    edit(path.parent, "DROP TABLE heads")


def head_is_behind(path: Path) -> None:
    edit(path.parent, "UPDATE heads SET seq = 1")


@pytest.mark.parametrize("damage", [trash, scramble, head_is_behind])
async def test_a_damaged_journal_is_kept_beside_and_begun_anew(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    await filled(tmp_path)
    damage(tmp_path / "scheduler.db")
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, [20])
    await store.close()
    assert any("kept as scheduler.db.corrupt-" in line for line in store.journal.findings)
    assert [row.at - NOW for row in reader(tmp_path).decisions(limit=3)] == [20, 9, 8]
    assert reader(tmp_path).verify() == []
    assert len([name for name in open_directory(tmp_path / "scheduler.json").names() if "db.corrupt-" in name]) == 1


async def test_a_reader_says_what_is_wrong_with_a_damaged_journal(tmp_path: Path) -> None:
    await filled(tmp_path)
    trash(tmp_path / "scheduler.db")
    with pytest.raises(StateUnreadable, match=r"scheduler.db cannot be read"):
        reader(tmp_path).decisions()


async def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    await filled(tmp_path)
    edit(tmp_path, "INSERT INTO migrations VALUES(99, 'later', 0)")
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, [20])
    assert not store.journal.flush()
    assert "newer version" in store.journal.trouble
    assert store.troubles()
    await store.close()
    assert store.directory.stem == "scheduler"
    assert len(reader(tmp_path).decisions(limit=100)) == 10


async def test_logs_wait_for_a_journal_in_trouble(tmp_path: Path) -> None:
    await filled(tmp_path)
    edit(tmp_path, "INSERT INTO migrations VALUES(99, 'later', 0)")
    for n in range(3):
        store = open_store(tmp_path / "scheduler.json", FixedClock())
        await fill(store, [100 + n])
        await store.close()
    edit(tmp_path, "DELETE FROM migrations WHERE number = 99")
    await open_store(tmp_path / "scheduler.json", FixedClock()).close()
    assert [row.at - NOW for row in reader(tmp_path).decisions(limit=4)] == [102, 101, 100, 9]


async def test_a_journal_ahead_of_the_log_goes_on_from_its_end(tmp_path: Path) -> None:
    await filled(tmp_path)
    edit(tmp_path, "UPDATE position SET gen = 99")
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, [50])
    await store.close()
    assert any("goes on from the log's end" in line for line in store.journal.findings)
    assert [row.at - NOW for row in reader(tmp_path).decisions(limit=2)] == [50, 9]
    assert store.journal.taken > Position(1, 0)


HOSTILE: tuple[Change, ...] = (
    Change(
        "a/b", JobState(), (decision("a/b", 1),), execution("a/b", 1), (Note("resume", NOW, "a/b"), Note("config", NOW))
    ),
    Change("\ud800/ä", JobState(), (decision("\ud800/ä", 2),), execution("\ud800/ä", 2)),
    Change(
        "a/b",
        JobState(),
        (replace(decision("a/b", 3), count=4, step=1000, run_id="r\n", inputs={"z": {"b": 1, "a": float("nan")}}),),
        replace(
            execution("a/b", 3),
            outcome=Outcome(
                Status.FAILED, ErrorClass.NETWORK, "exit", "\x00\u2028", 3, "\ud800", 9, {"b": [1.5], "a": {}}
            ),
            run=replace(run("a/b", 3), recorded=True, previous="unknown", boot_id=""),
        ),
    ),
    Change("gone", None, notes=(Note("removed", NOW, "gone", {"y": 1, "x": "\udfff"}),)),
)


def rows(tmp_path: Path) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(tmp_path / "scheduler.db")
    found = connection.execute("SELECT * FROM entries ORDER BY job, seq").fetchall()
    connection.close()
    return found


@pytest.mark.parametrize("cap", [1 << 20, 0])
async def test_rows_out_of_memory_are_those_of_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cap: int
) -> None:
    """Whatever is in them, and also where nothing may wait in memory: refilled from the logs they are the same."""
    monkeypatch.setattr(journal, "HANDED_CAP", cap)
    read = []
    monkeypatch.setattr(journal, "read_tail", lambda *args: read.append(1) or read_tail(*args))
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    assert store.journal.flush()
    read.clear()
    for change in HOSTILE:
        await store.states.apply([change])
        assert store.journal.flush()
    assert bool(read) == (cap == 0)
    await store.close()
    told = rows(tmp_path)
    assert len(told) == 9
    remove(tmp_path)
    await open_store(tmp_path / "scheduler.json", FixedClock()).close()
    assert rows(tmp_path) == told
    assert reader(tmp_path).verify() == []


async def test_what_a_database_that_was_away_missed_is_read_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was handed over while nothing could be written is gone from memory, never from the journal."""
    store = open_store(tmp_path / "scheduler.json", FixedClock())
    await fill(store, range(3))
    assert store.journal.flush()
    with monkeypatch.context() as broken:
        broken.setattr(database, "store", away)
        await fill(store, range(3, 6))
        assert not store.journal.flush()
    await fill(store, range(6, 9))
    assert store.journal.flush()
    await store.close()
    assert [row.at - NOW for row in reader(tmp_path).decisions()] == [8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert reader(tmp_path).verify() == []


def away(*_: object) -> int:
    raise sqlite3.OperationalError("database is locked")
