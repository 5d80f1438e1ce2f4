"""What is remembered of anchors and deployments: rows, .receipt files, roots; and what an audit says of changes."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.remembering import WRITES, attestation, killed, record
from tests.support.site import Site
from vmsh_scheduler.anchors import receipts
from vmsh_scheduler.anchors.audit import audit
from vmsh_scheduler.anchors.deploy_receipts import anchor_component, path_of
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.memory_tree import MemoryTree, leaf
from vmsh_scheduler.anchors.remembrancer import Remembrancer, deploy_evidence
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.errors import CannotCreate, NotFound, Usage


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "ops").mkdir()
    return tmp_path


def database(root: Path) -> Path:
    return root / "ops" / "data" / "remembrancer.db"


def rows(root: Path) -> list[dict[str, Any]]:
    with closing(sqlite3.connect(database(root))) as connection:
        connection.row_factory = sqlite3.Row
        return [dict(row) for row in connection.execute("SELECT * FROM memories ORDER BY timestamp, id")]


def run(root: Path, statement: str, *values: object) -> None:
    """Behind the program's back."""
    with closing(sqlite3.connect(database(root))) as connection, connection:
        connection.execute(statement, values)


def faults(root: Path, kept: str = "") -> list[Row]:
    return [row for row in audit(root, kept) if not row.ok]


def receipt_files(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (root / "ops/receipts/deploy").glob("*.receipt")}


def test_an_anchor_leaves_a_row_a_receipt_and_a_root(root: Path) -> None:
    site = Site(root)
    site.write("a.md", "a")
    batch = site.seal("*.md").result
    answer = site.anchor(batch, "key").result
    assert "warnings" not in answer
    (row,) = rows(root)
    assert row["id"] == f"anchor:demo:files:fast:{batch['id']}"
    assert (row["type"], row["hash"], row["version"]) == ("anchor", batch["root"], batch["id"])
    told = json.loads(row["data"])
    assert {key: told[key] for key in told if key != "evidence"} == answer["attestation"]
    assert row["merkle_root"] == MemoryTree().append(leaf(row)).root()
    assert (root / "ops/data/remembrancer.root").read_text() == row["merkle_root"] + "\n"
    ((name, text),) = receipt_files(root).items()
    front = yaml.safe_load(text.split("---")[1])
    assert name == f"{front['component']}-{front['version']}.receipt"
    assert (front["type"], front["status"], front["verified_by"]) == ("anchor", "active", "remembrancer-cli")
    assert front["evidence"]["artifact"] == f"out/batches/{batch['id']}.json"
    assert not faults(root)
    assert not site.failures()


def test_the_same_anchor_again_adds_nothing(root: Path) -> None:
    record(root, 1)
    before = (rows(root), receipt_files(root))
    assert record(root, 1) == []
    assert (rows(root), receipt_files(root)) == before


def test_nothing_is_remembered_where_there_is_no_ops(tmp_path: Path) -> None:
    assert record(tmp_path, 1) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_anchor_that_may_change_is_remembered_when_it_no_longer_does(root: Path) -> None:
    for status in ("signed", "submitted", "verified", "reorged"):
        record(root, 1, chain="eip155:1", status=status)
        assert not database(root).exists()
    record(root, 1, chain="eip155:1", status="final", block=7)
    (row,) = rows(root)
    assert json.loads(row["data"])["block"] == 7
    assert not faults(root)


def test_a_level_that_changed_its_target_has_a_row_for_each(root: Path) -> None:
    for chain in ("rfc3161:tsa", "rfc3161:other", "rfc3161:tsa"):
        record(root, 1, chain=chain)
    assert [row["id"] for row in rows(root)] == [
        "anchor:demo:files:cold:1700000001",
        "anchor:demo:files:cold:1700000001:rfc3161:other",
    ]
    assert len(receipt_files(root)) == 2
    assert not faults(root)


def test_roots_are_those_of_all_rows_up_to_each(root: Path) -> None:
    tree = MemoryTree()
    for number in range(9):
        record(root, number)
    for row in rows(root):
        tree = tree.append(leaf(row))
        assert row["merkle_root"] == tree.root()


def test_the_kept_edge_of_the_tree_is_only_a_cache(root: Path) -> None:
    record(root, 1)
    run(root, "UPDATE memories_edge SET size = 7, last = '[]'")
    record(root, 2)
    run(root, "DELETE FROM memories_edge")
    record(root, 3)
    run(root, "INSERT INTO memories (id, timestamp, type) VALUES ('zz', '2999-01-01T00:00:00Z', 'note')")
    record(root, 4)
    assert not faults(root)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("write", range(len(WRITES)), ids=WRITES)
