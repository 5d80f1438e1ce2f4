"""The heads of the scheduler's own journal as something to seal: what is sealed, and what a rewritten journal shows.

The journal is a real one, written by the store: so a schema that the anchors' own queries do not know fails here."""

import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.contract.world import NOW, FixedClock, decision, execution
from tests.support.site import Answer, Document, Site
from vmsh_scheduler.anchors import bundle_verify, journal
from vmsh_scheduler.anchors.journal import Chains
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.domain.batch import chain_leaf, leaves_root, render, with_digest
from vmsh_scheduler.domain.decision import Note
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.ports import Change
from vmsh_scheduler.stores.local.retention import Retention
from vmsh_scheduler.stores.local.store import open_store

NAMESPACE = "own:record"
ROWS_OF_A_STEP = 3


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def database(site: Site) -> Path:
    return site.root / "state" / "scheduler.db"


async def happened(site: Site, *jobs: str, steps: int = 1, at: int = 0, keep: Retention | None = None) -> None:
    """`steps` times three rows of each job, through the store and into scheduler.db."""
    clock = FixedClock(NOW + at)
    store = open_store(site.root / "state" / "scheduler.json", clock, keep=keep)
    for n in range(at, at + steps):
        for job in jobs:
            rows = (decision(job, n),), execution(job, n), (Note("resume", NOW + n, job),)
            await store.states.apply([Change(job, JobState(), *rows)])
    await store.close()


def edit(site: Site, *statements: str) -> None:
    with closing(sqlite3.connect(database(site))) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def seal(site: Site, namespace: str = NAMESPACE) -> Answer:
    wanted = {"namespace": namespace, "journal": str(database(site)), "directory": str(site.batches)}
    return site.ask("seal", wanted)


def heads(site: Site, answer: Answer) -> dict[str, tuple[int, str]]:
    found = json.loads(Path(answer.result["file"]).read_text())["heads"]
    return {head["job"]: (head["seq"], head["head"]) for head in found}


def about_journal(site: Site, what: str = "all") -> list[Row]:
    return [row for row in site.verify(what).rows if row.kind in ("journal", "pruned")]


async def test_every_other_job_is_a_leaf_and_what_anchoring_writes_is_none(site: Site) -> None:
    await happened(site, "dao:x/fast", "_agents/u/a", f"{NAMESPACE}/fast", "_anchors/btc:mainnet", f"{NAMESPACE}x/fast")
    first = seal(site)
    assert (first.code, first.result["status"], first.result["count"]) == (0, "ok", 3)
    found = heads(site, first)
    assert list(found) == sorted(["dao:x/fast", "_agents/u/a", f"{NAMESPACE}x/fast"])
    assert {seq for seq, _ in found.values()} == {ROWS_OF_A_STEP}
    await happened(site, f"{NAMESPACE}/fast", f"{NAMESPACE}/strong", "_anchors/btc:mainnet", at=1)
    again = seal(site)
    assert (again.result["status"], again.result["id"]) == ("unchanged", first.result["id"])
    await happened(site, "dao:x/fast", at=2)
    third = seal(site)
    assert third.result["status"] == "ok"
    assert heads(site, third)["dao:x/fast"][0] == 2 * ROWS_OF_A_STEP


async def test_a_namespace_inside_anothers_name_is_another(site: Site) -> None:
    await happened(site, "a/b/fast", "a/fast")
    assert list(heads(site, seal(site, "a"))) == ["a/b/fast"]
    assert list(heads(site, seal(site, "a/b"))) == ["a/fast"]


async def test_the_batch_is_one_like_the_others(site: Site) -> None:
    await happened(site, "dao:x/fast", "dao:x/cold")
    sealed = seal(site).result
    document = site.read(f"out/batches/{sealed['id']}.json")
    assert (document["tree"], document["journal"], document["count"]) == ("rfc6962-sha256", "state/scheduler.db", 2)
    assert site.anchor(sealed).code == 0
    report = site.verify()
    assert report.ok
    assert [row.detail for row in report.rows if row.kind == "journal"] == [
        "2 of 2 heads are in state/scheduler.db as sealed"
    ]


async def test_without_a_journal_there_is_nothing_to_seal_and_no_failure(site: Site) -> None:
    assert seal(site).result == {"status": "unchanged", "count": 0, "omitted": []}
    database(site).parent.mkdir(mode=0o700)
    database(site).touch(0o600)
    assert seal(site).result["count"] == 0
    await happened(site, f"{NAMESPACE}/fast")
    assert seal(site).result["count"] == 0
    assert not site.batches.exists()


async def test_a_file_that_is_no_journal_is_refused(site: Site) -> None:
    database(site).parent.mkdir(mode=0o700)
    database(site).write_bytes(b"no database at all, but long enough to be one" * 100)
    refused = seal(site)
    assert refused.code == 65
    assert "cannot be read" in refused.result["message"]


