"""Rails that pay: whatever happens between signing and the last block, one payment and one receipt per batch."""

import errno
import fcntl
import json
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.model_chain import FAULTS, NEED, WORLD, Crash, ModelChain, Moment, Network, written_by_moment
from tests.support.paying_mutants import ANY, MUTANTS, SHOWN_BY, Step, mutated
from vmsh_scheduler.anchors import combine, confirm, disk, pass_report, receipts, submission_check, transact
from vmsh_scheduler.anchors.chain import Anchor, Refused, Signed, Unreachable
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Corrupt, DiskFailed, Invalid
from vmsh_scheduler.anchors.subject import read_subject
from vmsh_scheduler.anchors.submission import Book, Phase, Submission
from vmsh_scheduler.anchors.verify import verify
from vmsh_scheduler.domain.batch import OPEN_MARKS, Document, render, with_digest
from vmsh_scheduler.errors import Denied, SchedulerError

STUCK_S = 600
BATCHES = ("b1", "b2", "b3")
AT_ONCE = transact.Patience(0, clock=lambda: 0.0, sleep=lambda _: None)


def root_of(batch: str) -> bytes:
    return sha256(batch.encode()).digest()


@dataclass
class World:
    """One root directory, one network, one clock; verbs run in it one after another."""

    root: Path
    network: Network = field(default_factory=Network)
    now: int = 1_000_000
    asked: set[str] = field(default_factory=set)
    owed: set[str] = field(default_factory=set)
    """Asked for, and the last answer was no "ok": the scheduler asks again."""

    def verb(self, name: str, batch: str, moment: Moment) -> dict[str, Any] | None:
        """Its result; None when it failed or was killed."""
        chain = ModelChain(self.network, moment)
        try:
            with written_by_moment(self.network, moment, lambda: self.now):
                if name == "confirm":
                    return confirm.confirm(Facts({"root": str(self.root)}), chain, confirm.Limits(STUCK_S))
                self.asked.add(batch)
                self.owed.add(batch)
                about = sorted(self.owed) if name == "together" else [batch]
                run = transact.probe if name == "probe" else transact.anchor
                result = run(self.facts(*about), chain, AT_ONCE)
                self.owed -= set(about) if result["status"] == "ok" else set()
                return result
        except (SchedulerError, OSError, Crash):
            return None

    def facts(self, *batches: str) -> Facts:
        """Several: as the scheduler asks for all that is pending."""
        told = [self.leaf(batch) for batch in batches]
        if len(told) > 1:
            made = combine.combine(self.root / "out" / "batches", "", told)
            told = [{name: made[name] for name in ("id", "root")}]
        file = self.root / "out" / "batches" / f"{told[0]['id']}.json"
        return Facts({"root": str(self.root), "batch": {**told[0], "file": str(file)}})

    def leaf(self, batch: str) -> dict[str, Any]:
        path = self.root / "out" / "batches" / f"{batch}.json"
        digest = f"sha256:{root_of(batch).hex()}"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            leaf = {"id": batch, "root": digest, "leaves": [digest], "createdAt": 1}
            path.write_text(render(leaf))
        return {"id": batch, "root": digest}

    def payments(self, batch: str) -> int:
        """By itself, and below every super-batch that has it."""
        roots = {root_of(batch).hex()}
        for path in (self.root / "out" / "batches").glob("*-super-*.json"):
            document = json.loads(path.read_text())
            roots |= {document["root"][7:]} if batch in [one["id"] for one in document["batches"]] else set()
        return sum(self.network.payments(root) for root in roots)

    @property
    def book(self) -> Book:
        return Book(self.root / "out", ModelChain.target)

    def receipt(self, batch: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.root / "out/receipts/batches" / f"{batch}.json").read_text())
        anchor: dict[str, Any] = document["anchor"]
        return anchor

    def settle(self) -> None:
        """The node is well, who is owed an answer is asked again, blocks come."""
        for _ in range(12):
            for batch in sorted(self.owed):
                self.verb("probe", batch, Moment())
            if self.owed:
                self.verb("together", min(self.owed), Moment())
            self.now += STUCK_S + 1
            self.verb("confirm", "", Moment())
            self.network.mine()
        for _ in range(2):
            self.verb("confirm", "", Moment())


