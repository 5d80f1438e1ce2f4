"""OpenTimestamps proofs as bytes in and bytes out: the only module that knows the library `opentimestamps`.

A proof is a detached file whose digest is the batch's root: root || nonce -> sha256 = the commitment, the only thing
that a calendar ever sees. Whatever is added to a proof, it must still be readable by every client afterwards."""

import hashlib
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.errors import ConfigError

MAGIC = b"\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94"
ANSWER_LIMIT = 10_000
"""Bytes of a calendar's answer, as the official client has it."""
PROOF_LIMIT = 512 << 10
NONCE_BYTES = 16
_HIGHEST = 2**31
"""No block is that high."""


class Garbled(Invalid):
    """These bytes are no timestamp, or not one that any client could read."""

    code = "garbled"


@dataclass(frozen=True, slots=True)
class Promise:
    """A calendar holds `commitment` and has not said yet where it went."""

    commitment: bytes
    uri: str


@dataclass(frozen=True, slots=True)
class InBlock:
    """The proof leads to this merkle root, which it says is that of the block at `height`."""

    height: int
    merkle_root: str
    """Hex as nodes and explorers print it (bytes reversed)."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a proof, or an answer that would become part of one, leads to."""

    promises: tuple[Promise, ...]
    blocks: tuple[InBlock, ...]
    """Lowest first."""
    messages: frozenset[bytes]
    """Every value on the way."""


def commitment(root: bytes, nonce: bytes) -> bytes:
    return hashlib.sha256(root + nonce).digest()


def fresh_nonce() -> bytes:
    """So that no calendar, nor anybody who listens, learns the root."""
    return os.urandom(NONCE_BYTES)


def stamped(root: bytes, nonce: bytes, answers: Sequence[bytes]) -> bytes:
    """A proof of the answers to `commitment(root, nonce)`, at least one. Raises Garbled."""
    library = _library()
    with _reading():
        timestamp = library.Timestamp(root)
        blinded = timestamp.ops.add(library.OpAppend(nonce)).ops.add(library.OpSHA256())
        for answer in answers:
            blinded.merge(_answer(answer, blinded.msg))
        return _rendered(library.DetachedTimestampFile(library.OpSHA256(), timestamp), root)


def grafted(proof: bytes, root: bytes, at: bytes, answer: bytes) -> bytes:
    """The proof with `answer` added below the value `at`; nothing is ever taken out. Raises Garbled."""
    with _reading():
        detached = _detached(proof, root)
        places = [place for place in _walk(detached.timestamp) if place.msg == at]
        if not places:
            raise Garbled(f"the proof does not hold {at.hex()}")
        for place in places:
            place.merge(_answer(answer, at))
        return _rendered(detached, root)


def united(one: bytes, other: bytes, root: bytes) -> bytes:
    """All that stands in either of two proofs of `root`. Raises Garbled."""
    with _reading():
        detached = _detached(one, root)
        detached.timestamp.merge(_detached(other, root).timestamp)
        return _rendered(detached, root)


def contents(proof: bytes, root: bytes) -> Contents:
    """Of a detached proof of `root`. Raises Garbled."""
    with _reading():
        return _contents(_detached(proof, root).timestamp)


def answered(answer: bytes, at: bytes) -> Contents:
    """Of a calendar's answer about the value `at`. Raises Garbled."""
    with _reading():
        return _contents(_answer(answer, at))


def digest_of(proof: bytes) -> bytes:
    """The 32 bytes that a detached proof is about."""
    start = len(MAGIC) + 2
    if proof[: len(MAGIC)] != MAGIC or proof[len(MAGIC) : start] != b"\x01\x08" or len(proof) < start + 32:
        raise Garbled("no OpenTimestamps proof of a sha256 digest")
    return proof[start : start + 32]


def _library() -> Any:
    """Any: it has no types."""
    try:
        from opentimestamps.core import (  # type: ignore[import-untyped]  # it has no types
            notary,
            op,
            serialize,
            timestamp,
        )
    except ImportError:
        raise ConfigError(
            "the Python package opentimestamps is not installed", hint="pip install 'vmsh-scheduler[ots]'"
        ) from None
    return _Names(notary, op, serialize, timestamp)


class _Names:
    """The library's names in one place."""

    def __init__(self, *modules: Any) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        return next(getattr(module, name) for module in self._modules if hasattr(module, name))


@contextmanager
def _reading() -> Iterator[None]:
    """Everything that the library raises for bytes from outside, as one kind."""
    library = _library()
    wrong = (library.DeserializationError, ValueError, TypeError, AssertionError, OverflowError, RecursionError)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of operations that may be dropped one day
            yield
    except wrong as error:
        raise Garbled(f"no readable timestamp: {type(error).__name__}") from None


def _detached(proof: bytes, root: bytes) -> Any:
    if len(proof) > PROOF_LIMIT:
        raise Garbled(f"a proof of more than {PROOF_LIMIT} bytes")
    if digest_of(proof) != root:
        raise Garbled("the proof is for another root")
    library = _library()
    return library.DetachedTimestampFile.deserialize(library.BytesDeserializationContext(proof))


def _answer(answer: bytes, at: bytes) -> Any:
    if len(answer) > ANSWER_LIMIT:
        raise Garbled(f"an answer of more than {ANSWER_LIMIT} bytes")
    library = _library()
    context = library.BytesDeserializationContext(answer)
    timestamp = library.Timestamp.deserialize(context, at)
    context.assert_eof()
    return timestamp


def _rendered(detached: Any, root: bytes) -> bytes:
    """Read again: grafts upon grafts could pass the depth at which clients give up."""
    context = _library().BytesSerializationContext()
    detached.serialize(context)
    proof: bytes = context.getbytes()
    _detached(proof, root)
    return proof


def _walk(timestamp: Any) -> Iterator[Any]:
    yield timestamp
    for below in timestamp.ops.values():
        yield from _walk(below)


def _contents(timestamp: Any) -> Contents:
    library = _library()
    promises, blocks = set(), set()
    for message, attestation in timestamp.all_attestations():
        if isinstance(attestation, library.PendingAttestation):
            promises.add((attestation.uri, message))
        elif isinstance(attestation, library.BitcoinBlockHeaderAttestation):
            if len(message) != 32 or not 0 <= attestation.height < _HIGHEST:
                raise Garbled("a Bitcoin attestation that fits no block")
            blocks.add((attestation.height, message[::-1].hex()))
    return Contents(
        tuple(Promise(message, uri) for uri, message in sorted(promises)),
        tuple(InBlock(height, merkle_root) for height, merkle_root in sorted(blocks)),
        frozenset(place.msg for place in _walk(timestamp)),
    )
