"""Lives of a state directory whose every moment is known, harm done to its files, the judge of what is read then."""

import asyncio
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest

from tests.contract.world import decision
from tests.support.statefiles import flipped, looked_at, opened
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Next
from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local import log
from vmsh_scheduler.stores.local.load import Condition, Opened
from vmsh_scheduler.stores.local.records import Position
from vmsh_scheduler.stores.local.store import LocalStore

States = Mapping[str, JobState]
Files = Mapping[str, bytes]
JOBS = ("a/fast", "a/cold", "b/fast", "_agents/x")
ROTATE_AT = 1500
"""Bytes, so that a short life has several logs."""


@dataclass
class Life:
    """`moments`: the states after each single change, oldest first; the last one was acknowledged."""

    moments: list[States] = field(default_factory=lambda: [{}])
    versions: dict[str, list[bytes]] = field(default_factory=dict)
    """What each file held at some time; the last is what the life left."""
    files: Files = field(default_factory=dict)

    def note(self, change: Change) -> Change:
        after = dict(self.moments[-1])
        if change.state is None:
            after.pop(change.job_id, None)
        else:
            after[change.job_id] = change.state
        self.moments.append(after)
        return change

    def look(self, directory: Path) -> None:
        """The journal is derived, the lock is for people: neither is read by a loader."""
        found = (file for file in directory.iterdir() if file.name.endswith((".json", ".prev", ".wal")))
        self.files = {file.name: file.read_bytes() for file in found}
        for name, raw in self.files.items():
            self.versions.setdefault(name, []).append(raw)

    def histories(self, job: str) -> list[JobState | None]:
        """Everything that was ever so; None: it was not there."""
        return [moment.get(job) for moment in self.moments]


async def lived(directory: Path, seed: int, steps: int = 40) -> Life:
    """Changes alone and together, durable or not, deletions, fences, snapshots, restarts; ends as a kill would."""
    life, dice = Life(), random.Random(seed)  # no secret hangs on it
    store = opened(directory)
    for number in range(1, steps + 1):
        match dice.choices(("change", "group", "delete", "fence", "save", "restart"), (9, 3, 1, 1, 2, 2))[0]:
            case "change":
                await store.states.apply([life.note(_change(dice, number))], durable=dice.random() < 0.8)
            case "group":
                await store.states.apply([life.note(_change(dice, number)) for _ in range(3)])
            case "delete":
                await store.states.apply([life.note(Change(dice.choice(JOBS), None))])
            case "fence":
                await store.states.raise_fence(store.states.fence + number)
            case "save":
                await store.states.save()
            case _:
                await store.close()
                store = opened(directory)
        life.look(directory)
    await store.states.apply([life.note(_change(dice, steps + 1))])
    life.look(directory)
    await _die(store)
    return life


def _change(dice: random.Random, number: int) -> Change:
    """Every state is like no other, and most keep something that `lost` has to forget."""
    job = dice.choice(JOBS)
    upcoming = Next(number, number + 1) if dice.random() < 0.7 else None
    pad = {"pad": "x" * dice.randrange(60)}
    state = JobState(revision="r", upcoming=upcoming, newest_slot=number, started=dice.randrange(1 << 40), result=pad)
    return Change(job, state, (decision(job, number),) if dice.random() < 0.5 else ())


async def _die(store: LocalStore) -> None:
    """Ends the threads; what it writes meanwhile is not looked at any more."""
    with suppress(OSError):
        await store.close()


@cache
def life(seed: int, steps: int = 40) -> Life:
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(log.LogFile.__init__, "__kwdefaults__", {"rotate_at": ROTATE_AT})
        Path(directory, "state").mkdir(mode=0o700)
        return asyncio.run(lived(Path(directory, "state"), seed, steps))


def laid_out(files: Files, at: Path) -> Path:
    """`files` and nothing else, in a directory as private as it has to be."""
    at.mkdir(mode=0o700, exist_ok=True)
    for file in at.iterdir():
        if files.get(file.name) is None:
            file.unlink()
    for name, raw in files.items():
        (at / name).write_bytes(raw)
    return at


