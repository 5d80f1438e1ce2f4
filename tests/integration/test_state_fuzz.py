"""State files under any harm are read as they were last acknowledged, or it is said (S11); any cut of a log is a state
that some real run had; the engine goes on from each."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import cadence
from tests.support.statefiles import looked_at, opened
from tests.support.statefuzz import Life, flips, harmed, judged, laid_out, life, with_flip
from tests.support.world import World
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import records, snapshot
from vmsh_scheduler.stores.local.load import Condition
from vmsh_scheduler.stores.local.records import parse_log
from vmsh_scheduler.stores.memory import MemoryStates

LIVES = 6
FLIPS = 400
DOWN = Outcome(Status.FAILED, ErrorClass.NETWORK, "exit", "connection refused")


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "state"


def test_what_a_kill_leaves_is_read_as_it_was(at: Path) -> None:
    for seed in range(LIVES):
        lived = life(seed)
        assert judged(lived, lived.files, at) == ("silent", [])
        assert looked_at(at).states == lived.moments[-1]


def test_s11_every_flipped_bit_is_harmless_or_said(at: Path) -> None:
    seen = Counter[str]()
    for seed in range(LIVES):
        lived = life(seed)
        for place in flips(lived.files, FLIPS // LIVES, seed):
            how, wrong = judged(lived, with_flip(lived.files, place), at)
            assert wrong == [], (seed, place)
            seen[how] += 1
    assert seen["recovered"] > FLIPS / 5


def test_s11_a_flipped_bit_in_the_last_line_is_no_torn_write(at: Path) -> None:
    """A write that was cut short has no line end: a whole line that does not verify was harmed."""
    lived = life(0)
    newest = max((name for name in lived.files if name.endswith(".wal")), key=lambda name: int(name.split(".")[1]))
    raw = lived.files[newest]
    laid_out(with_flip(lived.files, (newest, len(raw) - 20, 0)), at)
    assert looked_at(at).condition is Condition.RECOVERED
    laid_out({**lived.files, newest: raw[:-20]}, at)
    found = looked_at(at)
    assert found.condition is Condition.LOADED
    assert "cut short" in " ".join(found.findings)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, LIVES - 1), st.randoms(use_true_random=False), st.integers(1, 4))
def test_s11_any_harm_to_any_files_invents_nothing(at: Path, seed: int, dice: random.Random, times: int) -> None:
    lived = life(seed)
    how, wrong = judged(lived, harmed(lived, dice, times), at)
    assert wrong == []
    assert how in {"silent", "loaded", "recovered", "lost", "refused"}


@pytest.mark.parametrize("guard", ["checksum of the log", "checksum of the snapshot", "word about a whole bad log"])
def test_s11_bites_a_reader_without_a_guard_is_caught(at: Path, monkeypatch: pytest.MonkeyPatch, guard: str) -> None:
    match guard:
        case "checksum of the log":
            monkeypatch.setattr(records, "_record", trusting)
        case "checksum of the snapshot":
            monkeypatch.setattr(snapshot, "_check_digest", lambda raw: None)
        case _:
            monkeypatch.setattr("vmsh_scheduler.stores.local.load._tail", records.read_tail)
    dice = random.Random(5)  # no secret hangs on it
    caught = 0
    for n in range(400):
        lived = life(n % LIVES)
        caught += judged(lived, harmed(lived, dice, 2), at)[1] != []
    assert caught


def trusting(line: bytes, gen: int) -> dict[str, object] | None:
    try:
        record = json.loads(line[9:])
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


class Witness(MemoryStates):
    """Remembers the states after every single change, in the order of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()
        self.changes: list[Sequence[Change]] = []

    async def apply(self, changes: Sequence[Change], *, durable: bool = True, soon: bool = False) -> None:
        for change in changes:
            self.life.note(change)
        self.changes.append(tuple(changes))
        await super().apply(changes, durable=durable, soon=soon)


JOBS = (cadence(10), cadence(30, id="ns/slow"), cadence(20, id="other/fast"))


async def run_for_a_while() -> Witness:
    """A real run of the engine: successes, failures, retries, slots that were deferred."""
    witness = Witness()
    world = World(*JOBS, states=witness)
    world.executor.script = {"ns/fast": [Outcome(Status.OK), DOWN, DOWN], "other/fast": [DOWN]}
    await world.start()
    await world.go(25 * SECOND)
    return witness


async def written(witness: Witness, directory: Path) -> tuple[bytes, bytes]:
    """The first snapshot, and the one log of that run."""
    store = opened(directory)
    fresh = (directory / "scheduler.json").read_bytes()
    for changes in witness.changes:
        await store.states.apply(changes)
    log = (directory / "scheduler.1.wal").read_bytes()
    await store.close()
    return fresh, log


@pytest.fixture(scope="module")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Witness, bytes, bytes]:
    witness = asyncio.run(run_for_a_while())
    return witness, *asyncio.run(written(witness, tmp_path_factory.mktemp("real")))


def test_any_cut_of_a_log_is_a_state_that_a_real_run_had(real_run: tuple[Witness, bytes, bytes], at: Path) -> None:
    """At every byte: the number of changes that are read only rises, and nothing is called damage."""
    witness, fresh, raw = real_run
    moments, count = witness.life.moments, 0
    assert len(moments) > 12
    for cut in range(len(raw) + 1):
        log = parse_log(raw[:cut], 1)
        assert len(log.lines) in {count, count + 1}
        count = len(log.lines)
        assert not log.damaged
        assert log.torn == (cut > 0 and raw[cut - 1 : cut] != b"\n")
        if cut % 199 == 0 or raw[cut - 1 : cut] == b"\n":
            found = looked_at(laid_out({"scheduler.json": fresh, "scheduler.1.wal": raw[:cut]}, at))
            assert found.states == moments[count], cut
            assert found.condition in {Condition.LOADED, Condition.FRESH}
            assert [finding for finding in found.findings if "cut short" not in finding] == []
    assert count == len(moments) - 1


def test_any_cut_bites_a_log_that_lost_a_line_is_caught(real_run: tuple[Witness, bytes, bytes], at: Path) -> None:
    witness, fresh, raw = real_run
    lines = raw.splitlines(keepends=True)
    strange = 0
    for end in range(4, len(lines)):
        holed = b"".join(lines[: end - 2] + lines[end - 1 : end])
        found = looked_at(laid_out({"scheduler.json": fresh, "scheduler.1.wal": holed}, at))
        strange += found.states not in witness.life.moments
    assert strange


async def test_the_engine_goes_on_from_any_cut(real_run: tuple[Witness, bytes, bytes], at: Path) -> None:
    """No slot at or below an acknowledged success starts again, and every cadence goes on."""
    _, fresh, raw = real_run
    ends = [offset + 1 for offset, byte in enumerate(raw) if byte == ord("\n")]
    for end in ends:
        found = looked_at(laid_out({"scheduler.json": fresh, "scheduler.1.wal": raw[:end]}, at))
        world = World(*JOBS, states=MemoryStates(found.states))
        world.clock.move(61 * SECOND)
        await world.start()
        await world.engine.recover()
        await world.go(60 * SECOND)
        for job in JOBS:
            newest = found.states.get(job.id, JobState()).newest_slot or 0
            assert world.slots(job.id), (end, job.id)
            assert min(world.slots(job.id)) > newest, (end, job.id)
