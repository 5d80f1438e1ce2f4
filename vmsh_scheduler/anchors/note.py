"""C2SP signed notes with an Ed25519 key, and the tlog-checkpoint inside: what outside tools check a ledger by."""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from vmsh_scheduler.anchors.failures import Corrupt, Invalid

_ED25519 = b"\x01"
_NAME = re.compile(r"[^\s+]{1,200}")


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and the name it signs under."""

    name: str
    public: bytes

    @property
    def hash(self) -> bytes:
        return key_hash(self.name, self.public)

    def __str__(self) -> str:
        """Verifier key: name+hex8+base64(0x01 || key)."""
        return f"{self.name}+{self.hash.hex()}+{_encode(_ED25519 + self.public)}"

    @classmethod
    def read(cls, text: str) -> "Verifier":
        """Corrupt unless it is exactly what str() writes."""
        name, plus, rest = text.partition("+")
        data = _decode(rest.partition("+")[2])
        if not plus or len(data) != 33 or data[:1] != _ED25519 or not is_name(name):
            raise Corrupt("not an Ed25519 verifier key")
        verifier = cls(name, data[1:])
        if str(verifier) != text:
            raise Corrupt("verifier key does not carry its own hash")
        return verifier

    def opens(self, note: str) -> str:
        """Text of a note that carries exactly one signature, by this key; Corrupt otherwise."""
        # cryptography costs 50 ms: only what checks or makes a signature pays for it
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        text, signature = self._split(note)
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except (InvalidSignature, ValueError):
            raise Corrupt(f"the signature of {self.name} does not hold") from None
        return text

    def _split(self, note: str) -> tuple[str, bytes]:
        body, blank, last = note.rpartition("\n\n")
        prefix = f"— {self.name} "
        if not blank or not last.startswith(prefix) or not last.endswith("\n"):
            raise Corrupt(f"not a note signed by {self.name}")
        encoded = last[len(prefix) : -1]
        blob = _decode(encoded)
        if blob[:4] != self.hash or len(blob) != 68:
            raise Corrupt(f"signed by another key than {self.name}+{self.hash.hex()}")
        return body + "\n", blob[4:]


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key: 32 bytes of seed."""

    name: str
    seed: bytes

    def __repr__(self) -> str:
        return f"Signer({self.name!r})"

    @property
    def verifier(self) -> Verifier:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # 50 ms, see above

        return Verifier(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """A signed note; the same text gives the same note (Ed25519 is deterministic)."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # 50 ms, see above

        signature = Ed25519PrivateKey.from_private_bytes(self.seed).sign(text.encode())
        return f"{text}\n— {self.name} {_encode(self.verifier.hash + signature)}\n"

    def text(self) -> str:
        """Signer key: PRIVATE+KEY+name+hex8+base64(0x01 || seed), as golang.org/x/mod/sumdb/note writes it."""
        return f"PRIVATE+KEY+{self.name}+{self.verifier.hash.hex()}+{_encode(_ED25519 + self.seed)}"

    @classmethod
    def read(cls, text: str) -> "Signer":
        """Invalid unless it is a signer key; the message never shows it."""
        parts = text.strip().split("+", 4)
        try:
            data = _decode(parts[4]) if len(parts) == 5 else b""
        except Corrupt:
            data = b""
        if parts[:2] != ["PRIVATE", "KEY"] or len(data) != 33 or data[:1] != _ED25519 or not is_name(parts[2]):
            raise Invalid("not an Ed25519 signer key (PRIVATE+KEY+name+hash+key)")
        return cls(parts[2], data[1:])


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How many entries a ledger has, and the RFC 6962 root over them."""

    origin: str
    size: int
    root: bytes

    def __str__(self) -> str:
        return f"{self.origin}\n{self.size}\n{_encode(self.root)}\n"

    @classmethod
    def read(cls, text: str) -> "Checkpoint":
        """Corrupt unless it is exactly what str() writes (we write no extension lines)."""
        lines = text.split("\n")
        if len(lines) != 4 or not re.fullmatch(r"0|[1-9]\d{0,15}", lines[1], re.ASCII):
            raise Corrupt("not a checkpoint")
        checkpoint = cls(lines[0], int(lines[1]), _decode(lines[2]))
        if str(checkpoint) != text or len(checkpoint.root) != 32:
            raise Corrupt("not a checkpoint in canonical form")
        return checkpoint


def key_hash(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def is_name(name: str) -> bool:
    """Of a key or ledger: no space, no plus sign."""
    return _NAME.fullmatch(name) is not None


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytes:
    """Strict: refuses other spellings of the same bytes."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Corrupt("not base64") from None
    if _encode(data) != text:
        raise Corrupt("not base64 in canonical form")
    return data
