"""ports.Specs."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vmsh_scheduler.domain.spec import Spec
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.ports import Specs
from vmsh_scheduler.stores.local.directory import open_directory
from vmsh_scheduler.stores.local.specs import SqliteSpecs, open_specs
from vmsh_scheduler.stores.memory import MemorySpecs

FIRST = Spec("agent", "u/a", {"name": "A", "cycleIntervalMs": 15_000, "note": "\u03c6 \U0001f600"}, 1, 100, 100, "u")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "scheduler.json"


@pytest.fixture(params=["memory", "local"])
def specs(request: pytest.FixtureRequest, state: Path) -> Iterator[Specs]:
    if request.param == "memory":
        yield MemorySpecs()
        return
    opened = opener(state)()
    yield opened
    opened.close()


def opener(state: Path) -> Callable[[], SqliteSpecs]:
    return lambda: open_specs(open_directory(state))


async def test_what_is_saved_is_there(specs: Specs) -> None:
    assert specs.get("agent", "u/a") is None
    assert await specs.save(FIRST)
    assert specs.get("agent", "u/a") == FIRST
    assert specs.get("task", "u/a") is None
    assert list(specs.all("agent")) == ["u/a"]
    assert specs.all("task") == {}


async def test_who_does_not_follow_the_newest_version_is_told(specs: Specs) -> None:
    assert await specs.save(FIRST)
    assert not await specs.save(FIRST)
    second = replace(FIRST, document={"name": "B"}, version=2, updated_at=200)
    assert await specs.save(second)
    assert not await specs.save(replace(second, document={"name": "C"}))
    assert not await specs.save(replace(FIRST, id="u/b", version=2))
    assert specs.get("agent", "u/a") == second


async def test_deleted_is_gone_and_may_come_anew(specs: Specs) -> None:
    assert not await specs.delete("agent", "u/a")
    assert await specs.save(FIRST)
    assert await specs.delete("agent", "u/a")
    assert specs.get("agent", "u/a") is None
    assert await specs.save(FIRST)


async def test_documents_outlive_their_process_oldest_first(state: Path) -> None:
    specs = opener(state)()
    for number in (3, 1, 2):
        assert await specs.save(replace(FIRST, id=f"u/{number}", created_at=number))
    specs.close()
    again = opener(state)()
    assert list(again.all("agent")) == ["u/1", "u/2", "u/3"]
    assert again.get("agent", "u/1") == replace(FIRST, id="u/1", created_at=1)
    again.close()


@pytest.mark.parametrize("harm", [b"", b"not a database at all, but long enough to be looked at by SQLite as a file."])
async def test_a_damaged_file_is_never_begun_anew_in_silence(state: Path, harm: bytes) -> None:
    specs = opener(state)()
    assert await specs.save(FIRST)
    specs.close()
    file = state.with_name("scheduler-specs.db")
    file.write_bytes(harm + file.read_bytes()[len(harm) :] if harm else file.read_bytes()[:5_000])
    before = file.read_bytes()
    with pytest.raises(StateUnreadable, match=r"scheduler-specs\.db"):
        opener(state)()
    assert file.read_bytes() == before