STEPS = st.one_of(
    st.tuples(
        st.sampled_from(("anchor", "together", "probe")),
        st.sampled_from(BATCHES),
        st.integers(0, 14),
        st.sampled_from(FAULTS),
    ),
    st.tuples(st.just("confirm"), st.just(""), st.integers(0, 20), st.sampled_from(FAULTS)),
    st.tuples(st.just("world"), st.just(""), st.just(0), st.sampled_from(tuple(WORLD))),
    st.tuples(st.just("late"), st.just(""), st.just(0), st.just("")),
)


def played(world: World, steps: list[Step]) -> None:
    for verb, batch, at, what in steps:
        if verb == "world":
            WORLD[what](world.network)
        elif verb == "late":
            world.now += STUCK_S + 1
        else:
            world.verb(verb, batch, Moment(at, what))
        for asked in BATCHES:
            assert world.payments(asked) <= 1, f"{asked} is paid twice after {verb}"


def check_settled(world: World) -> None:
    world.settle()
    for batch in world.asked:
        assert world.payments(batch) == 1
        told = world.receipt(batch)
        kept = world.book.get(told["via"]["batch"] if "via" in told else batch)
        assert kept is not None
        assert kept.phase is Phase.FINAL
        assert world.network.place(kept.tx) == kept.block == told["block"]
        assert (told["tx"], told["status"], told["depth"]) == (kept.tx, "final", NEED)
    assert not list(world.book.unfinished())


@settings(max_examples=100, deadline=None)
@given(steps=st.lists(STEPS, max_size=14), sequential=st.booleans())
def test_whatever_happens_each_batch_is_paid_once_and_has_its_receipt(steps: list[Step], sequential: bool) -> None:
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory), Network(sequential))
        played(world, steps)
        check_settled(world)


def outcome(steps: list[Step]) -> str:
    """ "" = as it should be."""
    with tempfile.TemporaryDirectory() as directory:
        world = World(Path(directory))
        try:
            played(world, steps)
            check_settled(world)
        except (AssertionError, ValueError) as error:
            return f"{type(error).__name__} {error}"
    return ""


def at_every_moment(steps: list[Step]) -> list[list[Step]]:
    moments = range(1, 25) if any(at == ANY for _, _, at, _ in steps) else range(1)
    return [[(verb, batch, moment if at == ANY else at, what) for verb, batch, at, what in steps] for moment in moments]


@pytest.mark.no_cover  # what it runs is measured with others, and measuring takes twice as long
@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_rail_is_seen_and_the_right_one_passes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ways = at_every_moment(SHOWN_BY[name])
    assert [outcome(steps) for steps in ways] == [""] * len(ways)
    mutated(name, monkeypatch)
    assert any(outcome(steps) for steps in ways)