async def test_a_head_that_is_no_hash_is_refused(site: Site) -> None:
    await happened(site, "dao:x/fast")
    edit(site, "UPDATE heads SET hash = 'x'")
    assert "'dao:x/fast' is damaged" in seal(site).result["message"]


async def test_more_jobs_than_a_batch_holds_are_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await happened(site, "a/x", "a/y", "a/z")
    monkeypatch.setattr(journal, "HEADS_LIMIT", 2)
    assert "more than 2 jobs" in seal(site).result["message"]


REWRITE = """
    UPDATE entries SET body = replace(body, 'due', 'cat') WHERE job = 'dao:x/fast' AND seq = 1
"""
TAMPERINGS: list[tuple[str, list[str], str]] = [
    ("edited", [REWRITE], "row 1 was edited"),
    ("edited head", ["UPDATE entries SET body = '{}' WHERE job = 'dao:x/fast' AND seq = 6"], "row 6 was edited"),
    (
        "no text",
        ["UPDATE entries SET body = CAST(x'ff00' AS TEXT) WHERE job = 'dao:x/fast' AND seq = 2"],
        "row 2 was edited",
    ),
    ("missing", ["DELETE FROM entries WHERE job = 'dao:x/fast' AND seq IN (2, 3)"], "rows 2 to 3 are missing"),
    ("first missing", ["DELETE FROM entries WHERE job = 'dao:x/fast' AND seq = 1"], "rows 1 to 1 are missing"),
    (
        "cut short",
        ["DELETE FROM entries WHERE job = 'dao:x/fast' AND seq > 4", "UPDATE heads SET seq = 4"],
        "row 6 was sealed, but the chain ends at row 4",
    ),
    ("gone", ["DELETE FROM entries WHERE job = 'dao:x/fast'", "DELETE FROM heads"], "the chain ends at row 0"),
    ("other prev", ["UPDATE entries SET prev = hash WHERE job = 'dao:x/fast' AND seq = 3"], "does not follow row 2"),
    (
        "forged record of pruned rows",
        ["INSERT INTO segments VALUES('dao:x/fast', 3, 4, '', '', 0)"],
        "the record of pruned rows 3 to 4 does not fit",
    ),
]


@pytest.mark.parametrize(("statements", "said"), [case[1:] for case in TAMPERINGS], ids=[c[0] for c in TAMPERINGS])
async def test_a_changed_journal_fails_and_the_job_is_named(site: Site, statements: list[str], said: str) -> None:
    await happened(site, "dao:x/fast", "dao:y/fast", steps=2)
    sealed = seal(site).result["id"]
    assert site.failures() == []
    edit(site, *statements)
    for what in ("all", sealed):
        (row,) = site.failures(what)
        assert (row.subject, row.kind) == ("dao:x/fast", "journal")
        assert said in row.detail
        assert sealed in row.detail
    assert any("1 of 2 heads are" in row.detail for row in about_journal(site))


async def test_a_chain_written_anew_with_all_its_hashes_fails(site: Site, tmp_path: Path) -> None:
    """What the journal alone cannot show: every hash in it fits."""
    await happened(site, "dao:x/fast", "dao:y/fast", steps=2)
    seal(site)
    other = Site(tmp_path / "other")
    await happened(other, "dao:x/fast", at=1)
    await happened(other, "dao:x/fast", at=5)
    edit(
        site,
        f"ATTACH '{database(other)}' AS other",
        "DELETE FROM main.entries WHERE job = 'dao:x/fast'",
        "INSERT INTO main.entries SELECT * FROM other.entries",
        "UPDATE main.heads SET hash = (SELECT hash FROM other.heads) WHERE job = 'dao:x/fast'",
    )
    (row,) = site.failures()
    assert (row.subject, row.detail.partition(" (")[0]) == ("dao:x/fast", "row 6 is another one than was sealed")


async def test_a_journal_made_anew_and_sealed_again_does_not_hide_behind_the_newest_batch(site: Site) -> None:
    await happened(site, "dao:x/fast", steps=2)
    first = seal(site).result["id"]
    for path in database(site).parent.glob("scheduler.*"):
        path.unlink()
    (row,) = site.failures()
    assert "scheduler.db is gone" in row.detail
    await happened(site, "dao:x/fast", steps=4, at=7)
    second = seal(site).result["id"]
    assert site.failures(second) == []
    (row,) = site.failures()
    assert (row.subject, first in row.detail) == ("dao:x/fast", True)


async def test_rows_after_the_sealed_ones_are_not_spoken_of(site: Site) -> None:
    await happened(site, "dao:x/fast")
    first = seal(site).result["id"]
    await happened(site, "dao:x/fast", at=1)
    second = seal(site).result["id"]
    edit(site, "UPDATE entries SET body = '{}' WHERE job = 'dao:x/fast' AND seq = 5")
    assert site.failures(first) == []
    assert [row.subject for row in site.failures(second)] == ["dao:x/fast"]
    (row,) = site.failures()
    assert second in row.detail
    both = [site.read(f"out/batches/{identity}.json")["heads"] for identity in (second, first)]
    chains = Chains(database(site))
    assert [chains.judge(sealed) for sealed in both] == [["row 5 was edited"], [""]]


