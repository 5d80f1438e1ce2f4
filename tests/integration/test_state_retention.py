"""What retention takes from scheduler.db, how much at once, and what it leaves."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.world import NOW, FixedClock
from tests.integration.test_state_journal import edit, fill, reader
from tests.support.world import ToldClock
from vmsh_scheduler.domain.trigger import DAY, HOUR
from vmsh_scheduler.stores.local import database, journal, retention
from vmsh_scheduler.stores.local.database import connect_writer
from vmsh_scheduler.stores.local.directory import StateDirectory, open_directory
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.stores.local.store import LocalStore, open_store

AGENT = "_agents/anon/a"


def records(tmp_path: Path) -> list[tuple[int, int]]:
    """First and last row of each record of pruned ones."""
    connection = sqlite3.connect(tmp_path / "scheduler.db")
    found = connection.execute("SELECT first, last FROM segments ORDER BY first").fetchall()
    connection.close()
    return found


async def lived(tmp_path: Path, job: str, rounds: int, keep: Retention) -> None:
    """300 rows an hour, and a look at what has to go after each."""
    clock = FixedClock()
    store = open_store(tmp_path / "scheduler.json", clock, keep=keep)
    for round_ in range(rounds):
        await fill(store, range(100 * round_, 100 * round_ + 100), job)
        taken(store)
        clock.at += HOUR
    await store.close()


def taken(store: LocalStore) -> None:
    store.journal.reached(store.states.synced)
    assert store.journal.flush()


async def test_r6_what_went_of_a_cadence_is_recorded_segment_by_segment(tmp_path: Path) -> None:
    await lived(tmp_path, "a/b", 4, Retention(rows=10))
    found = records(tmp_path)
    assert len(found) >= 2
    assert [first for first, _ in found] == [1, *(last + 1 for _, last in found[:-1])]
    assert reader(tmp_path).verify() == []


async def test_r6_one_record_of_an_agent_counts_on(tmp_path: Path) -> None:
    """Thousands of them fire every few seconds: a record for each segment would outgrow every cap."""
    await lived(tmp_path, AGENT, 4, Retention(rows=10))
    ((first, last),) = records(tmp_path)
    assert first == 1
    assert last > 800
    assert reader(tmp_path).verify() == []
    edit(tmp_path, "UPDATE segments SET last = last - 1")
    assert reader(tmp_path).verify() == [f"{AGENT}: rows {last} to {last} are missing"]


async def test_r6_a_record_that_was_edited_is_not_counted_on(tmp_path: Path) -> None:
    await lived(tmp_path, AGENT, 2, Retention(rows=10))
    edit(tmp_path, "UPDATE segments SET head = prev")
    await lived(tmp_path, AGENT, 2, Retention(rows=10))
    assert any("pruned rows" in line for line in reader(tmp_path).verify())


def looks(root: Path) -> list[int]:
    """Rows that are left after each look but the last."""
    left = []
    with closing(connect_writer(open_directory(root / "scheduler.json"), NOW)) as connection:
        while not retention.prune(connection, Retention(rows=10), NOW):
            left.append(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
    return left


async def test_r6_much_goes_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New rows wait while old ones go, so each look takes few."""
    await lived(tmp_path, "a/b", 4, Retention())
    monkeypatch.setattr(retention, "AT_ONCE", 300)
    assert looks(tmp_path) == [900, 600, 300]
    assert reader(tmp_path).verify() == []


async def test_r6_the_rest_goes_with_the_next_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await lived(tmp_path, "a/b", 4, Retention())
    monkeypatch.setattr(retention, "AT_ONCE", 300)
    store = open_store(tmp_path / "scheduler.json", FixedClock(), keep=Retention(rows=10))
    for n in range(5):
        await fill(store, [1000 + n])
        taken(store)
    await store.close()
    assert len(reader(tmp_path).decisions(limit=1000)) < 100