def test_what_was_sent_is_not_guessed_when_the_book_is_damaged(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    path = tmp_path / "out" / "submissions" / "model-1" / "b1.json"
    path.write_text(path.read_text().replace("submitted", "signed"))
    world.network.forget()
    with written(world), pytest.raises(Corrupt, match=r"b1\.json was changed or cut short; restore it"):
        transact.anchor(world.facts("b1"), ModelChain(world.network, Moment()), AT_ONCE)
    told = world.verb("confirm", "", Moment())
    assert told is not None
    assert (told["phases"], told["open"]) == ({"faulty": 1}, 0)
    assert "b1.json was changed or cut short; restore it" in told["warnings"][0]
    assert not world.network.mempool


@pytest.mark.parametrize("grown", [False, True], ids=["by itself", "below a super-batch"])
def test_one_damaged_entry_stops_no_other_batch_and_is_paid_once(tmp_path: Path, grown: bool) -> None:
    world = World(tmp_path)
    if grown:
        world.verb("anchor", "b1", Moment(1, "down"))
    with mock.patch.object(ModelChain, "send", side_effect=Denied("401")):
        world.verb("together", "b2", Moment())
    (path,) = (tmp_path / "out" / "submissions" / "model-1").glob("*.json")
    sound = path.read_text()
    path.write_text(sound[:-20])
    world.now += 1
    result = world.verb("together", "b3", Moment())
    assert result is not None
    assert "skipped, it may be paid for: " in result["warnings"][0]
    assert path.name in result["warnings"][0]
    world.network.mine()
    assert [world.payments(batch) for batch in BATCHES] == [0, 0, 1]
    told = world.verb("confirm", "", Moment())
    assert told is not None
    assert told["phases"] == {"verified": 1, "faulty": 1}
    path.write_text(sound)
    check_settled(world)


def test_what_is_faulty_is_not_paid_again_until_its_file_is_moved_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    known = world.book.get("b1")
    assert known is not None
    world.book.put(replace(known, phase=Phase.FAULTY, fault="it says another root", told=True))
    world.network.forget()
    world.owed.add("b1")
    assert world.verb("anchor", "b1", Moment()) is None
    result = world.verb("together", "b2", Moment())
    assert result is not None
    assert result["warnings"] == [f"skipped, {known.tx} paid for it: it says another root"]
    world.network.mine()
    assert [world.payments(batch) for batch in BATCHES] == [0, 1, 0]
    world.owed.add("b1")
    again = world.verb("together", "b2", Moment())
    assert again is not None
    assert again["warnings"] == result["warnings"]
    (tmp_path / "out" / "submissions" / "model-1" / "b1.json").unlink()
    world.owed.add("b1")
    world.verb("together", "b3", Moment())
    world.network.mine()
    assert [world.payments(batch) for batch in BATCHES] == [1, 1, 1]
    world.verb("confirm", "", Moment())
    (anchor,) = receipts.read(receipts.path_of(tmp_path / "out", "b1"))["anchors"]
    assert (anchor["tx"] != known.tx, anchor["status"]) == (True, "verified")


def test_receipts_that_cannot_be_read_make_nothing_paid_twice(tmp_path: Path) -> None:
    """They say which super-batch a batch stands below once that one is final."""
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment(1, "down"))
    world.verb("together", "b2", Moment())
    check_settled(world)
    for path in (tmp_path / "out" / "receipts" / "batches").glob("b*.json"):
        path.write_text("{")
    world.owed = {"b1", "b2"}
    assert world.verb("together", "b3", Moment()) is not None
    world.network.mine()
    assert [world.payments(batch) for batch in BATCHES] == [1, 1, 1]


def _cut(path: Path) -> None:
    path.write_text(path.read_text()[:-40])


def _renamed(path: Path) -> None:
    """One digit of a member's id."""
    path.write_text(path.read_text().replace('"b2"', '"b3"'))


@pytest.mark.parametrize("asked", [("b1",), ("b2",), BATCHES], ids="+".join)
@pytest.mark.parametrize("harm", [Path.unlink, _cut, _renamed])
def test_what_a_super_batch_covers_stands_in_the_book(
    tmp_path: Path, harm: Callable[[Path], None], asked: tuple[str, ...]
) -> None:
    """Signed, and killed before the receipts said so; then its batch file is harmed."""
    world = World(tmp_path, asked={"b1", "b2", *asked}, owed={"b1"})
    with mock.patch.object(ModelChain, "send", side_effect=Denied("401")):
        world.verb("together", "b2", Moment())
    (path,) = (tmp_path / "out" / "batches").glob("*-super-*.json")
    (entry,) = world.book.every()
    assert [name for name, _ in entry.members] == ["b1", "b2"]
    sound = path.read_text()
    harm(path)
    world.owed = set(asked)
    world.verb("together", asked[-1], Moment())
    world.verb("confirm", "", Moment())
    path.write_text(sound)
    world.network.mine()
    assert [world.payments(batch) for batch in BATCHES] == [1, 1, int("b3" in asked)]
    check_settled(world)


