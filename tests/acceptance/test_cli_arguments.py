"""What a command line may not say, though files may have any name; what `doctor` finds of all that a start refuses."""

import os
import shutil

import pytest

from tests.support.daemon import Place
from tests.support.stubs import cadences

BAD = os.fsdecode(b"\xff")
JOB = "ns/fast"
HOURLY = cadences(fast="every: 1h")
SEALED = """\
namespaces:
  ns:
    seal: {files: ["docs/*.txt"]}
    cadence:
      fast: {target: "local:main", every: 1h}
"""


@pytest.fixture
def sealed(place: Place) -> Place:
    place.configure(SEALED)
    place.write("docs/a.txt", "a\n")
    return place


@pytest.mark.parametrize(
    "line",
    [
        "why BAD",
        "why ns/fast --at BAD",
        "history BAD",
        "history --before BAD",
        "next BAD",
        "trigger BAD",
        "pause BAD",
        "pause ns/fast --note BAD",
        "pause ns/fast --until BAD",
        "resume BAD",
        "reset BAD",
        "resolve BAD --as ok",
        "resolve run --as BAD",
        "agents register BAD --wallet kaspa:x",
        "agents register a --wallet kaspa:x --strategy BAD",
        "agents pause a --user BAD",
        "schema BAD",
        "seal BAD",
        "receipt BAD",
        "record deploy --component BAD --version 1 --sha256 0",
        "verify-audit --root BAD",
        "deploy-contract --target BAD",
    ],
)
def test_text_that_is_no_utf8_is_wrong_use(place: Place, line: str) -> None:
    place.configure(HOURLY)
    refuses(place, line)
    assert not place.state.parent.exists()


def refuses(place: Place, line: str) -> None:
    done = place.cli(*(f"x\x1b{BAD}" if word == "BAD" else word for word in line.split()))
    said = "vmsh-scheduler: the argument `x\\x1b\\xff` is not UTF-8; only names of files may be anything else\n"
    assert (done.code, done.out, done.err) == (2, "", said)


def test_a_daemon_is_not_asked_for_it(place: Place) -> None:
    place.configure(HOURLY)
    place.daemon().ready()
    for line in ("why BAD", "trigger BAD", "pause ns/fast --note BAD", "resolve BAD --as ok", "agents pause BAD"):
        refuses(place, line)
    assert not place.cli("status", "--json").ok().json["jobs"][0]["paused"]


@pytest.mark.parametrize("live", [True, False], ids=["live", "alone"])
def test_a_login_name_that_is_no_utf8_is_no_hindrance(place: Place, live: bool) -> None:
    place.configure(HOURLY)
    if live:
        place.daemon().ready()
    place.cli("pause", JOB, env={"LOGNAME": BAD}).ok()
    assert "paused by \\udcff" in place.cli("why", JOB).ok().out


def test_files_may_have_any_name(sealed: Place) -> None:
    """Those of the settings, those that are written, and those that are looked at."""
    shutil.move(sealed.namespaces, sealed.root / f"n{BAD}.yaml")
    sealed.write(f"s{BAD}.yaml", "concurrency: 3\n")
    sealed.write(f"e{BAD}", "VMSH_DRAIN_MS=5000\n")
    front = ("--namespaces", f"n{BAD}.yaml", f"--config=s{BAD}.yaml", "--env-file", f"e{BAD}")
    rows = {row["name"]: row["value"] for row in sealed.cli(*front, "config", "show", "--json").ok().json}
    assert (rows["concurrency"], rows["drain_ms"]) == (3, 5000)
    there = (*front, "--state", f"state{BAD}/s.json")
    sealed.cli(*there, "tick").ok()
    sealed.cli(*there, "pause", JOB).ok()
    assert sealed.cli(*there, "status", "--json").ok().json["jobs"][0]["paused"]
    sealed.cli("proof", "docs/a.txt", "-o", f"p{BAD}.json").ok()
    assert sealed.cli("verify", f"p{BAD}.json", "--json").ok().json["checked"] == 1
    sealed.cli("bundle", "docs/a.txt", f"--out=b{BAD}.tar").ok()
    assert sealed.root.joinpath(f"b{BAD}.tar").stat().st_size
    assert "is no batch" in sealed.cli("bundle", f"docs/{BAD}", "-o", "b.tar").err
    assert "in no sealed batch" in sealed.cli("proof", f"docs/{BAD}").err


def test_a_root_may_have_any_name(place: Place) -> None:
    place.configure(HOURLY)
    shutil.copytree(place.root / "config", place.root / f"r{BAD}" / "vmsh" / "config")
    for verb in ("validate-config", "tick", "status", f"why {JOB}", f"pause {JOB}", "history", "doctor"):
        place.cli("--root", f"r{BAD}", *verb.split()).ok()


def test_a_receipt_names_its_evidence_in_utf8(place: Place) -> None:
    place.configure(HOURLY)
    place.write(f"e{BAD}", "x")
    done = place.cli("record", "deploy", "--component", "c", "--version", "1", "--evidence", f"e{BAD}")
    assert (done.code, done.out) == (2, "")
    assert "the argument `e\\xff` is not UTF-8" in done.err
    assert not (place.root / "ops").exists()


