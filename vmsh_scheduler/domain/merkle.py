"""Merkle trees: RFC 6962/9162 (what is written) and VaultMesh's v0 sealer tree (what is only read). Never mixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

EMPTY = sha256(b"").digest()
MAX_BLIND_DEPTH = 16
"""A v0 path without its index needs up to 2^depth hashes; deeper ones are refused (index known: no limit)."""


def leaf_hash(data: bytes) -> bytes:
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Compact:
    """The right edge of a growing tree: one subtree root per set bit of `size`, largest first."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> "Compact":
        """O(log n); `leaf` is a leaf hash."""
        stack, node, rest = list(self.hashes), leaf, self.size
        while rest & 1:
            node = node_hash(stack.pop(), node)
            rest >>= 1
        return Compact(self.size + 1, (*stack, node))

    def root(self) -> bytes:
        if not self.hashes:
            return EMPTY
        result = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            result = node_hash(left, result)
        return result

    @property
    def sound(self) -> bool:
        """As many hashes as `size` asks for, all of 32 bytes (for one read from disk)."""
        return len(self.hashes) == self.size.bit_count() and all(len(h) == 32 for h in self.hashes)


@dataclass(frozen=True, slots=True)
class Tree:
    """All nodes of an RFC 6962 tree, level by level; an odd last node moves up as it is."""

    levels: tuple[tuple[bytes, ...], ...]

    @property
    def size(self) -> int:
        return len(self.levels[0])

    @property
    def root(self) -> bytes:
        return self.levels[-1][0] if self.size else EMPTY

    def inclusion(self, index: int) -> list[bytes]:
        """Audit path of leaf `index`, leaf to root (RFC 9162 2.1.3.1); IndexError when there is none."""
        if not 0 <= index < self.size:
            raise IndexError(index)
        path = []
        for level in self.levels[:-1]:
            if index ^ 1 < len(level):
                path.append(level[index ^ 1])
            index >>= 1
        return path

    def consistency(self, old: int) -> list[bytes]:
        """Proof that the first `old` leaves are this tree's beginning (RFC 9162 2.1.4.1); 0 < old <= size."""
        if not 0 < old <= self.size:
            raise IndexError(old)
        start, end, whole = 0, self.size, True
        path: list[bytes] = []
        while end != old:
            middle = start + _split(end - start)
            if old <= middle:
                path.append(self._node(middle, end))
                end = middle
            else:
                path.append(self._node(start, middle))
                start, whole = middle, False
        if not whole:
            path.append(self._node(start, end))
        return path[::-1]

    def _node(self, start: int, end: int) -> bytes:
        height = (end - start - 1).bit_length()
        return self.levels[height][start >> height]


def tree(leaves: Sequence[bytes]) -> Tree:
    """From leaf hashes, in order."""
    levels = [tuple(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        above = [node_hash(below[i], below[i + 1]) for i in range(0, len(below) - 1, 2)]
        if len(below) & 1:
            above.append(below[-1])
        levels.append(tuple(above))
    return Tree(tuple(levels))


def root(leaves: Sequence[bytes]) -> bytes:
    """Of leaf hashes."""
    return tree(leaves).root


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], want: bytes) -> bool:
    """RFC 9162 2.1.3.2; `leaf` is a leaf hash."""
    if not 0 <= index < size:
        return False
    node, last = leaf, size - 1
    for sibling in path:
        if last == 0:
            return False
        if index & 1 or index == last:
            node = node_hash(sibling, node)
            while index and not index & 1:
                index, last = index >> 1, last >> 1
        else:
            node = node_hash(node, sibling)
        index, last = index >> 1, last >> 1
    return last == 0 and node == want


def verify_consistency(old: tuple[int, bytes], new: tuple[int, bytes], path: Sequence[bytes]) -> bool:
    """RFC 9162 2.1.4.2; `old` and `new` are (size, root)."""
    (old_size, old_root), (new_size, new_root) = old, new
    if not 0 < old_size <= new_size:
        return False
    if old_size == new_size:
        return not path and old_root == new_root
    whole = old_size & (old_size - 1) == 0
    proof = [old_root, *path] if whole else list(path)
    return bool(proof) and _walk_consistency(old_size - 1, new_size - 1, proof) == (old_root, new_root)


def _walk_consistency(first: int, last: int, proof: Sequence[bytes]) -> tuple[bytes, bytes] | None:
    while first & 1:
        first, last = first >> 1, last >> 1
    old = new = proof[0]
    for node in proof[1:]:
        if last == 0:
            return None
        if first & 1 or first == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while first and not first & 1:
                first, last = first >> 1, last >> 1
        else:
            new = node_hash(new, node)
        first, last = first >> 1, last >> 1
    return (old, new) if last == 0 else None


def _split(size: int) -> int:
    """Largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def v0_root(leaves: Sequence[bytes]) -> bytes:
    """VaultMesh sealer: leaves not hashed again, no domain separation, odd last node doubled; EMPTY if none."""
    level = list(leaves)
    while len(level) > 1:
        level = _v0_above(level)
    return level[0] if level else EMPTY


def v0_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """Bare siblings, leaf to root (the node itself where it was doubled)."""
    if not 0 <= index < len(leaves):
        raise IndexError(index)
    level, path = list(leaves), []
    while len(level) > 1:
        path.append(level[index ^ 1] if index ^ 1 < len(level) else level[index])
        level, index = _v0_above(level), index >> 1
    return path


def v0_verify(leaf: bytes, path: Sequence[bytes], want: bytes, index: int | None = None) -> bool:
    """Directed when the index is known; else both sides are tried, at most MAX_BLIND_DEPTH deep."""
    if index is not None:
        node = leaf
        for sibling in path:
            pair = sibling + node if index & 1 else node + sibling
            node, index = sha256(pair).digest(), index >> 1
        return node == want and index == 0
    if len(path) > MAX_BLIND_DEPTH:
        return False
    reached = {leaf}
    for sibling in path:
        reached = {sha256(pair).digest() for node in reached for pair in (node + sibling, sibling + node)}
    return want in reached


def _v0_above(level: list[bytes]) -> list[bytes]:
    if len(level) & 1:
        level = [*level, level[-1]]
    return [sha256(level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
