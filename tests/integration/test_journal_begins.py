"""What a kill leaves in the first moments of a state, before scheduler.db holds a journal, and who looks at it."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.world import FixedClock, decision
from tests.support.daemon import PATIENCE_S
from tests.support.statefiles import named, opened, rows
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import journal
from vmsh_scheduler.stores.local.database import connect_writer
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.store import LocalStore

ROW = decision("a/b", 1)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a journal that is not there."""
    monkeypatch.setattr(journal, "sleep", lambda _: None)


async def written(store: LocalStore) -> None:
    await store.states.apply([Change("a/b", JobState(), (ROW,))])


async def killed(where: Path, *, row: bool, saved: bool = False) -> Path:
    """State and log of a first start, with a row or without, as they were before the journal was begun. `saved`: that
    took longer than the next snapshot."""
    store = opened(where / "whole")
    await store.states.raise_fence(1)
    if row:
        await written(store)
    if saved:
        await store.states.save()
    left = where / "left"
    left.mkdir(mode=0o700)
    for path in [*named(where / "whole", "scheduler.json*"), *named(where / "whole", "*.wal")]:
        shutil.copy(path, left)
    await store.close()
    return left


def no_file(path: Path) -> None:
    assert not path.exists()


def no_byte(path: Path) -> None:
    path.touch(mode=0o600)


def half_a_page(path: Path) -> None:
    """The first page is written, and the rollback journal that would take it back is still there."""
    beside = path.with_name(f"{path.name}-journal")
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # what it begins with is whole at once, not by a sync
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE half(made)")
        hot = beside.read_bytes()
        connection.execute("ROLLBACK")
        connection.execute("PRAGMA journal_mode = WAL")
    assert hot[0], "SQLite would pass over it"
    beside.write_bytes(hot)


def no_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("begun", [no_file, no_byte, half_a_page, no_table])
async def test_a_journal_that_a_kill_kept_from_beginning_is_not_missed_and_begins_with_the_next_start(
    tmp_path: Path, begun: Callable[[Path], None], saved: bool
) -> None:
    left = await killed(tmp_path, row=False, saved=saved)
    begun(left / "scheduler.db")
    assert (rows(left).decisions(), rows(left).verify()) == ([], [])
    store = opened(left)
    await written(store)
    await store.close()
    assert (rows(left).decisions(), rows(left).verify()) == ([ROW], [])
    assert store.troubles() == ()


@pytest.mark.parametrize(
    ("begun", "finding"),
    [(no_file, "is gone"), (no_byte, "is empty"), (half_a_page, "is empty"), (no_table, "is empty")],
)
@pytest.mark.parametrize("saved", [False, True])
async def test_a_row_that_is_in_no_journal_is_missed_however_young_the_state_is(
    tmp_path: Path, begun: Callable[[Path], None], finding: str, saved: bool
) -> None:
    """Whether the journal had it no file tells; the log has it, and the next start takes it from there."""
    left = await killed(tmp_path, row=True, saved=saved)
    begun(left / "scheduler.db")
    assert rows(left).decisions() == []
    assert rows(left).verify() == [f"{left / 'scheduler.db'} {finding}; the daemon begins it anew from the logs"]
    await opened(left).close()
    assert (rows(left).decisions(), rows(left).verify()) == ([ROW], [])


async def test_a_journal_that_is_about_to_begin_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon writes its first row, and begins its journal a third of a second later."""
    left, missed, begun = await killed(tmp_path, row=True), threading.Event(), threading.Event()

    def wait(_: float) -> None:
        missed.set()
        assert begun.wait(PATIENCE_S)

    monkeypatch.setattr(journal, "sleep", wait)
    look = asyncio.create_task(asyncio.to_thread(rows(left).verify))
    assert await asyncio.to_thread(missed.wait, PATIENCE_S)
    await opened(left).close()
    begun.set()
    assert await look == []


async def test_a_journal_whose_rows_are_in_no_log_any_more_is_missed(tmp_path: Path) -> None:
    """Those logs that are left hold no row, and later no snapshot says that there were others."""
    store = opened(tmp_path)
    await written(store)
    await store.close()
    first = tmp_path / "scheduler.1.wal"
    for fence in (1, 2):
        assert first.exists()
        store = opened(tmp_path)
        await store.states.raise_fence(fence)
        await store.close()
    assert named(tmp_path, "*.wal")
    assert not first.exists()
    for pattern in ("scheduler.db*", "scheduler.json*"):
        for path in named(tmp_path, pattern):
            path.unlink()
        (finding,) = rows(tmp_path).verify()
        assert f"{tmp_path / 'scheduler.db'} is gone" in finding


async def test_a_database_whose_log_cannot_be_read_is_no_journal_that_has_not_begun(tmp_path: Path) -> None:
    """Its tables are in the log alone, which is looked past where no index of it can be made."""
    source, left = tmp_path / "source", await killed(tmp_path, row=True)
    source.mkdir(mode=0o700)
    with closing(open_directory(source / "scheduler.json")) as directory:
        connection = connect_writer(directory, FixedClock().now())
        for path in (source / "scheduler.db", source / "scheduler.db-wal"):
            shutil.copy(path, left)
        connection.close()
    (left / "scheduler.db-shm").symlink_to("nowhere")
    with pytest.raises(StateUnreadable, match=r"scheduler\.db cannot be read: unable to open database file"):
        rows(left).decisions()
