"""Batch documents: which are valid, their order, their one text, and how far a job has come."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsh_scheduler.domain import batch
from vmsh_scheduler.domain.batch import BadBatch, Batch, Covers

ROOT = "sha256:" + "ab" * 32
H = (
    "sha256:c78f7e6aab3a4c4e0325a9064415634c3028e35541b8dcc676a6a67b0de15ebf",
    "sha256:6a964ba3592c0375d1ec7931ad49a4b4e48f8c08f4eb33e1a85b222ce834cf6b",
    "sha256:53c6f34e12a6f6ab26e14c6d57a82f6b6f8f5471bd806886b594b497dfbd621a",
)


def text(**fields: object) -> bytes:
    return json.dumps({"id": "10", "root": ROOT, "createdAt": 10, **fields}).encode()


def parsed(identity: str, created: int | None = None) -> Batch:
    fields = {} if created is None else {"createdAt": created}
    document = {"id": identity, "root": ROOT, **fields}
    found = batch.parse(json.dumps(document).encode(), identity)
    assert isinstance(found, Batch), found
    return found


def test_a_sealer_batch_is_v0_and_untagged() -> None:
    found = batch.parse(text(leaves=list(H)), "10")
    assert found == Batch("10", ROOT, 10_000, "10", tree="v0", namespace="", count=3)


def test_a_tagged_rfc6962_batch() -> None:
    found = batch.parse(text(tree="rfc6962-sha256", namespace="dao:x:", count=7), "10")
    assert isinstance(found, Batch)
    assert (found.tree, found.namespace, found.count, found.combined) == ("rfc6962-sha256", "dao:x:", 7, False)


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"id": "10"', "not JSON"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"id": "10", "id": "10"}', "a key stands twice"),
        (b"[" * 100_000, "nested too deep"),
        (text(id="11"), "is not the file's name"),
        (text(id="../x"), "not a plain name"),
        (text(id=10), "not a plain name"),
        (text(root="sha256:zz"), "root is not"),
        (text(root=ROOT.upper()), "root is not"),
        (text(root=ROOT + "\n"), "root is not"),
        (text(root=None), "root is not"),
        (text(tree="merkle"), "tree is neither"),
        (text(namespace=1), "namespace is not a text"),
        (text(createdAt="10"), "createdAt"),
        (text(createdAt=True), "createdAt"),
        (text(createdAt=1.5), "createdAt"),
        (text(createdAt=-1), "createdAt"),
        (text(createdAt=10**15), "createdAt"),
    ],
)
def test_a_bad_file_is_a_value_with_a_reason(raw: bytes, part: str) -> None:
    found = batch.parse(raw, "10")
    assert isinstance(found, BadBatch)
    assert part in found.reason


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_a_reason(raw: bytes) -> None:
    assert isinstance(batch.parse(raw, "10"), Batch | BadBatch)


def test_order_is_by_time_then_number_then_name() -> None:
    wanted = [
        parsed("9", 5),
        parsed("10", 5),
        parsed("10-2", 5),
        parsed("10-10", 5),
        parsed("11", 5),
        parsed("1", 6),
        parsed("zz", 1_700_000_000),
    ]
    backwards = wanted[::-1]
    assert sorted(backwards, key=lambda item: item.order) == wanted


def test_without_a_time_the_numeric_id_counts() -> None:
    assert parsed("1729740000").created_at == 1_729_740_000_000
    assert parsed("0001").created_at == 1_000
    assert parsed("9" * 100).created_at == 253_402_300_799_000


@pytest.mark.parametrize(
    "covers",
    [
        Covers(),
        Covers("000000000010.00000000000000000010.0000000000.10"),
        Covers("a.b", 0),
        Covers("a.b", 7, ("x", "y-1")),
    ],
)
def test_covers_survives_its_text(covers: Covers) -> None:
    assert Covers.read(str(covers)) == covers


def test_a_damaged_covers_is_read_as_a_bare_order() -> None:
    assert Covers.read("a.b|x|y") == Covers("a.b")


def test_a_rendered_document_is_json_and_its_head_stands_before_the_lists() -> None:
    document = {"id": "1", "root": ROOT, "leaves": list(H), "files": [{"path": "ü\n"}], "omitted": []}
    raw = batch.render(document).encode()
    assert json.loads(raw) == document
    assert batch.head(raw) == {"id": "1", "root": ROOT, "omitted": []}
    assert batch.head(raw[:60]) is None
    assert batch.head(json.dumps(document).encode()) is None
    assert batch.head(b"{\n" + b"x" * 50 + b',\n"leaves": [\n') is None


def test_a_digest_speaks_for_everything_else() -> None:
    document = batch.with_digest({"id": "1", "n": 1})
    assert batch.digest_holds(document)
    assert batch.with_digest(document) == document
    assert not batch.digest_holds({**document, "n": 2})
    assert not batch.digest_holds({"id": "1"})
    assert not batch.digest_holds({**document, "n": "\ud800"})


def test_roots_of_both_trees() -> None:
    assert batch.leaves_root("v0", H)[7:] == "5d66afd722adc03cc959f6366970e399dec19e359fb157235164b3bfed52f12a"
    assert batch.leaves_root(batch.RFC6962, H)[7:] == "26e75389719e3bb5873d84526fdbc62c7239694cc7c13d89ccb3d826206dc776"


def test_a_file_leaf_speaks_for_path_content_and_size() -> None:
    one = batch.file_leaf("a", ROOT, 1)
    assert len({one, batch.file_leaf("b", ROOT, 1), batch.file_leaf("a", H[0], 1), batch.file_leaf("a", ROOT, 2)}) == 4


def test_anchors_have_a_strength() -> None:
    chains = ["vm:internal", "local:x", "rfc3161:tsa", "eip155:1", "btc:mainnet", "other:1"]
    ranked = sorted(chains, key=batch.strength)
    assert ranked == ["btc:mainnet", "eip155:1", "rfc3161:tsa", "local:x", "vm:internal", "other:1"]