def test_a_killed_writer_leaves_what_the_next_run_completes(root: Path, write: int, after: bool) -> None:
    """kill -9 at every write: the next run, of another batch, leaves a row exactly where there is a receipt."""
    record(root, 0)
    killed(root, 1, write, after=after)
    assert record(root, 2) == []
    remembered = {row["version"] for row in rows(root)}
    recorded = {path.stem for path in (root / "out/receipts/batches").glob("*.json")}
    assert remembered == recorded >= {"1700000000", "1700000002"}
    assert not faults(root)
    assert record(root, 1) == []
    assert {row["version"] for row in rows(root)} == {"1700000000", "1700000001", "1700000002"}
    assert not faults(root)
    assert not list((root / "ops/data/pending").iterdir())


def test_the_kills_do_hit_every_write(root: Path) -> None:
    """Beyond the last write nobody is killed: the list above is whole."""
    with pytest.raises(AssertionError):
        killed(root, 1, len(WRITES), after=False)


def test_a_broken_database_holds_up_no_anchor(root: Path) -> None:
    database(root).parent.mkdir()
    database(root).write_bytes(b"no database at all" * 100)
    (warning,) = record(root, 1)
    assert "not remembered" in warning
    assert receipts.read(receipts.path_of(root / "out", "1700000001"))["anchors"] == [attestation(1)]
    assert "not a database" in faults(root)[0].detail
    database(root).unlink()
    assert record(root, 2) == []  # what was to be remembered waited
    assert {row["version"] for row in rows(root)} == {"1700000001", "1700000002"}


def test_a_changed_intent_is_said_and_not_followed(root: Path) -> None:
    (root / "ops/data/pending").mkdir(parents=True)
    (root / "ops/data/pending/0.json").write_text('{"id": "anchor:forged"}')
    assert "was changed" in " ".join(record(root, 1))
    assert [row["version"] for row in rows(root)] == ["1700000001"]


def test_rows_of_another_program_come_first_and_stay(root: Path) -> None:
    """A database as VaultMesh ships it: one row, its own spelling of time, roots maybe missing."""
    database(root).parent.mkdir()
    schema = "CREATE TABLE memories (id TEXT PRIMARY KEY, timestamp TEXT NOT NULL, type TEXT NOT NULL, component TEXT,"
    run(root, schema + " version TEXT, hash TEXT, sig TEXT, data TEXT, merkle_root TEXT)")
    row = ("mem-1", "2025-10-19T20:00:00Z", "deployment", "x", "v1", "00", None, "{}", None)
    run(root, "INSERT INTO memories VALUES (?,?,?,?,?,?,?,?,?)", *row)
    record(root, 1)
    first, second = rows(root)
    assert (first["id"], second["version"]) == ("mem-1", "1700000001")
    alone = MemoryTree().append(leaf(first)).root()
    (root / "docs").mkdir()
    (root / "docs/REMEMBRANCER.md").write_text(f"# Merkle Root of all\n\n**Merkle Root:** `{alone}`\n")
    assert not faults(root)
    (root / "docs/REMEMBRANCER.md").write_text(f"Merkle Root: {'0' * 64}\n")
    assert [fault.subject for fault in faults(root)] == ["docs/REMEMBRANCER.md"]


@pytest.mark.parametrize(
    "last",
    [
        "2999-01-01T00:00:00Z",
        "2999-01-01T00:00:00.12Z",
        "2999-01-01T00:00:00.999999+00:00",
        "2999-12-31T23:59:59+00:00",
    ],
)
def test_a_row_of_the_future_does_not_break_the_order(root: Path, last: str) -> None:
    record(root, 0)
    row = ("zz", last, "note", None, None, None, None, None, None)
    run(root, "INSERT INTO memories VALUES (?,?,?,?,?,?,?,?,?)", *row)
    for number in (1, 2):
        assert record(root, number) == []
    assert [row["version"] for row in rows(root)] == ["1700000000", None, "1700000001", "1700000002"]
    assert not faults(root)


def test_after_a_row_without_time_nothing_is_added(root: Path) -> None:
    record(root, 0)
    run(root, "INSERT INTO memories (id, timestamp, type) VALUES ('z', 'zzz', 'note')")
    assert "no" in " ".join(record(root, 1))
    assert len(rows(root)) == 2