async def test_pruned_rows_are_said_to_be_and_their_last_one_is_compared(site: Site) -> None:
    await happened(site, "dao:x/fast", steps=2)
    within = seal(site).result["id"]
    await happened(site, "dao:x/fast", steps=100, at=2)
    await happened(site, "dao:x/fast", at=200, keep=Retention(rows=10))
    newest = seal(site).result["id"]
    with closing(sqlite3.connect(database(site))) as connection:
        first, last = connection.execute("SELECT min(first), max(last) FROM segments").fetchone()
    assert (first, last > 200) == (1, True)
    report = site.verify()
    assert report.ok
    (pruned,) = [row for row in report.rows if row.kind == "pruned"]
    assert (pruned.subject, pruned.ok) == (within, True)
    assert pruned.detail == "1 of 1 heads cannot be compared, their rows were pruned: dao:x/fast"
    assert [row.detail[:6] for row in about_journal(site, newest)] == ["1 of 1"]
    edit(site, "UPDATE segments SET head = prev")
    assert [row.subject for row in site.failures(newest)] == ["dao:x/fast"]


async def test_a_head_that_is_the_last_pruned_row_is_compared_with_the_record(site: Site) -> None:
    await happened(site, "dao:x/fast", steps=2)
    sealed = seal(site).result["id"]
    with closing(sqlite3.connect(database(site))) as connection, connection:
        prev, head = "0" * 64, connection.execute("SELECT hash FROM heads").fetchone()[0]
        connection.execute("INSERT INTO segments VALUES('dao:x/fast', 1, 6, ?, ?, 0)", (prev, head))
        connection.execute("DELETE FROM entries")
    assert [row.detail[:6] for row in about_journal(site, sealed)] == ["1 of 1"]
    edit(site, "UPDATE segments SET head = prev")
    (row,) = site.failures(sealed)
    assert "row 6 is another one than was sealed" in row.detail


def changed(document: Document, **fields: object) -> str:
    return render(with_digest({**document, **fields}))


async def test_heads_that_are_not_the_leaves_are_corrupt(site: Site) -> None:
    await happened(site, "dao:x/fast")
    name = f"out/batches/{seal(site).result['id']}.json"
    document = site.read(name)
    (head,) = document["heads"]
    for wrong in ({**head, "seq": 2}, {**head, "seq": True}, {**head, "seq": 2**70}, {**head, "more": 1}, 7, {}):
        site.write(name, changed(document, heads=[wrong]))
        (row,) = site.failures()
        assert (row.kind, row.detail) == ("batch", "corrupt: its heads are not its leaves")
    for seq in (True, 2**70):
        leaves = [chain_leaf(head["job"], seq, head["head"])]
        root = leaves_root("rfc6962-sha256", leaves)
        site.write(name, changed(document, heads=[{**head, "seq": seq}], leaves=leaves, root=root))
        assert [row.detail for row in site.failures()] == ["corrupt: its heads are not its leaves"]
    site.write(name, render({key: document[key] for key in document if key not in ("digest", "count")}))
    assert "does not match its own digest" in site.failures()[0].detail


async def test_a_bundles_own_script_knows_such_a_batch(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await happened(site, "dao:x/fast")
    name = f"batches/{seal(site).result['id']}.json"
    told = document = site.read(f"out/{name}")
    monkeypatch.setattr(bundle_verify, "load", lambda _: told)
    monkeypatch.setattr(bundle_verify, "spoken_of", lambda: {document["id"]: document["root"]})
    assert bundle_verify.check_batch(name) == "root recomputed from 1 leaves"
    told = with_digest({**document, "heads": [{**document["heads"][0], "seq": 9}]})
    with pytest.raises(bundle_verify.Fault, match="heads are not its leaves"):
        bundle_verify.check_batch(name)


@contextmanager
def read_only(directory: Path) -> Iterator[None]:
    directory.chmod(0o500)
    try:
        yield
    finally:
        directory.chmod(stat.S_IRWXU)


async def test_it_is_read_beside_a_writer_and_where_nothing_may_be_written(site: Site) -> None:
    await happened(site, "dao:x/fast")
    store = open_store(site.root / "state" / "scheduler.json", FixedClock())
    await store.states.apply([Change("dao:y/fast", JobState(), (decision("dao:y/fast", 1),))])
    store.journal.reached(store.states.synced)
    assert store.journal.flush()
    assert seal(site).result["count"] == 2
    assert site.failures() == []
    await store.close()
    with read_only(database(site).parent):
        assert seal(site).result["status"] == "unchanged"
        assert site.failures() == []
