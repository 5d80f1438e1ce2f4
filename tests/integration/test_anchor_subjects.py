"""The daemon's view of pending batches: what is found, what is skipped loudly, and at what cost."""

import asyncio
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from tests.support.builders import cadence
from tests.support.site import Site
from vmsh_scheduler.domain.batch import OPEN_MARKS, BadBatch, Batch, Covers, parse
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.events import Event, Trouble
from vmsh_scheduler.domain.job import Job, Subject
from vmsh_scheduler.domain.run import Found, Nothing
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.ports import Change
from vmsh_scheduler.sources import batch_files, subjects
from vmsh_scheduler.sources.batch_files import Listing, scan
from vmsh_scheduler.sources.subjects import BatchSubjects
from vmsh_scheduler.stores.local.store import open_store

ROOT = "sha256:" + "ab" * 32


class WallClock:
    """The real one: file times are compared with it."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def elapsed(self) -> int:
        return time.monotonic_ns() // 1_000_000

    async def sleep_until(self, when: int, wakeup: asyncio.Event) -> None:
        raise AssertionError("nothing here sleeps")


@dataclass
class World:
    """A site, the subjects over it, and what they reported."""

    site: Site
    events: list[Event] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.began = WallClock().now()
        self.subjects = BatchSubjects(WallClock(), self.tool, self.events.append)

    async def tool(self, verb: str, document: dict[str, object]) -> Mapping[str, object]:
        self.asked.append(verb)
        return self.site.ask(verb, document).result

    def job(self, namespace: str = "dao:x", kind: str = "batches", **more: object) -> Job:
        subject = Subject(kind, namespace, str(self.site.batches), base=str(self.site.root))
        return replace(cadence(), subject=replace(subject, **more))  # type: ignore[arg-type]  # Subject's own fields

    async def find(self, job: Job | None = None, state: JobState | None = None) -> Found | Nothing:
        return await self.subjects.find(job or self.job(), state or JobState())

    async def found(self, job: Job | None = None, state: JobState | None = None) -> Found:
        found = await self.find(job, state)
        assert isinstance(found, Found), found
        return found

    async def nothing(self, job: Job | None = None, state: JobState | None = None) -> tuple[str, bool]:
        nothing = await self.find(job, state)
        assert isinstance(nothing, Nothing), nothing
        return nothing.reason, nothing.failed


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(Site(tmp_path))


def done(found: Found) -> JobState:
    """State after a success over it."""
    return JobState(covers=found.covers, found_id=found.id, found_digest=found.digest, last_success=WallClock().now())


async def test_no_directory_and_no_batch_is_no_failure(world: World) -> None:
    assert await world.nothing() == ("no_batch", False)
    world.site.batches.mkdir(parents=True)
    assert await world.nothing() == ("no_batch", False)
    assert await world.nothing(cadence()) == ("no_batch", False)


async def test_one_pending_batch_then_nothing_then_the_next(world: World) -> None:
    batch = world.site.put_batch("10")
    first = await world.found()
    assert (first.id, first.digest) == ("10", batch["root"])
    assert first.details == {"file": batch["file"], "count": 1, "batches": ["10"]}
    assert await world.nothing(state=done(first)) == ("unchanged", False)
    world.site.put_batch("11")
    assert (await world.found(state=done(first))).id == "11"
    assert world.asked == []


async def test_several_pending_become_one_super_batch(world: World) -> None:
    for number in range(9, 12):
        world.site.put_batch(str(number), leaves=2)
    found = await world.found()
    assert world.asked == ["combine"]
    assert (found.details["count"], found.details["pending"], found.details["batches"]) == (6, 3, ["9", "10", "11"])
    assert [item["id"] for item in world.site.read(f"out/batches/{found.id}.json")["batches"]] == ["9", "10", "11"]
    assert await world.found() == found
    assert await world.nothing(state=done(found)) == ("unchanged", False)


async def test_reanchor_takes_the_newest_again(world: World) -> None:
    world.site.put_batch("10")
    world.site.put_batch("11")
    found = await world.found()
    again = await world.found(world.job(reanchor=True), done(found))
    assert (again.id, again.covers) == ("11", found.covers)


async def test_a_late_arrival_with_an_older_time_is_not_lost(world: World) -> None:
    world.site.put_batch("20", createdAt=2_000)
    covered = done(await world.found())
    world.site.put_batch("10", createdAt=1_000)
    late = await world.found(state=covered)
    assert late.id == "10"
    assert await world.nothing(state=done(late)) == ("unchanged", False)
    assert Covers.read(late.covers).order == Covers.read(covered.covers).order


async def test_a_batch_from_the_future_does_not_hide_those_of_today(world: World) -> None:
    world.site.put_batch("99", createdAt=9_000_000_000)
    state = done(await world.found())
    world.site.put_batch("10", createdAt=1_000)
    assert (await world.found(state=state)).id == "10"


async def test_a_state_without_a_horizon_goes_by_the_last_success(world: World) -> None:
    world.site.put_batch("10")
    found = await world.found()
    state = done(found)._replace(covers=Covers.read(found.covers).order)
    assert await world.nothing(state=state) == ("unchanged", False)
    assert (await world.found(state=state._replace(last_success=1))).id == "10"


async def test_tags_decide_whose_a_batch_is(world: World) -> None:
    world.site.put_batch("10", namespace="dao:x")
    world.site.put_batch("11", namespace="dao:y")
    world.site.put_batch("12")
    assert (await world.found(world.job("dao:x"))).details["batches"] == ["10", "12"]
    assert (await world.found(world.job("dao:y"))).details["batches"] == ["11", "12"]
    assert (await world.found(world.job("dao:z"))).id == "12"


async def test_a_sealing_namespace_seals_first_and_sees_only_its_own(world: World) -> None:
    world.site.put_batch("10")
    world.site.write("a.txt", "a")
    job = world.job(kind="seal", files=("*.txt",))
    found = await world.found(job)
    assert found.details["batches"] == [found.id] != ["10"]
    assert await world.nothing(job, done(found)) == ("unchanged", False)
    world.site.write("a.txt", "b")
    assert (await world.found(job, done(found))).digest != found.digest
    assert set(world.asked) == {"seal"}


async def test_the_journal_is_sealed_first_like_files(world: World) -> None:
    state = world.site.root / "state" / "scheduler.json"
    job = world.job("own:record", "journal", base=str(state.with_suffix(".db")))
    assert await world.nothing(job) == ("no_batch", False)
    world.site.put_batch("10")
    store = open_store(state, WallClock())
    await store.states.apply([Change("dao:x/fast", JobState(), notes=(Note("resume", 1, "dao:x/fast"),))])
    await store.close()
    found = await world.found(job)
    assert found.details["batches"] == [found.id] != ["10"]
    assert await world.nothing(job, done(found)) == ("unchanged", False)
    assert set(world.asked) == {"seal"}


async def test_sealing_that_fails_is_a_failed_look(world: World) -> None:
    found = await world.find(world.job(kind="seal", files=("*.none",)))
    assert found == Nothing("seal_failed", found.message if isinstance(found, Nothing) else "", failed=True)
    assert "no such file" in found.message


async def test_a_tool_that_breaks_is_a_failed_look(world: World) -> None:
    async def broken(verb: str, document: dict[str, object]) -> Mapping[str, object]:
        if verb == "seal":
            raise TimeoutError
        return {"status": "ok", "id": "../x"}

    world.subjects = BatchSubjects(WallClock(), broken, world.events.append)
    assert await world.find(world.job(kind="seal")) == Nothing("seal_failed", "TimeoutError", failed=True)
    world.site.put_batch("10")
    world.site.put_batch("11")
    assert await world.find() == Nothing("combine_failed", "combine gave no batch", failed=True)


async def test_an_unreadable_directory_is_a_failed_look(world: World) -> None:
    world.site.write("out/batches", "a file")
    assert await world.nothing() == ("batches_unreadable", True)


async def test_bad_files_are_skipped_and_said_once_for_each_state(world: World) -> None:
    world.site.put_batch("10")
    bad = world.site.write("out/batches/bad.json", "{")
    world.site.write("out/batches/.hidden.json", "{")
    world.site.write("out/batches/other.txt", "{")
    for _ in range(3):
        assert (await world.found()).id == "10"
    told = [event for event in world.events if isinstance(event, Trouble)]
    assert [event.what for event in told] == ["bad_batch"]
    assert told[0].details["file"] == str(bad)
    assert "not JSON" in str(told[0].details["reason"])
    bad.write_text("[]  ")
    await world.found()
    assert len(world.events) == 2


async def test_a_half_written_batch_counts_once_it_is_whole(world: World) -> None:
    whole = world.site.put_batch("10")
    text = json.dumps(world.site.read("out/batches/10.json"))
    world.site.write("out/batches/10.json", text[:40])
    assert await world.nothing() == ("no_batch", False)
    world.site.write("out/batches/10.json", text)  # in place: the directory's own time stays
    assert (await world.found()).digest == whole["root"]


async def test_many_jobs_share_one_scan(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.site.put_batch("10")
    settle(world.site.batches)
    scans: list[Path] = []

    def counted(directory: Path, before: Listing, now: int) -> Listing:
        scans.append(directory)
        return scan(directory, before, now)

    monkeypatch.setattr(subjects, "scan", counted)
    jobs = [world.job(f"n:{number}") for number in range(500)]
    assert all(isinstance(item, Found) for item in await asyncio.gather(*(world.find(job) for job in jobs)))
    assert all(isinstance(item, Found) for item in await asyncio.gather(*(world.find(job) for job in jobs)))
    assert len(scans) == 1


def settle(directory: Path) -> None:
    """As if the last change of the directory were long past."""
    os.utime(directory, ns=(1, 1_700_000_000_000_000_000))


async def test_a_file_is_parsed_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(raw: bytes, name: str) -> Batch | BadBatch:
        read.append(name)
        return parse(raw, name)

    monkeypatch.setattr(batch_files, "parse", counted)
    world.site.put_batch("10")
    await world.found()
    world.site.put_batch("11")
    await world.found()
    assert read == ["10", "11"]


async def test_a_scan_that_fails_is_tried_again_by_those_who_waited(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.site.put_batch("10")
    fails = iter([True])

    def once(directory: Path, before: Listing, now: int) -> Listing:
        if next(fails, False):
            raise OSError("stale handle")
        return scan(directory, before, now)

    monkeypatch.setattr(subjects, "scan", once)
    first, second = await asyncio.gather(world.find(), world.find())
    assert first == Nothing("batches_unreadable", "stale handle", failed=True)
    assert isinstance(second, Found)


def test_our_own_large_batches_are_read_by_their_head(world: World) -> None:
    for number in range(300):
        world.site.write(f"files/{number}", "x")
    sealed = world.site.seal("files/*").result
    path = Path(sealed["file"])
    listing = scan(world.site.batches, Listing(), 0)
    assert [seen.what.name for seen in listing.files.values()] == [sealed["id"]]
    newest = listing.newest(["demo:files"])
    assert newest is not None
    assert getattr(newest.what, "count", 0) == 300
    path.write_bytes(path.read_bytes()[:-20])
    assert len(scan(world.site.batches, listing, 0).bad) == 1


def test_a_burst_of_batches_keeps_the_state_small(world: World) -> None:
    for number in range(300):
        world.site.put_batch(str(number))
    listing = scan(world.site.batches, Listing(), 0)
    covers = listing.covered([""], Covers())
    assert len(str(covers)) < 4_000
    assert listing.pending([""], covers) == []


def test_files_too_large_or_unreadable_are_bad(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_files, "FILE_LIMIT", 10)
    monkeypatch.setattr(batch_files, "_HEAD", 10)
    world.site.put_batch("10")
    (world.site.batches / "dir.json").mkdir()
    (world.site.batches / "dangling.json").symlink_to("nowhere")
    listing = scan(world.site.batches, Listing(), 0)
    reasons = {seen.what.name: getattr(seen.what, "reason", "") for seen in listing.bad}
    assert reasons == {"10": "larger than 10 bytes", "dir": "Is a directory"}


async def test_open_anchors_are_looked_at_while_there_are_some_and_once_when_the_book_is_news(world: World) -> None:
    book = world.site.out / "submissions" / "eip155-1"
    job = world.job(kind="open", directory=str(book), target="eip155:1")
    assert await world.nothing(job) == ("unchanged", False)
    (book / OPEN_MARKS).mkdir(parents=True)
    now = WallClock().now
    looked = JobState(last_success=now() + 60_000)
    assert (await world.found(job)).target == "eip155:1"
    assert await world.nothing(job, looked) == ("unchanged", False)
    assert await world.found(job, JobState(last_success=world.began - 1)), "nobody looked since the start"
    (book / OPEN_MARKS / "b1").touch()
    assert await world.found(job, looked)
    (book / OPEN_MARKS / "b1").unlink()
    os.utime(book, (now() / 1000 + 120,) * 2)
    assert await world.found(job, looked), "the book was written since"
