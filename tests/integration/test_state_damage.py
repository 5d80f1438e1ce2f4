"""State files that were harmed (S11, S12), that a newer version wrote (S13), or the original did."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.contract.world import busy_state
from tests.support.statefiles import STATES, contents, lived_in, looked_at, named, opened, used, variants
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.errors import Exit, StateUnreadable
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import snapshot
from vmsh_scheduler.stores.local.load import Condition
from vmsh_scheduler.stores.local.records import frame
from vmsh_scheduler.stores.local.snapshot import Corrupt, parse

DATA = Path(__file__).parents[1] / "data" / "state"


FLIPS, JOBS = 500, 30


def test_s11_a_thousand_damages_to_the_snapshot_are_noticed(tmp_path: Path) -> None:
    path = used(tmp_path, JOBS)
    raw, whole, seen = path.read_bytes(), looked_at(tmp_path), Counter[str]()
    assert whole.condition is Condition.LOADED
    for bad in variants(raw, FLIPS):
        path.write_bytes(bad)
        try:
            found = looked_at(tmp_path)
        except StateUnreadable:
            assert b'"schema": 1,' not in bad
            seen["refused"] += 1
            continue
        assert found.condition is Condition.RECOVERED
        assert found.states == whole.states
        assert found.set_aside == ("scheduler.json",)
        seen["recovered"] += 1
    assert seen.total() >= 1000
    assert seen["refused"] <= 1


def test_s11_bites_a_reader_without_a_checksum_would_not_notice(tmp_path: Path) -> None:
    """Plain JSON parsing takes some of the same variants for good."""
    raw = used(tmp_path).read_bytes()
    fooled = 0
    for bad in variants(raw, FLIPS):
        try:
            fooled += isinstance(json.loads(bad), dict)
        except ValueError:
            continue
        with pytest.raises((Corrupt, StateUnreadable)):
            parse(bad)
    assert fooled > 20


def test_s11_bites_the_originals_loader_resets_silently(tmp_path: Path) -> None:
    """`catch { return {} }`: every cadence fires at once, and nobody hears of it."""

    def original(raw: bytes) -> object:
        try:
            return json.loads(raw)
        except ValueError:
            return {}

    raw = used(tmp_path).read_bytes()
    assert sum(original(bad) == {} for bad in variants(raw, FLIPS)) > 100


async def test_s11_the_damaged_file_is_kept_beside_and_never_overwritten(tmp_path: Path) -> None:
    await lived_in(tmp_path)
    path = tmp_path / "scheduler.json"
    for n in range(3):
        path.write_bytes(b"damage %d" % n)
        store = opened(tmp_path)
        assert store.opened.condition is Condition.RECOVERED
        assert any("scheduler.json is damaged" in finding for finding in store.troubles())
        await store.close()
    kept = sorted(file.read_bytes() for file in named(tmp_path, "scheduler.json.corrupt-*"))
    assert kept == [b"damage 0", b"damage 1", b"damage 2"]
    assert looked_at(tmp_path).condition is Condition.LOADED


async def test_s11_a_damaged_line_in_a_log_costs_only_its_own_job(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for job_id in ("a/a", "b/b", "c/c"):
        await store.states.apply([Change(job_id, JobState(level=1))])
    log = tmp_path / "scheduler.1.wal"
    raw = log.read_bytes()
    fresh = (tmp_path / "scheduler.json").read_bytes()
    await store.close()
    (tmp_path / "scheduler.json").write_bytes(fresh)
    log.write_bytes(raw.replace(b'"b/b"', b'"x/x"'))
    again = opened(tmp_path)
    assert again.opened.condition is Condition.RECOVERED
    assert set(again.states.all()) == {"a/a", "c/c"}
    assert any("scheduler.1.wal is damaged at byte" in finding for finding in again.opened.findings)
    assert named(tmp_path, "scheduler.1.wal.corrupt-*")
    await again.close()


async def test_s11_missing_and_foreign_logs_are_noticed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    await store.states.apply([Change("a/b", JobState(level=1))])
    snapshot = (tmp_path / "scheduler.json").read_bytes()
    await store.close()
    second = opened(tmp_path)
    await second.states.apply([Change("a/b", JobState(level=2))])
    await second.close()
    (tmp_path / "scheduler.json").write_bytes(snapshot)
    first_log = (tmp_path / "scheduler.1.wal").read_bytes()
    (tmp_path / "scheduler.1.wal").unlink()
    missing = looked_at(tmp_path)
    assert missing.condition is Condition.RECOVERED
    assert missing.findings == ("scheduler.1.wal is missing",)
    assert missing.states == {"a/b": JobState(level=2)}
    (tmp_path / "scheduler.1.wal").write_bytes(first_log[: first_log.index(b"\n") + 1])
    assert any("damaged" in finding for finding in looked_at(tmp_path).findings)
    (tmp_path / "scheduler.1.wal").write_bytes(first_log)
    (tmp_path / "scheduler.2.wal").write_bytes((tmp_path / "scheduler.2.wal").read_bytes() + first_log)
    assert looked_at(tmp_path).states == {"a/b": JobState(level=2)}


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 500])
async def test_s12_both_generations_bad_is_lost_and_says_so(tmp_path: Path, damage: bytes) -> None:
    await lived_in(tmp_path)
    path = tmp_path / "scheduler.json"
    path.write_bytes(damage)
    (tmp_path / "scheduler.json.prev").write_bytes(damage)
    store = opened(tmp_path)
    assert store.opened.condition is Condition.LOST
    assert any("waits one period" in finding for finding in store.troubles())
    assert all(state.upcoming is None and state.revision == "" for state in store.states.all().values())
    await store.close()
    assert looked_at(tmp_path).condition is Condition.LOST, "a loss that nobody acted on is still a loss"
    again = opened(tmp_path)
    await again.states.apply([Change("dao:x/fast", busy_state())])
    await again.close()
    assert looked_at(tmp_path).condition is Condition.LOADED


@pytest.mark.parametrize("left", ["scheduler.db", "runs", "scheduler.3.wal", "scheduler.json.corrupt-20260101T000000Z"])
def test_s12_what_only_a_used_directory_holds_means_lost(tmp_path: Path, left: str) -> None:
    assert looked_at(tmp_path).condition is Condition.FRESH
    (tmp_path / "keys").mkdir()
    (tmp_path / ".gitkeep").touch()
    assert looked_at(tmp_path).condition is Condition.FRESH
    if left == "runs":
        (tmp_path / left).mkdir(mode=0o700)
    else:
        (tmp_path / left).touch(mode=0o600)
    assert looked_at(tmp_path).condition is Condition.LOST


def test_s12_the_previous_generation_alone_is_enough(tmp_path: Path) -> None:
    used(tmp_path).unlink()
    found = looked_at(tmp_path)
    assert found.condition is Condition.RECOVERED
    assert found.states == STATES | {"dao:x/cold": JobState(level=2)}


def newer_snapshot(directory: Path) -> None:
    path = directory / "scheduler.json"
    path.write_bytes(path.read_bytes().replace(b'"schema": 1', b'"schema": 2'))


def newer_shape(directory: Path) -> None:
    (directory / "scheduler.json").write_bytes(b'{"_meta": {"schema": 99}, "all": "different"}')


def newer_log(directory: Path) -> None:
    gen = max(int(path.name.split(".")[1]) for path in named(directory, "*.wal"))
    payload = json.dumps({"wal": 2, "gen": gen + 1, "after": [gen, 0]})
    (directory / f"scheduler.{gen + 1}.wal").write_bytes(frame(payload, gen + 1) + frame('{"what":"ever"}', gen + 1))


@pytest.mark.parametrize("newer", [newer_snapshot, newer_shape, newer_log])
def test_s13_what_a_newer_version_wrote_is_refused_and_not_touched(
    tmp_path: Path, newer: Callable[[Path], None]
) -> None:
    used(tmp_path)
    newer(tmp_path)
    before = contents(tmp_path)
    for _ in range(3):
        with pytest.raises(StateUnreadable, match="written by a newer version") as refused:
            opened(tmp_path)
        assert refused.value.exit == Exit.STATE_UNREADABLE
    assert contents(tmp_path) == before


def test_s13_bites_without_the_guard_the_newer_file_is_moved_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(tmp_path)
    newer_shape(tmp_path)
    before = contents(tmp_path)
    monkeypatch.setattr(snapshot, "_check_version", lambda meta: None)
    asyncio.run(opened(tmp_path).close())
    assert contents(tmp_path)["scheduler.json"] != before["scheduler.json"]


async def test_the_originals_file_loads_and_counts_as_fresh(tmp_path: Path) -> None:
    old = (DATA / "v0.json").read_bytes()
    (tmp_path / "scheduler.json").write_bytes(old)
    (tmp_path / "scheduler.json").chmod(0o600)
    store = opened(tmp_path)
    assert store.opened.condition is Condition.FRESH
    at = 1_700_000_000_000
    assert store.states.get("dao:vaultmesh/fast") == JobState(last_success=at, newest_slot=at, level=2)
    assert set(store.states.all()) == {f"dao:vaultmesh/{level}" for level in ("fast", "strong", "cold")}
    assert (tmp_path / "scheduler.json.prev").read_bytes() == old
    await store.close()
    mirrored = json.loads((tmp_path / "scheduler.json").read_bytes())
    assert {name: mirrored["dao:vaultmesh"][name] for name in ("last", "backoff")} == json.loads(old)["dao:vaultmesh"]
    again = looked_at(tmp_path)
    assert again.condition is Condition.LOADED
    assert again.states == store.states.all()


@pytest.mark.parametrize(
    "odd",
    [b"[]", b'{"a": 1}', b'{"a": {"last": {"x": "y"}}}', b'{"_jobs": {}}', b'{"a": {"last": {}, "cadences": {}}}'],
)
def test_what_only_looks_like_the_originals_file_is_damage(odd: bytes) -> None:
    with pytest.raises(Corrupt):
        parse(odd)


async def test_the_original_wrote_after_us(tmp_path: Path) -> None:
    """Its file has no checksum and no logs; what ours still say about open runs is added, its newer success counts."""
    store = opened(tmp_path)
    await store.states.apply(
        [Change("dao:vaultmesh/fast", JobState(last_success=1, started=5)), Change("x/y", JobState())]
    )
    await store.states.save()
    (tmp_path / "scheduler.json").write_bytes((DATA / "v0.json").read_bytes())
    found = looked_at(tmp_path)
    assert found.states["dao:vaultmesh/fast"].last_success == 1_700_000_000_000
    assert found.states["dao:vaultmesh/fast"].started == 5
    assert found.states["x/y"] == JobState()
    await store.close()