Reader = Callable[[Path], Opened]


def judged(life: Life, files: Files, at: Path, reader: Reader = looked_at) -> tuple[str, list[str]]:
    """How it was read, and what is wrong about it: a silent loss or anything that never was."""
    try:
        found = reader(laid_out(files, at))
    except StateUnreadable:
        return "refused", []
    condition = found.condition.value
    if found.condition is Condition.FRESH:
        return condition, ["taken for a first start"]
    if found.condition is Condition.LOADED and not found.findings:
        return "silent", _silent(life, files, found)
    wrong = [] if found.findings else [f"{condition} and nothing said"]
    return condition, wrong + [text for job in {*JOBS, *found.states} for text in _invented(life, found, job)]


def _silent(life: Life, files: Files, found: Opened) -> list[str]:
    if found.states == life.moments[-1]:
        return []
    if found.states in life.moments and _cut_at_a_line(life, files, found.base):
        return []
    return ["not what was acknowledged last, and nothing said"]


def _cut_at_a_line(life: Life, files: Files, base: Position) -> bool:
    """The newest log ends earlier, between two lines or before the first: nobody can tell that from a kill.

    What the snapshot covers is not read."""
    gen = max(int(name.split(".")[1]) for name in life.files if name.endswith(".wal"))
    read = base.offset if base.gen == gen else 0
    was, now = (found[f"scheduler.{gen}.wal"] for found in (life.files, files))
    return len(now) < len(was) and was[read:].startswith(now[read:]) and now[-1:] in {b"", b"\n"}


def _invented(life: Life, found: Opened, job: str) -> Iterator[str]:
    state, known = found.states.get(job), life.histories(job)
    if found.condition is Condition.LOST and state is not None:
        known = [_unplanned(then) for then in known]
    if state not in known:
        yield f"{job} was never {state}"


def _unplanned(state: JobState | None) -> JobState | None:
    return state and state._replace(revision="", upcoming=None)


def flips(files: Files, count: int, seed: int) -> Iterator[tuple[str, int, int]]:
    """Places for single wrong bits, spread over all bytes of all files."""
    places = [(name, offset) for name, raw in sorted(files.items()) for offset in range(len(raw))]
    dice = random.Random(seed)  # no secret hangs on it
    for name, offset in dice.sample(places, min(count, len(places))):
        yield name, offset, dice.randrange(8)


def with_flip(files: Files, place: tuple[str, int, int]) -> Files:
    name, offset, bit = place
    return {**files, name: flipped(files[name], offset, bit)}


def harmed(life: Life, dice: random.Random, times: int) -> Files:
    """Flips, cuts, NULs, splices of two generations, files of another time: `times` of them."""
    files = dict(life.files)
    for _ in range(times):
        name = dice.choice(sorted(files))
        files[name] = _harm(life, dice, name, files[name])
    return files


def _harm(life: Life, dice: random.Random, name: str, raw: bytes) -> bytes:
    at = dice.randrange(len(raw) + 1)
    match dice.choice(("flip", "cut", "zeros", "splice", "other")):
        case "flip":
            return flipped(raw, dice.randrange(len(raw)), dice.randrange(8)) if raw else b"?"
        case "cut":
            return raw[:at]
        case "zeros":
            return raw[:at] + b"\0" * (len(raw) - at)
        case "splice":
            other = dice.choice(_relatives(life, name, itself=False) or [b""])
            return raw[:at] + other[dice.randrange(len(other) + 1) :]
        case _:
            return dice.choice(_relatives(life, name, itself=True))


def _relatives(life: Life, name: str, *, itself: bool) -> Sequence[bytes]:
    """Every version of every file of its kind. A log's own older version is a part of it, and no other generation."""
    logs = name.endswith(".wal")
    kin = {other: raws for other, raws in life.versions.items() if other.endswith(".wal") is logs}
    return [raw for other, raws in sorted(kin.items()) if itself or not logs or other != name for raw in raws]
