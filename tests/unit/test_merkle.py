"""RFC 6962 trees against the Certificate Transparency vectors and against the definition; v0 against its sealer."""

import time
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.merkle import Compact, leaf_hash, node_hash, tree, verify_consistency, verify_inclusion

CT_INPUTS = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
CT_ROOTS = (
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
H1, H2, H3 = (
    bytes.fromhex(text)
    for text in (
        "c78f7e6aab3a4c4e0325a9064415634c3028e35541b8dcc676a6a67b0de15ebf",
        "6a964ba3592c0375d1ec7931ad49a4b4e48f8c08f4eb33e1a85b222ce834cf6b",
        "53c6f34e12a6f6ab26e14c6d57a82f6b6f8f5471bd806886b594b497dfbd621a",
    )
)
P12 = bytes.fromhex("7d0486f707ce978ca112fbf66b605be6aa11f531e5d4437c7c913ff461f3b709")
P33 = bytes.fromhex("8cd3f98f6ae6da925c0b2f233b0cb533e2ce5d2270a81b20a16ae05670845adf")
V0_ROOT = bytes.fromhex("5d66afd722adc03cc959f6366970e399dec19e359fb157235164b3bfed52f12a")
RFC_ROOT = bytes.fromhex("26e75389719e3bb5873d84526fdbc62c7239694cc7c13d89ccb3d826206dc776")

sizes = st.integers(min_value=1, max_value=70)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


def by_definition(hashes: list[bytes]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if len(hashes) < 2:
        return hashes[0] if hashes else sha256(b"").digest()
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node_hash(by_definition(hashes[:split]), by_definition(hashes[split:]))


@pytest.mark.parametrize("count", range(1, 9))
def test_certificate_transparency_roots(count: int) -> None:
    hashes = [leaf_hash(data) for data in CT_INPUTS[:count]]
    assert merkle.root(hashes).hex() == CT_ROOTS[count - 1]


def test_root_of_nothing_is_the_hash_of_nothing() -> None:
    assert merkle.root([]) == merkle.EMPTY == Compact().root() == sha256(b"").digest()


def test_worked_example_of_the_contract() -> None:
    hashed = [leaf_hash(item) for item in (H1, H2, H3)]
    assert merkle.root(hashed) == RFC_ROOT
    assert tree(hashed).inclusion(0) == [hashed[1], hashed[2]]
    assert tree(hashed).inclusion(2)[0].hex().startswith("4e1fc253")
    assert merkle.v0_root([H1, H2, H3]) == V0_ROOT
    assert [merkle.v0_path([H1, H2, H3], i) for i in range(3)] == [[H2, P33], [H1, P33], [H3, P12]]


@given(sizes)
def test_every_way_to_the_root_agrees(count: int) -> None:
    hashes, compact = leaves(count), Compact()
    for leaf in hashes:
        compact = compact.append(leaf)
    assert compact.sound
    assert compact.size == count
    assert merkle.root(hashes) == compact.root() == by_definition(hashes)


@given(sizes, st.data())
def test_inclusion_holds_for_its_leaf_and_for_nothing_else(count: int, data: st.DataObject) -> None:
    hashes = leaves(count)
    index = data.draw(st.integers(0, count - 1))
    whole = tree(hashes)
    path = whole.inclusion(index)
    assert verify_inclusion(hashes[index], index, count, path, whole.root)
    assert not verify_inclusion(leaf_hash(b"other"), index, count, path, whole.root)
    assert not verify_inclusion(hashes[index], index, count, [*path, path[0] if path else b"x" * 32], whole.root)
    assert not path or not verify_inclusion(hashes[index], index, count, path[:-1], whole.root)
    other = data.draw(st.integers(0, count - 1).filter(lambda i: i != index) if count > 1 else st.just(count))
    assert not verify_inclusion(hashes[index], other, count, path, whole.root)


@given(sizes, st.data())
def test_consistency_holds_for_a_prefix_and_for_nothing_else(count: int, data: st.DataObject) -> None:
    hashes = leaves(count)
    old = data.draw(st.integers(1, count))
    path, now = tree(hashes).consistency(old), (count, merkle.root(hashes))
    before = (old, merkle.root(hashes[:old]))
    assert verify_consistency(before, now, path)
    assert not verify_consistency((old, leaf_hash(b"rewritten")), now, path)
    assert not verify_consistency(before, (count, leaf_hash(b"rewritten")), path)
    assert not verify_consistency(before, now, [*path, b"x" * 32])
    assert not path or not verify_consistency(before, now, path[:-1])
    assert not verify_consistency((count + 1, now[1]), now, path)


def test_proofs_of_what_is_not_there_are_refused() -> None:
    with pytest.raises(IndexError):
        tree(leaves(3)).inclusion(3)
    with pytest.raises(IndexError):
        tree(leaves(3)).consistency(0)
    with pytest.raises(IndexError):
        tree(leaves(3)).consistency(4)
    with pytest.raises(IndexError):
        merkle.v0_path([H1], 1)
    assert not verify_inclusion(H1, 0, 0, [], merkle.EMPTY)
    assert not verify_consistency((0, merkle.EMPTY), (1, H1), [])


def test_a_compact_range_from_disk_is_checked() -> None:
    assert Compact(3, (H1, H2)).sound
    assert not Compact(3, (H1,)).sound
    assert not Compact(1, (b"short",)).sound


@given(st.integers(1, 33), st.data())
def test_v0_paths_hold_with_and_without_an_index(count: int, data: st.DataObject) -> None:
    raw = [sha256(str(number).encode()).digest() for number in range(count)]
    index = data.draw(st.integers(0, count - 1))
    path, want = merkle.v0_path(raw, index), merkle.v0_root(raw)
    assert merkle.v0_verify(raw[index], path, want)
    assert merkle.v0_verify(raw[index], path, want, index)
    assert not merkle.v0_verify(sha256(b"other").digest(), path, want)
    assert not merkle.v0_verify(raw[index], path, sha256(b"other").digest(), index)


def test_v0_doubles_its_odd_node_which_rfc_6962_does_not() -> None:
    assert merkle.v0_root([H1, H2, H3]) == merkle.v0_root([H1, H2, H3, H3])
    assert merkle.root([H1, H2, H3]) != merkle.root([H1, H2, H3, H3])
    assert merkle.v0_root([]) == merkle.EMPTY


def test_a_deep_v0_path_is_refused_instead_of_tried() -> None:
    begin = time.monotonic()
    assert not merkle.v0_verify(H1, [H2] * 60, V0_ROOT)
    assert time.monotonic() - begin < 1


def test_a_hundred_thousand_leaves_need_no_recursion() -> None:
    hashes = leaves(100_000)
    whole = tree(hashes)
    path = whole.inclusion(77_777)
    assert len(path) <= 17
    assert verify_inclusion(hashes[77_777], 77_777, 100_000, path, whole.root)
