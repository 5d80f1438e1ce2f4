"""What an Ethereum transaction is made of: RLP, keccak256, addresses, signatures (EIP-155, EIP-1559, EIP-55)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import coincurve
from Crypto.Hash import keccak as _keccak

Rlp: TypeAlias = "int | bytes | Sequence[Rlp]"

_ADDRESS = re.compile(r"0x[0-9a-fA-F]{40}")
_KEY = re.compile(r"(?:0x)?([0-9a-fA-F]{64})")
_LONG = 56
"""Bytes from which on RLP writes the length's own length."""


def keccak(data: bytes) -> bytes:
    """keccak256 as Ethereum has it, which is not SHA3-256."""
    return _keccak.new(digest_bits=256, data=data).digest()


def rlp(value: Rlp) -> bytes:
    """Yellow Paper, appendix B; integers are not negative and have no leading zero bytes."""
    if isinstance(value, int):
        value = value.to_bytes((value.bit_length() + 7) // 8, "big")
    if isinstance(value, bytes):
        return value if len(value) == 1 and value[0] < 0x80 else _length(len(value), 0x80) + value
    body = b"".join(rlp(item) for item in value)
    return _length(len(body), 0xC0) + body


def _length(size: int, offset: int) -> bytes:
    if size < _LONG:
        return bytes([offset + size])
    digits = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([offset + _LONG - 1 + len(digits)]) + digits


def is_address(text: object) -> bool:
    """0x and 40 hex digits; of mixed case only with the right checksum (EIP-55)."""
    if not isinstance(text, str) or not _ADDRESS.fullmatch(text):
        return False
    return text[2:] in (text[2:].lower(), text[2:].upper()) or checksummed(text) == text


def checksummed(address: str) -> str:
    """EIP-55."""
    digits = address[2:].lower()
    marks = keccak(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(mark, 16) >= 8 else d for d, mark in zip(digits, marks, strict=False))


def address_bytes(address: str) -> bytes:
    return bytes.fromhex(address[2:])


@dataclass(frozen=True, slots=True)
class Fees:
    """Wei per gas. `tip` None = a legacy gas price (the chain has no base fee)."""

    most: int
    tip: int | None = None


@dataclass(frozen=True, slots=True)
class Transaction:
    """Before it is signed; it never carries money."""

    chain_id: int
    nonce: int
    fees: Fees
    gas: int
    to: str
    """Address; "" = a contract is made."""
    data: bytes

    @property
    def _to(self) -> bytes:
        return address_bytes(self.to) if self.to else b""

    def fields(self) -> list[Rlp]:
        """Without a signature, in the order of the type."""
        if self.fees.tip is None:
            return [self.nonce, self.fees.most, self.gas, self._to, 0, self.data]
        return [self.chain_id, self.nonce, self.fees.tip, self.fees.most, self.gas, self._to, 0, self.data, []]

    def to_sign(self) -> bytes:
        """The hash that is signed."""
        if self.fees.tip is None:
            return keccak(rlp([*self.fields(), self.chain_id, 0, 0]))
        return keccak(b"\2" + rlp(self.fields()))


class Key:
    """A private key. Nothing shows it: no text, no repr, no pickle."""

    __slots__ = ("__key", "address")

    def __init__(self, secret: bytes) -> None:
        """ValueError when the number is no key of the curve."""
        self.__key = coincurve.PrivateKey(secret)
        public = self.__key.public_key.format(compressed=False)
        self.address = checksummed("0x" + keccak(public[1:])[-20:].hex())

    @classmethod
    def read(cls, text: str) -> "Key | None":
        """64 hex digits, with or without 0x; None when it is none."""
        found = _KEY.fullmatch(text.strip())
        try:
            return cls(bytes.fromhex(found[1])) if found else None
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"Key({self.address})"

    def __reduce__(self) -> str:
        raise TypeError("a key is not written down")

    def signed(self, transaction: Transaction) -> bytes:
        """As it goes over the wire; deterministic (RFC 6979), so the same transaction has the same bytes."""
        signature = self.__key.sign_recoverable(transaction.to_sign(), hasher=None)
        r, s, parity = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big"), signature[64]
        if transaction.fees.tip is None:
            return rlp([*transaction.fields(), transaction.chain_id * 2 + 35 + parity, r, s])
        return b"\2" + rlp([*transaction.fields(), parity, r, s])


def transaction_hash(raw: bytes) -> str:
    return "0x" + keccak(raw).hex()