def test_an_entry_without_members_covers_what_its_batch_file_says(tmp_path: Path) -> None:
    """From before they were written down; signed, or final with receipts that were lost."""
    world = World(tmp_path, asked=set(BATCHES), owed={"b1"})
    with mock.patch.object(ModelChain, "send", side_effect=Denied("401")):
        world.verb("together", "b2", Moment())
    (path,) = (tmp_path / "out" / "submissions" / "model-1").glob("*.json")
    document = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("digest", "members")}
    path.write_text(render(with_digest(document)))
    world.owed = set(BATCHES)
    check_settled(world)
    shutil.rmtree(tmp_path / "out" / "receipts")
    world.asked.remove("b3")  # by itself, and not asked for again: its receipt stays away
    world.owed = {"b1"}
    check_settled(world)


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "begun anew by another target"])
def test_receipts_that_are_lost_make_nothing_paid_twice(tmp_path: Path, anew: bool) -> None:
    world = World(tmp_path, asked={"b1", "b2"}, owed={"b1"})
    world.verb("together", "b2", Moment())
    check_settled(world)
    out = tmp_path / "out"
    shutil.rmtree(out / "receipts")
    if anew:
        subject, (entry,) = read_subject(world.facts("b1")), world.book.every()
        covered = receipts.covered_by(subject.batch, subject.document, ())
        receipts.record(out, covered, {**entry.attestation(), "chain": "model:2"})
    world.verb("anchor", "b1", Moment())
    world.network.mine()
    assert world.payments("b1") == 1
    via = [
        anchor["via"]["batch"] for anchor in receipts.read(receipts.path_of(out, "b1"))["anchors"] if "via" in anchor
    ]
    assert via == [entry.batch for entry in world.book.every()]
    world.owed = {"b1"}
    world.verb("together", "b3", Moment())
    world.network.mine()
    assert [world.payments(batch) for batch in BATCHES] == [1, 1, 1]


def test_another_root_under_a_known_id_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    facts = Facts({"root": str(tmp_path), "batch": {"id": "b1", "root": f"sha256:{root_of('b2').hex()}"}})
    with written(world), pytest.raises(Corrupt, match="was sent to model:1 with another root"):
        transact.anchor(facts, ModelChain(world.network, Moment()), AT_ONCE)
    assert len(world.network.mempool) == 1


def test_a_disk_that_is_full_once_it_was_sent_fails_no_run(tmp_path: Path) -> None:
    """Tried again, it would be asked for with what came meanwhile; `confirm` makes it good."""
    world, send = World(tmp_path), ModelChain.send

    def filled(chain: ModelChain, signed: Signed) -> None:
        send(chain, signed)
        full.start()

    full = mock.patch.object(disk, "replace", side_effect=OSError(errno.ENOSPC, "full"))
    with mock.patch.object(ModelChain, "send", filled), written(world):
        result = transact.anchor(world.facts("b1"), ModelChain(world.network, Moment()), AT_ONCE)
        full.stop()
    assert (result["status"], result["phase"]) == ("ok", "signed")
    assert result["warnings"][0].startswith("not finished yet: ")
    world.asked.add("b1")
    check_settled(world)


class OtherKey(ModelChain):
    """With coins of its own."""

    account = "other"

    def _coin(self) -> int:
        return super()._coin() + 100


def test_two_runs_at_once_with_a_key_each_pay_once(tmp_path: Path) -> None:
    """The key was changed while the old one's run went on; the second waits for the first, or both have looked."""
    world, lock, sign = World(tmp_path), disk._lock, ModelChain.sign
    waits, results = threading.Event(), list[dict[str, Any]]()

    def second() -> None:
        results.append(transact.anchor(world.facts("b1"), OtherKey(world.network, Moment()), AT_ONCE))
        waits.set()

    def locked(handle: int, directory: Path, deadline: float) -> None:
        if threading.current_thread() is other:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waits.set()
        lock(handle, directory, deadline)

    def signed(chain: ModelChain, anchor: Anchor) -> Signed:
        if threading.current_thread() is not other:
            other.start()
            assert waits.wait(30)
        return sign(chain, anchor)

    other = threading.Thread(target=second)
    spied = mock.patch.object(disk, "_lock", locked)
    with written(world), spied, mock.patch.object(ModelChain, "sign", signed):
        first = transact.anchor(world.facts("b1"), ModelChain(world.network, Moment()), AT_ONCE)
        other.join(30)
    world.network.mine()
    assert world.payments("b1") == 1
    assert results[0]["attestation"]["tx"] == first["attestation"]["tx"]
    world.asked.add("b1")
    check_settled(world)