@pytest.mark.parametrize("live", [True, False], ids=["live", "alone"])
def test_why_at_is_about_the_past(place: Place, live: bool) -> None:
    place.configure(HOURLY)
    if live:
        place.daemon().ready()
    for at in ("9999-12-31T23:59:59Z", "1h"):
        done = place.cli("why", JOB, "--at", at)
        assert (done.code, done.out) == (2, "")
        assert f"--at '{at}' is yet to come; give one in the past" in done.err
    none = place.cli("why", JOB, "--at", "")
    assert (none.code, none.out) == (2, "")
    assert "'' is no time" in none.err
    place.cli("why", JOB, "--at", "-1s").ok()


def test_an_empty_instant_is_none_at_all(place: Place) -> None:
    """A variable of a script that was not set: nothing is paused for ever by it."""
    place.configure(HOURLY)
    for line in (("pause", JOB, "--until", ""), ("history", JOB, "--before", "")):
        done = place.cli(*line)
        assert (done.code, "'' is no time" in done.err) == (2, True), line
    assert not place.cli("status", "--json").ok().json["jobs"][0]["paused"]


@pytest.mark.parametrize("live", [True, False], ids=["live", "alone"])
def test_a_note_has_one_limit(place: Place, live: bool) -> None:
    place.configure(HOURLY)
    if live:
        place.daemon().ready()
    for length in (501, 40_000):
        done = place.cli("pause", JOB, "--note", "ü" * length)
        assert (done.code, done.out) == (2, "")
        assert f"--note has {length} characters; at most 500 are kept" in done.err
    place.cli("pause", JOB, "--note", "ü" * 500).ok()
    assert place.cli("why", JOB, "--json").ok().json["text"].endswith(f": {'ü' * 500}")


def make(place: Place, name: str, kind: str) -> None:
    path = place.state.parent / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    makers = {"directory": path.mkdir, "fifo": lambda: os.mkfifo(path), "loop": lambda: path.symlink_to(path.name)}
    makers[kind]()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("runs", "keys") for kind in ("fifo", "loop")),
        *(("scheduler.lock", kind) for kind in ("directory", "fifo", "loop")),
        ("scheduler-specs.db", "fifo"),
    ],
)
def test_doctor_finds_what_a_tick_refuses(place: Place, name: str, kind: str) -> None:
    place.configure(HOURLY)
    place.cli("tick")
    make(place, name, kind)
    env = {"PORT": "0"}
    refused = place.cli("pause", JOB, env=env)
    assert refused.code == 77
    finds(place, name, refused.err, env)


def finds(place: Place, name: str, refusal: str, env: dict[str, str] | None = None) -> None:
    """In the words of what refuses it, and nothing else."""
    done = place.cli("doctor", "--json", env=env)
    assert done.code == 1
    (bad,) = [row for row in done.json if not row["ok"]]
    assert bad["subject"] == str(place.state.with_name(name))
    assert refusal.splitlines()[-1] == f"vmsh-scheduler: {bad['detail']}"


def test_doctor_finds_what_is_in_the_way_of_the_socket(place: Place) -> None:
    place.configure(HOURLY)
    place.cli("tick")
    make(place, "control.sock", "fifo")
    daemon = place.daemon()
    assert daemon.wait() == 73
    finds(place, "control.sock", daemon.text())


def test_doctor_finds_a_previous_snapshot_that_cannot_be_replaced(place: Place) -> None:
    place.configure(HOURLY)
    place.cli("tick")
    make(place, "scheduler.json.prev", "directory")
    assert place.cli("pause", JOB).code == 74
    done = place.cli("doctor", "--json")
    assert done.code == 1
    assert [row["detail"].partition(" is ")[0] for row in done.json if not row["ok"]] == [f"{place.state}.prev"]


@pytest.mark.parametrize("kind", ["file", "loop"])
def test_doctor_finds_what_is_in_the_way_of_the_state(place: Place, kind: str) -> None:
    place.configure(HOURLY)
    place.write("state", "") if kind == "file" else (place.root / "state").symlink_to("state")
    there = ("--state", "state/below/s.json")
    assert place.cli(*there, "tick").code == 73
    done = place.cli(*there, "doctor", "--json")
    assert done.code == 1
    (bad,) = [row for row in done.json if not row["ok"]]
    assert bad["detail"] == f"{place.root / 'state'} is not a directory; move it away"


def test_doctor_is_content_beside_a_daemon_with_agents(place: Place) -> None:
    place.configure(HOURLY)
    place.daemon(env={"PORT": "0"}).ready()
    assert all(row["ok"] for row in place.cli("doctor", "--json", env={"PORT": "0"}).ok().json)


def test_a_name_is_refused_in_the_letters_it_has(place: Place) -> None:
    place.configure(HOURLY.replace("  ns:", '  "né\\e":'))
    done = place.cli("validate-config")
    assert done.code == 78
    assert "namespaces.'né\\x1b': must be printable text" in done.err