async def test_r6_a_file_that_is_mostly_empty_shrinks(tmp_path: Path) -> None:
    await lived(tmp_path, "a/b", 4, Retention())
    before = (tmp_path / "scheduler.db").stat().st_size
    await lived(tmp_path, "a/b", 2, Retention(bytes=before // 8))
    assert (tmp_path / "scheduler.db").stat().st_size < before // 2
    assert reader(tmp_path).verify() == []


async def days(store: LocalStore, clock: ToldClock, count: int) -> None:
    """Three rows a day, and a look at what has to go after each."""
    for _ in range(count):
        await fill(store, [clock.wall - NOW])
        taken(store)
        clock.move(DAY)


def kept(tmp_path: Path) -> list[int]:
    """Days since the first one, newest first, of the decisions that are left."""
    return [(row.at - NOW) // DAY for row in reader(tmp_path).decisions("a/b", limit=1000)]


async def test_r6_what_is_old_goes_a_day_at_a_time(tmp_path: Path) -> None:
    clock = ToldClock(NOW)
    store = open_store(tmp_path / "scheduler.json", clock, keep=Retention(days=5))
    await days(store, clock, 7)
    assert records(tmp_path) == []
    await days(store, clock, 20)
    await store.close()
    assert len(records(tmp_path)) == 10, "two days each"
    assert kept(tmp_path) == [26, 25, 24, 23, 22, 21, 20]
    assert reader(tmp_path).verify() == []


async def test_r6_what_is_left_of_a_job_that_runs_no_more_goes_too(tmp_path: Path) -> None:
    """Also where no other job's rows reach back so far: all of them are of today."""
    clock = ToldClock(NOW)
    store = open_store(tmp_path / "scheduler.json", clock, keep=Retention(rows=10, days=5))
    await fill(store, [0, 1, 2])
    for _ in range(10):
        for n in range(90):
            await fill(store, [clock.wall - NOW + n], "busy/fast")
        taken(store)
        clock.move(DAY)
    await store.close()
    assert kept(tmp_path) == []
    assert reader(tmp_path).verify() == []


async def test_r6_a_journal_of_before_days_were_counted_goes_on(tmp_path: Path) -> None:
    clock, keep = ToldClock(NOW), Retention(days=5)
    store = open_store(tmp_path / "scheduler.json", clock, keep=keep)
    await days(store, clock, 7)
    await store.close()
    edit(tmp_path, "DROP TABLE days", "DELETE FROM migrations WHERE number = 2")
    store = open_store(tmp_path / "scheduler.json", clock, keep=keep)
    await days(store, clock, 2)
    await store.close()
    assert kept(tmp_path) == [8, 7, 6, 5, 4, 3, 2]
    assert reader(tmp_path).verify() == []


@pytest.mark.parametrize("ahead", [40 * DAY, 365 * DAY, 36_500 * DAY])
@pytest.mark.parametrize("lived", [5, 20, 21])
@pytest.mark.parametrize("one_shot", [False, True])
async def test_t1_hours_with_a_clock_far_ahead_cost_no_history(
    tmp_path: Path, ahead: int, lived: int, one_shot: bool
) -> None:
    """One life, or a start every hour; the clock is right before and afterwards."""
    clock, keep = ToldClock(NOW), Retention(days=5)
    store = open_store(tmp_path / "scheduler.json", clock, keep=keep)
    await days(store, clock, lived)
    clock.step(ahead)
    for _ in range(12):
        await fill(store, [clock.wall - NOW])
        taken(store)
        clock.move(HOUR)
        if one_shot:
            await store.close()
            store = open_store(tmp_path / "scheduler.json", clock, keep=keep)
    clock.step(-ahead)
    await fill(store, [clock.wall - NOW])
    taken(store)
    await store.close()
    assert [day for day in kept(tmp_path) if lived - 5 <= day < lived] == list(range(lived - 1, lived - 6, -1))
    assert reader(tmp_path).verify() == []


async def test_t1_a_clock_that_was_ahead_many_times_costs_no_history_once_it_is_right(tmp_path: Path) -> None:
    clock = ToldClock(NOW)
    store = open_store(tmp_path / "scheduler.json", clock, keep=Retention(days=5))
    await days(store, clock, 5)
    for ahead in range(40 * DAY, 60 * DAY, DAY):
        clock.step(ahead)
        await fill(store, [clock.wall - NOW])
        clock.step(-ahead)
    clock.move(HOUR)
    taken(store)
    await store.close()
    assert records(tmp_path) == []


async def test_t2_a_clock_that_was_behind_ends_no_retention(tmp_path: Path) -> None:
    """Rows that it dated count as one day more; what is older than the days to keep goes as before."""
    clock = ToldClock(NOW)
    store = open_store(tmp_path / "scheduler.json", clock, keep=Retention(days=5))
    clock.step(-400 * DAY)
    await fill(store, [clock.wall - NOW])
    clock.step(400 * DAY)
    await days(store, clock, 20)
    await store.close()
    assert kept(tmp_path) == [19, 18, 17, 16, 15, 14, 13, 12]


async def test_t1_a_row_that_a_clock_ahead_dated_keeps_no_older_ones(tmp_path: Path) -> None:
    """It is as old as the next row that can be right, also where it is a job's first."""
    clock = ToldClock(NOW)
    store = open_store(tmp_path / "scheduler.json", clock, keep=Retention(days=5))
    clock.step(900 * DAY)
    await fill(store, [clock.wall - NOW])
    clock.step(-900 * DAY)
    await days(store, clock, 20)
    await store.close()
    assert kept(tmp_path) == [19, 18, 17, 16, 15, 14]
    assert reader(tmp_path).verify() == []


@pytest.mark.parametrize("behind", [400 * DAY, 900 * DAY])
async def test_t2_two_clocks_that_were_behind_cost_no_history(tmp_path: Path, behind: int) -> None:
    """By the second one everything that is right lies ahead, and what the first one dated is old."""
    clock = ToldClock(NOW)
    store = open_store(tmp_path / "scheduler.json", clock, keep=Retention(days=5))
    await days(store, clock, 7)
    clock.step(-behind)
    await fill(store, [clock.wall - NOW])
    clock.step(behind - 300 * DAY)
    clock.move(HOUR)
    await fill(store, [clock.wall - NOW])
    taken(store)
    clock.step(300 * DAY)
    await fill(store, [clock.wall - NOW])
    await store.close()
    assert records(tmp_path) == []


async def test_t1_a_clock_that_is_set_is_no_reason_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of elapsed time is, whatever the clock says meanwhile."""
    looks: list[int] = []
    monkeypatch.setattr(journal, "prune", lambda *args: looks.append(args[2]) or True)
    clock = ToldClock(NOW)
    store = open_store(tmp_path / "scheduler.json", clock)
    for by, elapsed in ((0, 0), (40 * DAY, 0), (-40 * DAY, HOUR - 1), (-2 * HOUR, 1), (0, HOUR - 1)):
        clock.step(by)
        clock.move(elapsed)
        await fill(store, [0])
        taken(store)
    assert looks == [NOW, NOW - HOUR]
    await store.close()


async def test_r6_a_look_at_the_chain_while_rows_go_finds_nothing_amiss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go, and their record comes, when the records were read and the rows are about to be."""
    await lived(tmp_path, "a/b", 2, Retention())
    connect = database.connect_reader
    pruned: list[bool] = []

    def prune(statement: str) -> None:
        if statement.startswith("SELECT job, seq, kind"):
            with closing(connect_writer(open_directory(tmp_path / "scheduler.json"), NOW)) as beside:
                pruned.append(retention.prune(beside, Retention(rows=10), NOW))

    def traced(directory: StateDirectory) -> sqlite3.Connection | None:
        connection = connect(directory)
        if connection is not None:
            connection.set_trace_callback(prune)
        return connection

    monkeypatch.setattr(database, "connect_reader", traced)
    assert reader(tmp_path).verify() == []
    assert pruned == [True]
    assert records(tmp_path) != []


async def test_r6_no_look_takes_more_than_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of many jobs, whose rows go together."""
    for job in ("a/b", "c/d", "e/f"):
        await lived(tmp_path, job, 3, Retention())
    monkeypatch.setattr(retention, "AT_ONCE", 1000)
    assert looks(tmp_path) == [1700, 700]
    assert reader(tmp_path).verify() == []