def test_a_confirmation_while_a_run_waits_is_not_undone(tmp_path: Path) -> None:
    """The run waits for the first transaction, another process hurries it, the first is mined all the same."""
    world = World(tmp_path)

    def meanwhile(_: float) -> None:
        if not world.book.open()[0].earlier:
            world.now += STUCK_S + 1
            world.verb("confirm", "", Moment())
            world.network.mine(stale=True)

    patience = transact.Patience(5, clock=iter(range(100)).__next__, sleep=meanwhile)
    with written(world):
        transact.anchor(world.facts("b1"), ModelChain(world.network, Moment()), patience)
    kept = world.book.get("b1")
    assert kept is not None
    assert len(kept.earlier) == 1
    world.asked.add("b1")
    check_settled(world)


def test_one_that_cannot_go_on_does_not_hold_up_the_others(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.verb("anchor", "b2", Moment())
    world.network.stranger()
    world.network.funded = 2
    for _ in range(NEED):
        world.network.mine()
    with mock.patch.object(ModelChain, "sign", side_effect=Refused("the wallet is empty")):
        result = world.verb("confirm", "", Moment())
    assert result is not None
    assert result["phases"] == {"submitted": 1, "final": 1}
    assert result["warnings"][0].startswith("batch b1: ")
    assert "the wallet is empty" in result["warnings"][0]


def test_what_another_account_sent_is_never_signed_anew(tmp_path: Path) -> None:
    """The account was changed in anchors.yaml; the new one's nonces and coins say nothing of the old one's."""
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    tx = world.network.mempool.copy()
    world.network.forget()
    with mock.patch.object(ModelChain, "account", "other"), mock.patch.object(ModelChain, "lost", return_value=True):
        world.now += STUCK_S + 1
        result = world.verb("confirm", "", Moment())
    assert result is not None
    assert result["phases"] == {"submitted": 1}
    assert world.network.mempool == tx
    check_settled(world)


def test_a_pass_says_what_moved_and_how_long_the_oldest_waits(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.now += 60
    world.verb("anchor", "b2", Moment())
    world.now += 40
    waiting = world.verb("confirm", "", Moment())
    assert waiting is not None
    assert (waiting["open"], waiting["oldest_open_s"], waiting["changed"]) == (2, 100, [])
    world.network.mine()
    moved = world.verb("confirm", "", Moment())
    assert moved is not None
    assert [(one["batch"], one["was"], one["now"], one["seconds"]) for one in moved["changed"]] == [
        ("b1", "submitted", "verified", 100),
        ("b2", "submitted", "verified", 40),
    ]


def test_a_pass_that_fails_tells_what_the_book_holds(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.now += 90_000
    down = mock.patch.object(ModelChain, "meet", side_effect=Unreachable("nobody there"))
    with down, written(world), pytest.raises(Unreachable) as failed:
        confirm.confirm(
            Facts({"root": str(tmp_path)}), ModelChain(world.network, Moment()), confirm.Limits(STUCK_S, 86_400)
        )
    told = dict(failed.value.details)
    late = told.pop("overdue")
    assert told == {
        "status": "ok",
        "target": ModelChain.target,
        "phases": {"submitted": 1},
        "open": 1,
        "changed": [],
        "oldest_open_s": 90_000,
        "code": "overdue",
        "late": 1,
    }
    assert isinstance(late, list)
    assert [one["batch"] for one in late] == ["b1"]


def test_a_pass_that_fails_says_why_and_what_moved_when_its_book_cannot_be_read_either(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.network.mine()
    full = mock.patch.object(receipts, "record", side_effect=OSError(errno.ENOSPC, "full"))
    closed = mock.patch.object(Book, "every", side_effect=OSError(errno.EACCES, "not yours"))
    with full, closed, written(world), pytest.raises(DiskFailed) as failed:
        confirm.confirm(Facts({"root": str(tmp_path)}), ModelChain(world.network, Moment()), confirm.Limits(STUCK_S))
    assert failed.value.details.keys() == {"changed"}
    assert moves_of(failed.value.details) == [("submitted", "verified")]


def test_what_moved_is_told_also_when_the_disk_fails_once_it_is_written(tmp_path: Path) -> None:
    """The next pass finds it where it is."""
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.network.mine()
    unsynced = mock.patch.object(disk, "sync_directory", side_effect=OSError(errno.EIO, "broken"))
    with unsynced, pytest.raises(DiskFailed) as failed:
        confirm.confirm(Facts({"root": str(tmp_path)}), ModelChain(world.network, Moment()), confirm.Limits(STUCK_S))
    assert moves_of(failed.value.details) == [("submitted", "verified")]
    again = world.verb("confirm", "", Moment())
    assert again is not None
    assert (again["phases"], moves_of(again)) == ({"verified": 1}, [])


def test_what_was_signed_anew_is_told_also_when_it_cannot_be_sent(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.network.forget()
    refused = mock.patch.object(ModelChain, "send", side_effect=Denied("401"))
    with refused, mock.patch.object(ModelChain, "lost", return_value=True):
        result = world.verb("confirm", "", Moment())
    assert result is not None
    assert (result["phases"], moves_of(result)) == ({"signed": 1}, [("submitted", "signed")])


def test_a_pass_that_takes_long_begins_no_further_look_and_tells_what_moved(tmp_path: Path) -> None:
    """At its time limit it would be killed, and nobody would hear of it."""
    world = World(tmp_path)
    for batch in ("b1", "b2", "b3"):
        world.verb("anchor", batch, Moment())
        world.now += 1
    world.network.mine()
    seconds = iter((0.0, 1.0, pass_report.PASS_S, pass_report.PASS_S + 1))
    with mock.patch.object(confirm, "monotonic", side_effect=seconds):
        cut = world.verb("confirm", "", Moment())
    assert cut is not None
    assert [one["batch"] for one in cut["changed"]] == ["b1", "b2"]
    assert cut["warnings"] == ["batch b3 and those after it wait for the next pass: this one took 120 s"]
    rest = world.verb("confirm", "", Moment())
    assert rest is not None
    assert [one["batch"] for one in rest["changed"]] == ["b3"]


def test_what_only_went_deeper_is_listed_last(tmp_path: Path) -> None:
    moves = pass_report.Moves(Book(tmp_path, "eip155:1"))
    for number in range(pass_report.LISTED + 1):
        one = Submission("eip155:1", "me", f"b{number}", "sha256:", "0x", "", 1, phase=Phase.VERIFIED, depth=1)
        lost = number == pass_report.LISTED
        with moves.of(one):
            moves.note(replace(one, depth=0, phase=Phase.REORGED) if lost else replace(one, depth=2))
    told = moves.told()
    assert (told["changed"][0]["now"], len(told["changed"])) == ("reorged", pass_report.LISTED)
    assert told["unlisted"] == {"moves": 1, "reorged": 0, "final": 0, "final_s": 0}


def moves_of(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(one["was"], one["now"]) for one in result["changed"]]


def test_a_probe_while_nothing_may_be_written_asks_nobody(tmp_path: Path) -> None:
    world = World(tmp_path)
    down = mock.patch.object(ModelChain, "send", side_effect=Unreachable("nobody there"))
    with down:
        world.verb("anchor", "b1", Moment())
    off = {"ANCHOR_WRITE_ENABLED": "0"}
    facts = [Facts(world.facts(batch).document, off) for batch in ("b1", "b2")]
    node = mock.Mock(spec=ModelChain, target=ModelChain.target)
    with written(world):
        signed, never = (transact.probe(each, node, AT_ONCE) for each in facts)
    assert (signed["status"], signed["phase"], never) == ("ok", "signed", {"status": "none", "exit": 1})
    assert node.method_calls == []
    assert world.receipt("b1")["tx"] == signed["attestation"]["tx"]
    assert not world.network.mempool


@pytest.mark.parametrize(
    ("phase", "root", "says"),
    [
        (Phase.LOST, "b1", ""),
        (Phase.FAULTY, "b1", "it says another root"),
        (Phase.SIGNED, "b2", "was sent to model:1 with another root"),
    ],
)
def test_a_probe_while_nothing_may_be_written_passes_only_what_will_be_sent(
    tmp_path: Path, phase: Phase, root: str, says: str
) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    known = world.book.get("b1")
    assert known is not None
    fault = says if phase is Phase.FAULTY else ""
    world.book.put(replace(known, phase=phase, fault=fault))
    (tmp_path / "out/receipts/batches/b1.json").unlink()
    about = {"id": "b1", "root": f"sha256:{root_of(root).hex()}"}
    facts = Facts({"root": str(tmp_path), "batch": about}, {"ANCHOR_WRITE_ENABLED": "0"})
    with written(world):
        if says:
            with pytest.raises(Invalid, match=says):
                transact.probe(facts, ModelChain(world.network, Moment()), AT_ONCE)
        else:
            told = transact.probe(facts, ModelChain(world.network, Moment()), AT_ONCE)
            assert told == {"status": "none", "exit": 1}
    assert not (tmp_path / "out/receipts/batches/b1.json").exists()


def test_a_run_says_how_far_it_came_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    first, again = (world.verb("anchor", "b1", Moment()) for _ in range(2))
    assert first is not None
    assert again is not None
    assert [(one["was"], one["now"]) for one in first["changed"]] == [("", "submitted")]
    assert "changed" not in again


def test_a_refused_batch_is_signed_anew_when_it_is_asked_for_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.network.funded = 0
    with written(world), pytest.raises(Refused):
        transact.anchor(world.facts("b1"), ModelChain(world.network, Moment()), AT_ONCE)
    kept = world.book.get("b1")
    assert kept is not None
    assert kept.phase is Phase.LOST
    world.network.funded = 10
    world.asked.add("b1")
    world.owed.add("b1")
    check_settled(world)


@pytest.mark.parametrize("ahead", [False, True], ids=["long ago", "by a clock that was ahead"])
def test_what_waits_for_long_is_said(tmp_path: Path, ahead: bool) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.now += -90_000 if ahead else 90_000
    told = world.verb("confirm", "", Moment())
    assert told is not None
    assert (told["code"], told["oldest_open_s"], told["overdue"][0]["batch"]) == ("overdue", 90_000, "b1")


def test_a_copy_without_its_dotfiles_has_nothing_paid_twice(tmp_path: Path) -> None:
    """Signed below a super-batch, and in no receipt yet: only the book knows."""
    world = World(tmp_path)
    world.owed.add("b1")
    with mock.patch.object(ModelChain, "send", side_effect=Denied("401")):
        world.verb("together", "b2", Moment())
    shutil.rmtree(tmp_path / "out" / "submissions" / "model-1" / OPEN_MARKS)
    assert world.verb("together", "b3", Moment()) is not None
    world.network.mine()
    assert [world.payments(batch) for batch in BATCHES] == [1, 1, 1]
    check_settled(world)


def test_one_that_lost_its_mark_is_looked_at_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    world.verb("anchor", "b2", Moment())
    (tmp_path / "out" / "submissions" / "model-1" / OPEN_MARKS / "b1").unlink()
    first = world.verb("confirm", "", Moment())
    assert first is not None
    assert first["open"] == 2
    check_settled(world)


@pytest.mark.parametrize(
    "wrong",
    [
        {"signed_at": "abc"},
        {"signed_at": -1},
        {"signed_at": True},
        {"depth": 1.5},
        {"need": None},
        {"account": None},
        {"raw": 5},
        {"raw": "no hex"},
        {"details": []},
        {"details": {"fee": "1"}},
        {"details": {"memo": 1}},
        {"batch": "../x"},
        {"batch": "b2"},
        {"target": "model:2"},
        {"told": "yes"},
        {"earlier": [{"tx": 1, "raw": "", "details": {}}]},
        {"earlier": [{"tx": "a", "raw": "", "details": {"nonce": "1"}}]},
        {"earlier": [5]},
        {"members": None},
        {"members": "b2"},
        {"members": ["b2"]},
        {"members": [["b2"]]},
        {"members": [["b2", "sha256:00"]]},
        {"members": [["../x", "sha256:" + "0" * 64]]},
        {"members": [["b2", "sha256:" + "0" * 64, ""]]},
    ],
    ids=str,
)
def test_an_entry_of_another_format_below_its_own_digest_counts_as_damaged(tmp_path: Path, wrong: Document) -> None:
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    path = tmp_path / "out" / "submissions" / "model-1" / "b1.json"
    document = {**json.loads(path.read_text()), **wrong}
    document.pop("digest")
    path.write_text(render(with_digest(document)))
    world.network.forget()
    with (
        written(world),
        pytest.raises(Corrupt, match=r"b1\.json is of another format|b1\.json lies in the wrong place"),
    ):
        transact.anchor(world.facts("b1"), ModelChain(world.network, Moment()), AT_ONCE)
    told = world.verb("confirm", "", Moment())
    assert told is not None
    assert told["phases"] == {"faulty": 1}
    assert "b1.json" in told["warnings"][0]
    assert [row.ok for row in submission_check.check(tmp_path / "out")] == [False]
    assert not world.network.mempool


@pytest.mark.parametrize("verb", ["anchor", "together"])
def test_whoever_asks_for_a_batch_hears_of_its_damaged_entry(tmp_path: Path, verb: str) -> None:
    """Also where it was paid for below a super-batch; and of no other's."""
    world = World(tmp_path)
    world.verb("anchor", "b3", Moment())
    if verb == "together":
        world.owed.add("b2")
    world.verb(verb, "b1", Moment())
    (name,) = set(world.book.batches()) - {"b3"}
    path = tmp_path / "out" / "submissions" / "model-1" / f"{name}.json"
    assert all(verify(tmp_path, what).ok for what in ("all", "b1", "b3", name))
    path.write_text("{}")
    for what in ("all", "b1", name):
        said = [(row.subject, row.kind) for row in verify(tmp_path, what).rows if not row.ok]
        assert said == [(f"model-1/{name}", "submission")], what
    assert verify(tmp_path, "b3").ok


def test_any_flipped_byte_of_an_entry_is_seen(tmp_path: Path) -> None:
    """Blanks too, which say nothing."""
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    path = tmp_path / "out" / "submissions" / "model-1" / "b1.json"
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        with pytest.raises(Corrupt):
            world.book.get("b1")
    for same in (raw + b"\n", b" " + raw, raw.replace(b"\n", b"\r\n")):
        path.write_bytes(same)
        with pytest.raises(Corrupt):
            world.book.get("b1")
    path.write_bytes(raw)
    assert world.book.get("b1") is not None


def written(world: World) -> AbstractContextManager[None]:
    return written_by_moment(world.network, Moment(), lambda: world.now)


def test_a_mark_that_a_crash_left_behind_is_taken_away(tmp_path: Path) -> None:
    """The daemon would start a pass for it every minute, for ever."""
    world = World(tmp_path)
    world.verb("anchor", "b1", Moment())
    marks = next((tmp_path / "out" / "submissions").glob("*/.open"))
    (marks / "never-written").touch()
    book = Book(tmp_path / "out", ModelChain(world.network, Moment()).target)
    assert [one.batch for one in book.unfinished()] == ["b1"]
    assert [path.name for path in marks.iterdir()] == ["b1"]
    known = book.get("b1")
    assert known is not None
    book.put(replace(known, phase=Phase.FINAL, told=True))
    (marks / "b1").touch()
    assert book.unfinished() == []
    assert list(marks.iterdir()) == []
