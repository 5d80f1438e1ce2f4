"""Who may own and write the state directory, and what is said when it is not so."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from tests.contract.world import FixedClock
from vmsh_scheduler.errors import CannotCreate, Denied, StateUnreadable
from vmsh_scheduler.stores.local import directory as directory_module
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.store import open_store


def test_it_is_made_for_nobody_else(tmp_path: Path) -> None:
    open_directory(tmp_path / "a" / "b" / "scheduler.json").close()
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


async def test_all_names_come_from_the_snapshots_stem(tmp_path: Path) -> None:
    await open_store(tmp_path / "mine.json", FixedClock()).close()
    names = sorted(path.name for path in listed(tmp_path))
    assert names == ["keys", "mine.db", "mine.json", "mine.lock", "runs"]
    assert {path.stat().st_mode & 0o777 for path in listed(tmp_path)} == {0o600, 0o700}


def listed(path: Path) -> list[Path]:
    return list(path.iterdir())


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreate, match="state directory"):
        open_directory(tmp_path / "file" / "scheduler.json")
    with pytest.raises(CannotCreate, match="No such file"):
        open_directory(tmp_path / "none" / "scheduler.json", create=False)
    (tmp_path / "runs").touch()
    with pytest.raises(Denied, match="runs is not a directory"):
        open_store(tmp_path / "scheduler.json", FixedClock())


def test_runs_that_others_can_write_are_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    with pytest.raises(Denied, match=f"chmod go-w {tmp_path / 'runs'}"):
        open_store(tmp_path / "scheduler.json", FixedClock())


def test_an_enormous_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory_module, "READ_CAP", 1000)
    (tmp_path / "scheduler.json").touch(mode=0o600)
    os.truncate(tmp_path / "scheduler.json", 1001)
    with pytest.raises(StateUnreadable, match="is 1001 bytes, more than 1000"):
        open_store(tmp_path / "scheduler.json", FixedClock())


@pytest.mark.needs("root")
@pytest.mark.parametrize("name", ["", "scheduler.json", "runs"])
def test_s14_what_belongs_to_somebody_else_is_refused_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "runs").mkdir(mode=0o700)
    (tmp_path / "scheduler.json").write_text("{}")
    os.chown(tmp_path / name, 4321, 4321)
    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    with pytest.raises(Denied, match=rf"belongs to uid 4321 \(mode .*run: chown 1234:\d+ {tmp_path / name}") as refused:
        open_store(tmp_path / "scheduler.json", FixedClock())
    assert refused.value.exit == 77


@pytest.mark.needs("another user than root")
def test_s14_what_cannot_be_read_is_denied(tmp_path: Path) -> None:
    (tmp_path / "scheduler.json").write_text("{}")
    (tmp_path / "scheduler.json").chmod(0)
    with pytest.raises(Denied, match="run: chown"):
        open_store(tmp_path / "scheduler.json", FixedClock())
    tmp_path.chmod(0)
    with pytest.raises(Denied):
        open_store(tmp_path / "scheduler.json", FixedClock())
    tmp_path.chmod(0o700)


def test_a_group_writable_directory_of_our_own_is_tightened(tmp_path: Path) -> None:
    """git clone under umask 002 makes `state/` so."""
    tmp_path.chmod(0o775)
    with closing(open_directory(tmp_path / "scheduler.json")):
        assert tmp_path.stat().st_mode & 0o777 == 0o700
