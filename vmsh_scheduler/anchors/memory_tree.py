"""The Remembrancer's Merkle tree (spec vaultmesh sections 6 and 15): hex texts joined, an odd last node doubled.

A third variant beside RFC 6962 and v0, kept so that others can recompute the root of their database; never mixed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

LEAF_COLUMNS = ("id", "timestamp", "type", "component", "version", "hash", "sig", "data")


def leaf(row: Mapping[str, object]) -> str:
    """sha256 of the sorted compact JSON of LEAF_COLUMNS, ASCII-escaped; `data` is the text as it is stored."""
    projection = {name: row[name] for name in LEAF_COLUMNS}
    return _hash(json.dumps(projection, sort_keys=True, separators=(",", ":")))


@dataclass(frozen=True, slots=True)
class MemoryTree:
    """A growing tree's right edge: one whole subtree for each set bit of `size`, largest first."""

    size: int = 0
    hashes: tuple[str, ...] = ()

    def append(self, node: str) -> "MemoryTree":
        """O(log n)."""
        stack, rest = list(self.hashes), self.size
        while rest & 1:
            node = _hash(stack.pop() + node)
            rest >>= 1
        return MemoryTree(self.size + 1, (*stack, node))

    def root(self) -> str:
        """64 hex digits; "" = empty."""
        stack, count, rest, edge = list(self.hashes), self.size, self.size, ""
        while count > 1:
            left = stack.pop() if rest & 1 else ""
            if left or edge:  # the level's last node has no partner, or is the partner of a whole one
                edge = _hash((left or edge) + (edge or left))
            count, rest = (count + 1) // 2, rest >> 1
        return edge or (stack[0] if stack else "")


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
