"""What a Bitcoin transaction says, read from its own bytes: its id, what it spends, what it writes (BIP 141, 144)."""

from dataclasses import dataclass
from hashlib import sha256

from vmsh_scheduler.anchors.failures import Invalid

MAGIC = b"RV"
"""In front of the root (spec vaultmesh section 7)."""
_MOST = 100_000
"""Bytes of a transaction that a node relays, and more than any count in it."""


@dataclass(frozen=True, slots=True)
class Coin:
    """An output of an earlier transaction."""

    tx: str
    index: int


@dataclass(frozen=True, slots=True)
class Parsed:
    """A transaction without its signatures' bytes."""

    id: str
    spends: tuple[Coin, ...]
    scripts: tuple[str, ...]
    """Hex, of its outputs."""
    vsize: int


def payload(root: bytes) -> str:
    """Hex of what stands behind OP_RETURN."""
    return (MAGIC + root).hex()


def script(root: bytes) -> str:
    """Hex of the whole output script: OP_RETURN, the push of 34 bytes, the payload."""
    return "6a22" + payload(root)


def parse(raw: str) -> Parsed:
    """Invalid unless `raw` is one whole transaction in hex."""
    try:
        data = bytes.fromhex(raw)
        return _parsed(_Reader(data))
    except (ValueError, IndexError):
        raise Invalid("these bytes are no Bitcoin transaction") from None


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, length: int) -> bytes:
        if length > _MOST or self.at + length > len(self.data):
            raise ValueError
        self.at += length
        return self.data[self.at - length : self.at]

    def number(self, length: int) -> int:
        return int.from_bytes(self.take(length), "little")

    def count(self) -> int:
        """CompactSize."""
        first = self.number(1)
        return first if first < 0xFD else self.number({0xFD: 2, 0xFE: 4, 0xFF: 8}[first])

    def many(self) -> range:
        count = self.count()
        if count > len(self.data):
            raise ValueError
        return range(count)


def _parsed(reader: _Reader) -> Parsed:
    version, has_witness = reader.take(4), reader.data[4:6] == b"\0\1"
    reader.at += 2 if has_witness else 0
    start = reader.at
    spends = tuple(_spent(reader) for _ in reader.many())
    scripts = tuple(_script(reader) for _ in reader.many())
    middle = reader.data[start : reader.at]
    if has_witness:
        for _ in spends:
            for _ in reader.many():
                reader.take(reader.count())
    bare = version + middle + reader.take(4)
    if reader.at != len(reader.data) or not spends or not scripts:
        raise ValueError
    vsize = (len(bare) * 3 + len(reader.data) + 3) // 4
    return Parsed(sha256(sha256(bare).digest()).digest()[::-1].hex(), spends, scripts, vsize)


def _spent(reader: _Reader) -> Coin:
    coin = Coin(reader.take(32)[::-1].hex(), reader.number(4))
    reader.take(reader.count())
    reader.take(4)
    return coin


def _script(reader: _Reader) -> str:
    reader.take(8)
    return reader.take(reader.count()).hex()
