"""Disks that give the anchors something else than a file, or no room: said at once, by the right exit code."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.site import Document, Site
from vmsh_scheduler.anchors import disk, sealing
from vmsh_scheduler.anchors.bundle import collect
from vmsh_scheduler.anchors.failures import Corrupt, Invalid, for_verb, of_os
from vmsh_scheduler.anchors.receipt_text import text
from vmsh_scheduler.anchors.receipts import path_of
from vmsh_scheduler.domain.batch import BadBatch
from vmsh_scheduler.domain.classify import classify
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.errors import Exit

PATIENCE_S = 60
FULL = "/dev/full"
LOG = ("entries.jsonl", "checkpoints.jsonl")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path)
    site.write("a.txt", "a")
    return site


@pytest.fixture(autouse=True)
def _ends() -> Iterator[None]:
    """Nobody is at the other end of these FIFOs: what waits for one waits for ever."""

    def late(*_: object) -> None:
        raise AssertionError(f"still waiting after {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def fifo(path: Path) -> Path:
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    return path


def anchored(site: Site) -> Document:
    sealed = site.seal("*.txt").result
    assert site.anchor(sealed, "job/1").code == 0
    return sealed


def test_a_fifo_among_the_batches_is_no_batch(site: Site) -> None:
    site.batches.mkdir(parents=True)
    path = fifo(site.batches / "9999999999-1.json")
    found = sealing.glance(path)
    assert isinstance(found, BadBatch)
    assert found.reason == f"{path} is no regular file"
    assert site.seal("*.txt").result["status"] == "ok"
    assert "no regular file" in site.failures()[0].detail


@pytest.mark.parametrize("name", LOG)
def test_a_fifo_in_place_of_a_ledgers_file_is_named(site: Site, name: str) -> None:
    sealed = anchored(site)
    path = fifo(site.ledger / name)
    said = f"{path} is no regular file"
    for what in ("all", sealed["id"], "local:demo"):
        answer = site.ask("verify", {"what": what})
        assert answer.code == Exit.FAILED
        assert any(not row["ok"] for row in answer.result["rows"]), what
    assert said in [row.detail for row in site.failures("local:demo")]
    again = site.anchor(sealed, "job/2")
    assert (again.code, again.result["code"], again.result["message"]) == (65, "corrupt", said)
    assert site.ask("proof", {"file": str(site.root / "a.txt")}).code == Exit.FAILED
    with pytest.raises(Corrupt, match="no sound entry"):
        collect(site.root, sealed["id"])


def test_a_fifo_in_the_index_is_named(site: Site) -> None:
    sealed = anchored(site)
    for shard in (site.ledger / "index").iterdir():
        fifo(shard)
    again = site.anchor(sealed, "job/1")
    assert (again.code, "is no regular file" in again.result["message"]) == (65, True)


CALLS: dict[str, Callable[[Path], object]] = {
    "read": lambda path: disk.read(path, 9),
    "sync": disk.sync,
    "append": lambda path: disk.append(path, b"x"),
    "cut": lambda path: disk.cut(path, 0),
    "ends_a_line": lambda path: disk.ends_a_line(path, 1),
}


@pytest.mark.parametrize("call", CALLS)
def test_no_call_waits_for_the_other_end_of_a_fifo(tmp_path: Path, call: str) -> None:
    path = fifo(tmp_path / ".a.tmp")
    with pytest.raises(Invalid, match=r"\.a\.tmp is no regular file"):
        CALLS[call](path)
    path.unlink()
    path.mkdir()
    with pytest.raises(Invalid, match=r"\.a\.tmp is a directory"):
        CALLS[call](path)


def nowhere(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to("gone/nowhere")
    return path


def in_circles(path: Path) -> Path:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)
    return path


NO_FILES: list[Callable[[Path], Path]] = [fifo, nowhere, in_circles]


@pytest.mark.parametrize("make", NO_FILES)
def test_what_is_no_file_beside_one_that_is_written_gives_way(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    make(disk.temporary(tmp_path / "a"))
    disk.replace(tmp_path / "a", b"x")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"x")]


def test_nothing_is_written_through_what_lies_beside_a_file(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "key"
    victim.write_bytes(b"mine")
    disk.temporary(path).symlink_to(victim)
    disk.replace(path, b"secret", mode=0o600)
    assert (victim.read_bytes(), path.is_symlink()) == (b"mine", False)
    disk.temporary(path).write_bytes(b"left by a crash")  # readable by all
    disk.replace(path, b"x", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"x", 0o600)


def test_a_directory_beside_a_file_is_named_and_left_alone(tmp_path: Path) -> None:
    kept = disk.temporary(tmp_path / "a") / "kept"
    kept.parent.mkdir()
    kept.touch()
    with pytest.raises(Invalid, match=r"\.a\.tmp is a directory; move it away"):
        disk.replace(tmp_path / "a", b"x")
    assert kept.exists()


MADE_ANEW = ("tail.json", ".tail.json.tmp", "checkpoint", ".checkpoint.tmp")


@pytest.mark.parametrize("make", NO_FILES)
@pytest.mark.parametrize("name", MADE_ANEW)
def test_what_a_ledger_can_make_anew_holds_no_anchor_up(site: Site, name: str, make: Callable[[Path], Path]) -> None:
    sealed = anchored(site)
    make(site.ledger / name)
    again = site.anchor(site.put_batch("10"), "job/2")
    assert (again.code, site.failures()) == (0, [])
    assert site.anchor(sealed, "job/1").code == 0
    assert len((site.ledger / "entries.jsonl").read_bytes().splitlines()) == 2
    assert all((site.ledger / each).is_file() for each in ("tail.json", "checkpoint"))


@pytest.mark.parametrize("name", MADE_ANEW)
def test_a_directory_that_holds_a_ledger_up_is_named_by_both(site: Site, name: str) -> None:
    sealed = anchored(site)
    path, entries = site.ledger / name, site.ledger / "entries.jsonl"
    path.unlink(missing_ok=True)
    path.mkdir()
    before = entries.read_bytes()
    refused = site.anchor(site.put_batch("10"), "job/2")
    assert (refused.code, refused.result["code"]) == (Exit.STATE_UNREADABLE, "corrupt")
    assert refused.result["message"].startswith(f"{path} is a directory; move it away")
    assert entries.read_bytes() == before
    (row,) = site.failures("local:demo")
    assert f"{path} is a directory" in row.detail
    if name != "checkpoint":  # which is evidence
        assert row.detail.endswith("move it away")
        assert not site.failures(sealed["id"]), "what was anchored stands"
    path.rmdir()
    assert site.anchor(site.read("out/batches/10.json"), "job/2").code == 0
    assert not site.failures()


def test_a_ledgers_end_is_cut_and_looked_at_as_before(tmp_path: Path) -> None:
    path = tmp_path / "entries.jsonl"
    assert (disk.cut(path, 3), disk.ends_a_line(path, 3)) == (0, False)
    disk.append(path, b"ab\ncd")
    assert (disk.ends_a_line(path, 3), disk.ends_a_line(path, 5)) == (True, False)
    assert (disk.cut(path, 9), disk.cut(path, 3), path.read_bytes()) == (0, 2, b"ab\n")
    disk.append(path, b"ef\n")
    disk.sync(path)
    assert path.read_bytes() == b"ab\nef\n"
    with pytest.raises(FileNotFoundError):
        disk.sync(tmp_path / "gone")


ROOT = "sha256:" + "ab" * 32
ODD: list[tuple[str, dict[str, Any]]] = [
    ("proof", {"file": "a\0"}),
    ("verify", {"what": "a\0"}),
    ("verify", {"trust": "a\0"}),
    ("verify", {"root": "/a\0"}),
    ("seal", {"files": ["*"], "directory": "/a\0"}),
    ("seal", {"files": ["*"], "base": "a\0"}),
    ("seal", {"files": ["a\0"]}),
    ("seal", {"journal": "a\0"}),
    ("combine", {"directory": "/a\0", "batches": [{"id": str(n), "root": ROOT} for n in (1, 2)]}),
    ("local", {"target": "local:demo", "batch": {"id": "1", "root": ROOT, "file": "/a\0"}}),
    ("local", {"target": "local:demo", "batch": {"id": "1", "root": ROOT}, "keys": "/a\0"}),
    ("tsa", {"target": "rfc3161:x", "batch": {"id": "1", "root": ROOT}, "rail": {"url": "a", "trustBundle": "a\0"}}),
    ("proof", {"file": "a\ud800"}),
]


@pytest.mark.parametrize(("verb", "document"), ODD)
def test_what_no_path_can_hold_is_refused_before_anything_is_done(
    site: Site, verb: str, document: dict[str, Any]
) -> None:
    answer = site.ask(verb, document)
    assert (answer.code, answer.result["code"]) == (65, "invalid")
    assert answer.result["message"].startswith("stdin: a text holds ")


def test_a_name_that_is_not_utf_8_is_a_path_all_the_same(site: Site) -> None:
    name = os.fsdecode(b"\xff.txt")
    site.write(name, "a")
    answer = site.ask("proof", {"file": str(site.root / name)})
    assert (answer.code, answer.result["code"]) == (Exit.FAILED, "not_found")


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EACCES, Exit.DENIED),
        (errno.EPERM, Exit.DENIED),
        (errno.ENOENT, Exit.CANNOT_CREATE),
        (errno.EISDIR, Exit.CANNOT_CREATE),
        (errno.ENOTDIR, Exit.CANNOT_CREATE),
        (errno.EEXIST, Exit.CANNOT_CREATE),
        (errno.ENOSPC, Exit.IO_ERROR),
        (errno.EDQUOT, Exit.IO_ERROR),
        (errno.EFBIG, Exit.IO_ERROR),
        (errno.EIO, Exit.IO_ERROR),
        (errno.EROFS, Exit.IO_ERROR),
        (errno.EAGAIN, Exit.BUSY),
        (errno.ECONNRESET, Exit.BUSY),
    ],
)
def test_each_system_error_has_its_exit_code(number: int, code: Exit) -> None:
    def failed() -> OSError:
        return OSError(number, os.strerror(number), "/x")

    told = of_os(failed())
    assert told.exit == code
    assert str(told).startswith(f"{os.strerror(number)}: /x")
    verb = for_verb(failed())
    assert verb.exit == (code if code is Exit.DENIED else Exit.BUSY)
    waits = ErrorClass.AUTH if code is Exit.DENIED else ErrorClass.NETWORK
    assert classify(int(verb.exit), None, False, str(verb), ())[0] is waits, "the scheduler tries again as it did"
    assert str(verb) == str(told)


def test_a_receipt_that_is_a_directory_cannot_be_read(site: Site) -> None:
    path = path_of(site.out, "10")
    path.mkdir(parents=True)
    with pytest.raises(Invalid, match="is a directory") as failed:
        text(site.root, "10")
    assert failed.value.exit == Exit.STATE_UNREADABLE


def test_a_bundle_that_cannot_be_written_names_its_file(site: Site, tmp_path: Path) -> None:
    made = collect(site.root, anchored(site)["id"])
    for path, code in (
        (tmp_path / "gone" / "x.tar", 73),
        (tmp_path / "a.txt" / "x.tar", 73),
        (tmp_path / ("x" * 300), 73),
    ):
        with pytest.raises(OSError, match=r"No such file|Not a directory|name too long") as failed:
            made.write(path)
        assert (of_os(failed.value).exit, failed.value.filename) == (code, str(path))


def no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def run(verb: str, document: Document, **more: Any) -> "subprocess.CompletedProcess[bytes]":
    keep = {name: value for name, value in os.environ.items() if name.startswith("PATH")}
    return subprocess.run(
        [sys.executable, "-m", "vmsh_scheduler.anchors", verb],
        input=json.dumps(document).encode(),
        env=keep,
        timeout=PATIENCE_S,
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


def test_a_full_disk_is_named_and_tried_again(site: Site) -> None:
    batch = site.put_batch("10")
    anchored(site)
    for verb, wanted in (
        ("local", site.request(batch)),
        ("seal", {"files": ["*.txt"], "directory": str(site.out / "b")}),
    ):
        done = run(verb, {"root": str(site.root), **wanted}, preexec_fn=no_room)
        answer = json.loads(done.stdout)
        assert (done.returncode, answer["code"]) == (Exit.BUSY, "disk_failed"), done
        assert answer["message"].startswith(f"File too large: {site.out}/"), "what cannot be written is named"
    assert not site.failures()
    assert site.anchor(batch).code == 0


def test_a_result_that_finds_no_room_is_a_failure_with_a_cause(site: Site) -> None:
    with Path(FULL).open("wb") as full:
        done = run("verify", {"root": str(site.root)}, stdout=full)
        assert done.returncode == Exit.BUSY
        assert done.stderr.decode() == "the result cannot be said: No space left on device; see df and mount\n"
        assert run("verify", {"root": str(site.root)}, stdout=full, stderr=full).returncode == Exit.BUSY


def test_a_failure_that_finds_no_room_keeps_its_class(site: Site) -> None:
    odd = {"root": str(site.root), "what": "none"}
    with Path(FULL).open("wb") as full:
        done = run("verify", odd, stdout=full)
        assert (done.returncode, b"is no batch" in done.stderr) == (Exit.USAGE, True)
        done = run("verify", odd, stderr=full)
        assert (done.returncode, json.loads(done.stdout)["code"]) == (Exit.USAGE, "usage")
        assert run("verify", odd, stdout=full, stderr=full).returncode == Exit.USAGE