CHANGES = {
    "a column": "UPDATE memories SET component = 'x' WHERE version = '1700000001'",
    "a hash": "UPDATE memories SET hash = 'sha256:' || substr(hash, 9) || '0' WHERE version = '1700000001'",
    "a time": "UPDATE memories SET timestamp = '2020-01-01T00:00:00Z' WHERE version = '1700000001'",
    "a root": "UPDATE memories SET merkle_root = replace(merkle_root, substr(merkle_root, 1, 1), '') || 'f'",
    "the first row": "DELETE FROM memories WHERE version = '1700000000'",
    "the last row": "DELETE FROM memories WHERE version = '1700000002'",
    "every row": "DELETE FROM memories",
    "one more": "INSERT INTO memories (id, timestamp, type) VALUES ('a', '2020-01-01', 'note')",
}


@pytest.mark.parametrize("statement", CHANGES.values(), ids=CHANGES)
def test_an_audit_sees_every_change_of_the_database(root: Path, statement: str) -> None:
    for number in range(3):
        record(root, number)
    assert not faults(root)
    run(root, statement)
    assert faults(root)


def test_an_audit_sees_a_whole_new_database_by_the_published_root(root: Path) -> None:
    """Rows and all roots in them rewritten: only what stands outside tells."""
    for number in range(2):
        record(root, number)
    kept = rows(root)[-1]["merkle_root"]
    database(root).unlink()
    assert [fault.detail for fault in faults(root)] == [
        "the database is gone, though remembrancer.root has a root of it"
    ]
    record(root, 0)
    assert not faults(root)  # the file beside it was written anew with it
    assert [fault.subject for fault in faults(root, kept)] == ["--root"]
    with pytest.raises(Usage, match="64 hex"):
        faults(root, "abc")


def test_an_audit_sees_flipped_bytes_of_receipt_and_root(root: Path) -> None:
    record(root, 1)
    (receipt,) = (root / "ops/receipts/deploy").iterdir()
    batch_receipt = root / "out/receipts/batches/1700000001.json"
    for path in (receipt, root / "ops/data/remembrancer.root", batch_receipt):
        raw = path.read_bytes()
        for place in range(0, len(raw), 7):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            assert faults(root), (path, place)
        path.unlink()
        assert bool(faults(root)) == (path.suffix != ".root")
        path.write_bytes(raw)
    assert not faults(root)


def deployed(root: Path, file: Path | None, digest: str = "", *, note: str = "", version: str = "v1.0.0") -> bool:
    return Remembrancer(root).deployed("scheduler", version, deploy_evidence(root, file, digest), note)


def test_a_deployment_is_recorded_once(root: Path) -> None:
    file = root / "app.tar"
    file.write_bytes(b"image")
    assert deployed(root, file, note="10/10: passing\n---\ntype: forged")
    assert not deployed(root, file, note="10/10: passing\n---\ntype: forged")
    text = receipt_files(root)["scheduler-v1.0.0.receipt"]
    front = yaml.safe_load(text.split("\n---\n")[0])
    digest = "6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d"
    assert front["evidence"] == {"artifact": "app.tar", "sha256": digest}
    assert (front["type"], front["component"], front["version"]) == ("deployment", "scheduler", "v1.0.0")
    assert "10/10: passing" in text
    for note, version in (("other", "v1.0.0"), ("", "v1.0.0")):
        with pytest.raises(CannotCreate, match="another content"):
            deployed(root, file, note=note, version=version)
    file.write_bytes(b"another image")
    with pytest.raises(CannotCreate):
        deployed(root, file)
    assert receipt_files(root) == {"scheduler-v1.0.0.receipt": text}
    assert not faults(root)


def test_a_receipt_without_its_row_is_completed(root: Path) -> None:
    """As a writer leaves it that died before its commit."""
    assert deployed(root, None, "ab" * 32)
    run(root, "DELETE FROM memories")
    assert deployed(root, None, "ab" * 32)
    assert len(rows(root)) == 1
    assert not faults(root)


def test_a_receipt_of_another_writer_is_not_overwritten(root: Path) -> None:
    path = root / "ops/receipts/deploy/scheduler-v1.0.0.receipt"
    path.parent.mkdir(parents=True)
    path.write_text("anything")
    with pytest.raises(Invalid, match="is no receipt"):
        deployed(root, None, "ab" * 32)
    assert path.read_text() == "anything"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a b", "-x", "x" * 101, "a\n"])
