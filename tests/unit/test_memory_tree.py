"""The Remembrancer's tree: leaves and roots against hashes computed here, in another way."""

from hashlib import sha256

import pytest

from vmsh_scheduler.anchors.memory_tree import MemoryTree, leaf

H1 = "c78f7e6aab3a4c4e0325a9064415634c3028e35541b8dcc676a6a67b0de15ebf"
H2 = "6a964ba3592c0375d1ec7931ad49a4b4e48f8c08f4eb33e1a85b222ce834cf6b"
H3 = "53c6f34e12a6f6ab26e14c6d57a82f6b6f8f5471bd806886b594b497dfbd621a"


def text_hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()


def by_levels(nodes: list[str]) -> str:
    """The whole tree, level by level."""
    if not nodes:
        return ""
    while len(nodes) > 1:
        nodes = nodes + nodes[-1:] if len(nodes) % 2 else nodes
        nodes = [text_hash(left + right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
    return nodes[0]


def grown(nodes: list[str]) -> MemoryTree:
    tree = MemoryTree()
    for node in nodes:
        tree = tree.append(node)
    return tree


def test_the_worked_root_of_three_leaves() -> None:
    assert grown([H1, H2, H3]).root() == "4534677eb6b4d58d363f5ebd90607524302e44ff06de2c929730bb719c4688b8"


@pytest.mark.parametrize("size", [*range(35), 63, 64, 65, 127, 200])
def test_every_size_has_the_root_of_the_whole_tree(size: int) -> None:
    nodes = [text_hash(str(number)) for number in range(size)]
    assert grown(nodes).root() == by_levels(nodes)


def test_a_leaf_is_the_sorted_compact_json_of_eight_columns() -> None:
    row = {
        "id": "anchor:dao:vaultmesh:fast:1729740000",
        "timestamp": "2025-10-25T12:00:00Z",
        "type": "anchor",
        "component": "dàö",
        "version": "1",
        "hash": "sha256:00",
        "sig": None,
        "data": '{"a":"\\u00e4"}',
        "merkle_root": "never a part of it",
    }
    text = (
        '{"component":"d\\u00e0\\u00f6","data":"{\\"a\\":\\"\\\\u00e4\\"}","hash":"sha256:00",'
        '"id":"anchor:dao:vaultmesh:fast:1729740000","sig":null,"timestamp":"2025-10-25T12:00:00Z",'
        '"type":"anchor","version":"1"}'
    )
    assert leaf(row) == text_hash(text)
