"""The state family at the catalogue's figures: real full and read-only disks, thousands of damages, two real users."""

import errno
import os
import random
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.acceptance.test_fault_disk import ONE_TICK_S, full_ticks, logs
from tests.support.daemon import COMMAND, Daemon
from tests.support.faults import Cadence, Site, site
from tests.support.ledger import differences, gaps, violations
from tests.support.mounted import cpu_s, fill, immutable, pass_time, remount, tmpfs
from tests.support.statefiles import looked_at, named, opened, refused, used, variants
from tests.support.statefuzz import flips, harmed, judged, life, with_flip
from tests.support.writers import NAIVE, read_naive
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.errors import Exit, StateUnreadable
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.load import Condition

Record = Callable[[str, object], None]
NOBODY = 65534


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Site]:
    made = site(tmp_path)
    yield made
    made.place.close()


def state_of(place: Site) -> Path:
    return place.place.state.parent


@pytest.mark.needs("mounts")
async def test_s5_a_thousand_failed_saves_on_a_full_disk(tmp_path: Path, record_property: Record) -> None:
    with tmpfs(tmp_path / "state", "size=64k") as directory:
        store = opened(directory)
        await store.states.apply([Change("a/b", JobState(level=1))])
        await store.states.save()
        filler = fill(directory)
        with (directory / "scheduler.1.wal").open("ab") as log:  # what its last page has room for
            room = -log.tell() % os.sysconf("SC_PAGE_SIZE")
        for n in range(room // 40):
            with suppress(Exception):
                await store.states.apply([Change("a/b", JobState(level=1, started=n))])
        failed = await refused(store, 1000)
        filler.unlink()
        began = time.monotonic()
        await store.states.apply([Change("a/b", JobState(level=3))])
        took = time.monotonic() - began
        await store.close()
        assert looked_at(directory).states == {"a/b": JobState(level=3)}
    record_property(
        "S5", f"{failed:,} failed changes and saves on 64 KB: every file identical; {took * 1000:.0f} ms after"
    )
    assert took < ONE_TICK_S


@pytest.mark.needs("mounts")
def test_s5_bites_a_file_written_in_place_is_emptied(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "state", "size=64k") as directory:
        state = directory / "scheduler.json"
        NAIVE["in place"](state, 1, lambda number: None, Disk())
        fill(directory)
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            NAIVE["in place"](state, 7000, lambda number: None, Disk())
        with pytest.raises(ValueError, match=r"JSON|Expecting|Unterminated"):
            read_naive(directory)


FULL_S = 65.0


@pytest.mark.needs("mounts")
@pytest.mark.parametrize(("row", "options"), [("S5", "size=64k"), ("S7", "size=4m,nr_inodes=13")])
def test_s5_s7_a_daemon_on_a_full_disk_waits_and_goes_on(
    place: Site, record_property: Record, row: str, options: str
) -> None:
    """It fills its disk by itself; then more than a minute of it."""
    cadences = [place.work(name) for name in ("one", "two")]
    place.configure(*cadences)
    with tmpfs(state_of(place), options):
        daemon = place.place.daemon().ready()
        daemon.wait_until(lambda: stuck(place), "a disk that is full")
        lines, starts, cpu = len(daemon.lines()), len(place.entries()), cpu_s(daemon.pid)
        said = counted(daemon)
        pass_time(FULL_S)
        assert len(place.entries()) == starts, "started without a record"
        assert daemon.health()["status"] != "healthy"
        more = len(daemon.lines()) - lines
        spent = cpu_s(daemon.pid) - cpu
        assert all(count <= said[what] + 2 for what, count in counted(daemon).items()), "over one line a minute"
        assert spent < FULL_S / 4, "a busy loop"
        remount(state_of(place), "size=8m,nr_inodes=1000")
        began = time.monotonic()
        daemon.wait_until(lambda: len(place.entries()) > starts, "starts again")
        took = time.monotonic() - began
        daemon.wait_until(lambda: daemon.health()["status"] == "healthy", "health")
        daemon.stop()
        books, entries = place.books(), place.entries()
    record_property(
        row,
        f"{options}: {FULL_S:.0f} s full: 0 starts, {more} lines, {spent:.1f} s CPU; starts {took:.1f} s after room",
    )
    assert took <= ONE_TICK_S
    assert violations(entries) == []
    assert differences(entries, books) == []
    assert gaps(books, {cadence.job: SECOND for cadence in cadences}) == []


def stuck(place: Site) -> bool:
    """Three slots without a start, after there were some."""
    starts = [entry.slot for entry in place.entries() if entry.kind == "start"]
    return bool(starts) and time.time() * SECOND - max(starts) > 4 * SECOND


def counted(daemon: Daemon) -> Counter[str]:
    return Counter({what: len(daemon.lines(what)) for what in ("state write failed", "state finding")})


def test_s5_a_tick_at_every_hundred_bytes_of_a_full_disk(tmp_path: Path, record_property: Record) -> None:
    codes = full_ticks(site(tmp_path), 100)
    record_property(
        "S5", f"{len(codes)} ticks, full ever 100 bytes later: {codes.count(74)} exit 74, 0 lost or repeated"
    )


@pytest.mark.needs("mounts")
def test_s7_a_first_start_without_inodes_says_so(place: Site, record_property: Record) -> None:
    place.configure(place.work("quick"))
    with tmpfs(state_of(place), "size=64k,nr_inodes=1"):
        for verb in ("tick", "run"):
            done = place.place.cli(verb)
            assert (done.code, "Traceback" in done.err) == (Exit.IO_ERROR, False), done.err
            assert re.search(rf"{state_of(place)}\S*: No space left on device; see df", done.err)
        place.place.cli("status").ok()
    record_property("S7", "no inode at all: tick and run exit 74 and name the file, status works")


VARIANTS = ("remounted read-only", "chattr +i directory", "chattr +i scheduler.json")
WHOSE = r"uid 0, mode 0[67]00"


@pytest.mark.needs("mounts", "immutable files")
@pytest.mark.parametrize("variant", VARIANTS)
def test_s10_what_may_not_be_written_is_named(place: Site, record_property: Record, variant: str) -> None:
    work = place.work("quick")
    place.configure(work)
    with ExitStack() as stack:
        if variant == "remounted read-only":
            stack.enter_context(tmpfs(state_of(place), "size=4m"))
        place.place.cli("tick").ok()
        before = {path: path.read_bytes() for path in named(state_of(place), "scheduler.json*")}
        forbid(place, variant, stack)
        time.sleep(1.1)  # something is due: a tick without work writes nothing, wherever it is
        ticked = place.place.cli("tick")
        assert (ticked.code, "Traceback" in ticked.err) == (Exit.IO_ERROR, False), ticked.err
        assert re.search(rf"{state_of(place)}/\S+.*({WHOSE}).*see .*mount", ticked.err), ticked.err
        assert {path: path.read_bytes() for path in before} == before
        assert "quick/fast" in place.place.cli("status").ok().out
        code, text = run_for_a_while(place, work, goes_on=variant == VARIANTS[2])
        assert (code, "Traceback" in text) == (Exit.IO_ERROR, False), text
        assert re.search(rf"{state_of(place)}/\S+.*({WHOSE}).*see .*mount", text), text
    place.place.cli("tick").ok()
    record_property("S10", f"{variant}: tick and run exit 74 and name path, owner and mode; status works")


def forbid(place: Site, variant: str, stack: ExitStack) -> None:
    if variant == "remounted read-only":
        remount(state_of(place), "ro")
    else:
        stack.enter_context(immutable(state_of(place) if "directory" in variant else place.place.state))


def run_for_a_while(place: Site, work: Cadence, *, goes_on: bool) -> tuple[int, str]:
    """Only the snapshot is forbidden: the log takes everything, so that commands run on and health says it."""
    daemon = place.place.daemon()
    if goes_on:
        daemon.ready()
        seen = len(place.starts(work))
        daemon.wait_line("state finding")
        daemon.wait_until(lambda: len(place.starts(work)) > seen + 1, "starts")
        assert daemon.health()["status"] == "degraded"
        daemon.signal(15)
    return daemon.wait(), daemon.text()


def test_s11_every_damage_is_noticed(tmp_path: Path, record_property: Record) -> None:
    path = used(tmp_path, 40)
    raw, whole, seen = path.read_bytes(), looked_at(tmp_path), Counter[str]()
    for bad in variants(raw, len(raw)):
        path.write_bytes(bad)
        try:
            found = looked_at(tmp_path)
        except StateUnreadable:
            assert b'"schema": 1,' not in bad
            seen["refused"] += 1
        else:
            assert (found.condition, found.states) == (Condition.RECOVERED, whole.states)
            seen["recovered"] += 1
    record_property("S11", f"{seen.total():,} damaged snapshots, a bit of every byte: {dict(seen)}, 0 silent")


LIVES, HARMS = 30, 20_000


def test_s11_no_harm_to_any_files_invents_anything(tmp_path: Path, record_property: Record) -> None:
    at, bits, harms = tmp_path / "state", Counter[str](), Counter[str]()
    for seed in range(LIVES):
        lived = life(seed, 60)
        for place in flips(lived.files, 1 << 30 if seed < 3 else 200, seed):
            how, wrong = judged(lived, with_flip(lived.files, place), at)
            assert wrong == [], (seed, place)
            bits[how] += 1
    for n in range(HARMS):
        dice = random.Random(n)  # no secret hangs on it
        lived = life(dice.randrange(LIVES), 60)
        how, wrong = judged(lived, harmed(lived, dice, dice.randrange(1, 5)), at)
        assert wrong == [], n
        harms[how] += 1
    record_property("S11", f"{bits.total():,} flipped bits in snapshots and logs: 0 unsaid losses, {dict(bits)}")
    record_property("S11", f"{harms.total():,} cuts, splices, NULs, old versions: 0 inventions, {dict(harms)}")


def test_s12_forty_cadences_start_nothing_in_the_first_period(place: Site, record_property: Record) -> None:
    cadences = [place.work(f"n{number}", every="20s") for number in range(40)]
    place.configure(*cadences)
    place.place.cli("tick").ok()
    for path in [*named(state_of(place), "scheduler.json*"), *named(state_of(place), "*.wal")]:
        path.write_bytes(path.read_bytes()[:20])
    assert place.place.cli("tick").code == Exit.STATE_UNREADABLE
    before, began = len(place.entries()), time.time() * SECOND
    daemon = place.place.daemon().ready()
    daemon.wait_until(lambda: len(place.entries()) >= before + 2 * len(cadences), "a run of each", timeout=90)
    daemon.stop()
    first = min(entry.slot for entry in place.entries()[before:])
    assert first > began + 20 * SECOND
    assert violations(place.entries()) == []
    record_property(
        "S12", f"{len(cadences)} cadences: 0 starts in their first period of 20 s, {(first - began) / 1000:.1f} s later"
    )


@pytest.fixture
def shared() -> Iterator[Site]:
    """Below a directory that other users may enter, and theirs."""
    root = Path(tempfile.mkdtemp())
    root.chmod(0o755)
    made = site(root / "place")
    yield made
    made.place.close()
    shutil.rmtree(root)


def as_nobody(place: Site, *args: str) -> "subprocess.CompletedProcess[str]":
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", str(COMMAND), *args]
    env = place.place.env({"PYTHONDONTWRITEBYTECODE": "1"})
    return subprocess.run(argv, cwd=place.place.root, env=env, capture_output=True, text=True, timeout=60, check=False)


def owners(place: Site) -> dict[str, tuple[int, int, int]]:
    files = {path.name: path.stat() for path in [state_of(place), *state_of(place).iterdir()]}
    return {name: (found.st_uid, found.st_gid, found.st_mode & 0o777) for name, found in files.items()}


@pytest.mark.needs("root", "setpriv")
def test_s14_ten_saves_of_two_users_keep_owner_and_mode(shared: Site, record_property: Record) -> None:
    place = shared
    if as_nobody(place, "--version").returncode:
        pytest.skip("needs an installation that every user may run")
    place.configure(place.work("quick"))
    for path in [place.place.root, *place.place.root.rglob("*")]:
        os.chown(path, NOBODY, NOBODY)
    done = as_nobody(place, "tick")
    assert done.returncode == 0, done.stderr
    before = owners(place)
    for number in range(10):
        if number % 2:
            assert as_nobody(place, "tick").returncode == 0
        else:
            place.place.cli("tick").ok()
        after = owners(place)
        assert {name: after[name] for name in before if name in after} == {
            name: owner for name, owner in before.items() if name in after
        }
        assert {owner[:2] for owner in after.values()} == {(NOBODY, NOBODY)}
    mended = [chown_line(place, name) for name in ("scheduler.json", "")]
    record_property("S14", f"10 saves by root and uid {NOBODY} in turn: owner and mode the same; exit 77 and {mended}")


def chown_line(place: Site, name: str) -> str:
    """What the message says to run mends it, to the letter."""
    path = state_of(place) / name
    os.chown(path, 4321, 4321)
    for verb in ("tick", "run"):
        refusal = as_nobody(place, verb)
        assert (refusal.returncode, "Traceback" in refusal.stderr) == (Exit.DENIED, False), refusal.stderr
    line = re.findall(r"run: (chown [^\n\"]+)", refusal.stderr)[-1]
    assert shlex.split(line) == ["chown", f"{NOBODY}:{NOBODY}", str(path)]
    subprocess.run(shlex.split(line), check=True)
    assert as_nobody(place, "tick").returncode == 0
    return f"`chown {NOBODY}:{NOBODY} {name or 'the directory'}`"


PLANTS = ("scheduler.json", "scheduler.json.prev", "scheduler.lock", "runs", "scheduler.db", "control.sock", "next log")


@pytest.mark.parametrize("verb", ["tick", "run"])
def test_s15_planted_symlinks_write_nothing(tmp_path: Path, record_property: Record, verb: str) -> None:
    codes = {plant: planted(tmp_path / plant, plant, verb) for plant in PLANTS}
    record_property("S15", f"{len(PLANTS)} plants before {verb}, 0 writes; exit codes {codes}")


def planted(root: Path, plant: str, verb: str) -> int | None:
    """The exit code; None: it runs on."""
    place = site(root)
    work = place.work("quick")
    place.configure(work)
    place.place.cli("tick").ok()
    victim = root / "victim"
    victim.write_text("mine")
    gen = max(int(name.split(".")[-2]) for name in logs(place)) + 1
    link = state_of(place) / (f"scheduler.{gen}.wal" if plant == "next log" else plant)
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(victim)
    try:
        daemon = place.place.daemon(verb=verb)
        seen = len(place.starts(work))
        daemon.wait_until(lambda: not daemon.alive or len(place.starts(work)) > seen + 1, "an end, or life")
        code = None if daemon.alive else daemon.wait()
        assert "Traceback" not in daemon.text(), daemon.text()
    finally:
        place.place.close()
    assert victim.read_text() == "mine"
    return code