def test_names_stay_names(root: Path, name: str) -> None:
    with pytest.raises(Usage, match="no plain name"):
        Remembrancer(root).deployed(name, "v1", deploy_evidence(root, None, "ab" * 32), "")
    with pytest.raises(Usage, match="no plain name"):
        Remembrancer(root).deployed("a", name, deploy_evidence(root, None, "ab" * 32), "")


def test_evidence_must_fit_its_digest(root: Path) -> None:
    (root / "f").write_bytes(b"x")
    with pytest.raises(Invalid, match="has sha256"):
        deploy_evidence(root, root / "f", "ab" * 32)
    with pytest.raises(Usage, match="64 hex"):
        deploy_evidence(root, None, "xyz")
    with pytest.raises(NotFound):
        deploy_evidence(root, root / "gone", "")
    assert deploy_evidence(root, None, "sha256:" + "AB" * 32).sha256 == "ab" * 32


def test_two_namespaces_never_share_a_receipt_name() -> None:
    names = [
        ("a:b", "c"),
        ("a", "b:c"),
        ("a-b", "c"),
        ("a_b", "c"),
        ("a_3ab", "c"),
        ("a", "b__c"),
        ("a__b", "c"),
        ("x" * 200, "c"),
    ]
    names += [("x" * 199 + "y", "c"), ("ä", "c"), ("a/b", "c"), ("A", "c"), ("a", "c")]
    made = [anchor_component(*name) for name in names]
    assert len(set(made)) == len(names)
    assert all(path_of(Path("ops"), "deploy", f"{name}-1").name == f"{name}-1.receipt" for name in made)


@pytest.fixture
def deployment(root: Path) -> Iterator[Site]:
    (root / "app.tar").write_bytes(b"image")
    deployed(root, root / "app.tar")
    return Site(root)


def test_verify_compares_a_file_with_its_deploy_receipt(root: Path, deployment: Site) -> None:
    assert [(row.kind, row.ok) for row in deployment.verify(str(root / "app.tar")).rows] == [("deployment", True)]
    (root / "app.tar").write_bytes(b"imagE")
    (row,) = deployment.verify(str(root / "app.tar")).rows
    assert not row.ok
    assert "differs from scheduler-v1.0.0.receipt" in row.detail
    deployed(root, root / "app.tar", version="v2")
    (row,) = deployment.verify(str(root / "app.tar")).rows
    assert (row.ok, row.detail) == (True, "as scheduler-v2.receipt says")


def test_verify_of_a_receipt_looks_at_its_row_and_its_file(root: Path, deployment: Site) -> None:
    path = root / "ops/receipts/deploy/scheduler-v1.0.0.receipt"
    assert [row.ok for row in deployment.verify(str(path)).rows] == [True, True]
    (root / "app.tar").write_bytes(b"imagE")
    assert [row.ok for row in deployment.verify(str(path)).rows] == [True, False]
    (root / "app.tar").unlink()
    assert [row.ok for row in deployment.verify(str(path)).rows] == [True, True]
    path.write_text(path.read_text().replace("active", "retired"))
    assert [row.ok for row in deployment.verify(str(path)).rows] == [False, True]
    path.write_text("nothing")
    assert [row.ok for row in deployment.verify(str(path)).rows] == [False]


def test_verify_all_includes_the_audit(root: Path, deployment: Site) -> None:
    assert not deployment.failures()
    run(root, "UPDATE memories SET version = 'v9'")
    assert deployment.failures()


def test_a_locked_database_is_waited_for(root: Path) -> None:
    """Another writer in the middle of its transaction is no damage."""
    record(root, 0)
    with closing(sqlite3.connect(database(root), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert not faults(root)


def test_a_blob_is_no_memory(root: Path) -> None:
    record(root, 0)
    run(root, "UPDATE memories SET data = x'00ff'")
    assert faults(root)
    run(root, "DELETE FROM memories_edge")
    assert "not remembered" in " ".join(record(root, 1))


def test_an_audit_sees_a_flipped_byte_in_any_value_of_a_row(root: Path) -> None:
    """In the table itself: a query that is answered from an index would not notice."""
    record(root, 0)
    (row,) = rows(root)
    raw = database(root).read_bytes()
    values = [
        str(row[name]).encode() for name in ("id", "timestamp", "type", "component", "hash", "data", "merkle_root")
    ]
    for value in values:
        places = [place for place in range(len(raw)) if raw.startswith(value, place)]
        for start in (place for place in places if raw[place - 1 : place] != b'"'):  # in quotes: the edge, a cache
            place = start + len(value) // 2
            database(root).write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
            assert faults(root), (value, place)
    database(root).write_bytes(raw)
    assert not faults(root)
