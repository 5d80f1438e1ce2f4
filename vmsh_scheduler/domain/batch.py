"""Batch documents: what they look like, which are valid, in what order they are, which are still to be covered."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.shape import LATEST
from vmsh_scheduler.domain.trigger import SECOND, Millis

V0 = "v0"
"""VaultMesh's sealer tree: a document without `tree`."""
RFC6962 = "rfc6962-sha256"

_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NUMBERS = re.compile(r"(\d+)(?:-(\d+))?")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")
OPEN_MARKS = ".open"
"""Directory of empty files in a target's book, one for each batch that is not settled: the daemon looks there whether
a pass of `confirm` is worth it."""
_LAST_SECOND = LATEST // SECOND
"""9999-12-31: later than that is no time."""
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_CHAINS = ("btc", "eip155", "rfc3161", "ots", "local", "vm")
"""Strongest first (spec vaultmesh section 19; `vm:internal` is no anchor at all)."""

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a scheduler needs of a batch document; leaves stay on disk."""

    id: str
    root: str
    """"sha256:<64 hex>"."""
    created_at: Millis
    name: str
    """File name without its suffix."""
    tree: str = V0
    namespace: str = ""
    """"" = untagged: for every namespace that does not seal its own."""
    count: int = 0
    """Leaves, as far as the document says."""
    combined: bool = False
    """A super-batch: covers other batches and is never pending itself."""

    @property
    def order(self) -> str:
        """Sorts by (createdAt, numeric id, name)."""
        number, part = _numbers(self.id)
        return f"{self.created_at // SECOND:012d}.{number:020d}.{part:010d}.{self.name}"


@dataclass(frozen=True, slots=True)
class BadBatch:
    """A file that is no batch, and why; never an exception, so that one bad file stops nothing."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Covers:
    """How far a job has come. What is at or below `order` is done, unless its file came after `horizon`."""

    order: str = ""
    horizon: int | None = None
    """ctime in ns: files changed later were not seen then; None = never looked that way."""
    recent: tuple[str, ...] = ()
    """Ids beyond the horizon that were covered all the same (ctimes are coarse, so the horizon stays behind)."""

    def __str__(self) -> str:
        if self.horizon is None:
            return self.order
        return f"{self.order}|{self.horizon}|{','.join(self.recent)}"

    @classmethod
    def read(cls, text: str) -> "Covers":
        """Inverse of str(); a bare order has no horizon."""
        order, bar, rest = text.partition("|")
        horizon, _, recent = rest.partition("|")
        if not bar or not horizon.isascii() or not horizon.isdigit():
            return cls(order)
        return cls(order, int(horizon[:20]), tuple(recent.split(",")) if recent else ())


def canonical(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, UTF-8 unescaped; ValueError on NaN."""
    return _encode(value)


def hash_text(digest: bytes) -> str:
    return "sha256:" + digest.hex()


def is_hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def hash_bytes(text: str) -> bytes:
    """Of "sha256:<64 hex>" (checked before)."""
    return bytes.fromhex(text[7:])


def is_id(value: object) -> bool:
    """Safe as a file name: no separator, no leading dot, at most 128 characters."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def with_digest(document: Mapping[str, Any]) -> Document:
    """The same with `digest`: sha256 over the canonical text of everything else, so that any flip shows."""
    bare = {key: value for key, value in document.items() if key != "digest"}
    return {**bare, "digest": hash_text(sha256(canonical(bare).encode()).digest())}


def digest_holds(document: Mapping[str, Any]) -> bool:
    """False also for values that have no canonical text (a lone surrogate)."""
    try:
        return bool(document.get("digest") == with_digest(document)["digest"])
    except ValueError:
        return False


def render(document: Mapping[str, Any]) -> str:
    """The one file text of a document: a line per field, lists last and a line per item (so `head` can stop)."""
    lists = sorted(key for key, value in document.items() if isinstance(value, list) and value)
    plain = sorted(key for key in document if key not in lists)
    fields = [f"{canonical(key)}: {canonical(document[key])}" for key in plain]
    for key in lists:
        items = ",\n".join("  " + canonical(item) for item in document[key])
        fields.append(f"{canonical(key)}: [\n{items}\n]")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def head(beginning: bytes) -> Document | None:
    """The fields before the first list of a `render`ed text; None if this is no such text or it is cut short."""
    fields, ending, _ = beginning.partition(b": [\n")
    before, comma, key = fields.rpartition(b",\n")
    if not (beginning.startswith(b"{\n") and ending and comma and re.fullmatch(rb'"[A-Za-z]+"', key)):
        return None
    document = load(before + b"}")
    return document if isinstance(document, dict) else None


def load(raw: bytes) -> Document | str:
    """A JSON object without duplicate keys, NaN or bad UTF-8; else the reason as text."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except RecursionError:
        return "nested too deep"
    except ValueError as error:
        return f"not JSON: {error}"[:200]
    return value if isinstance(value, dict) else "not a JSON object"


def parse(raw: bytes, name: str) -> Batch | BadBatch:
    """Of a whole file; `name` is its stem."""
    document = load(raw)
    return BadBatch(name, document) if isinstance(document, str) else describe(document, name)


def describe(document: Mapping[str, Any], name: str) -> Batch | BadBatch:
    """Valid id and root make a batch (decision 23); whether its leaves give the root is for `verify`."""
    reason = _fault(document, name)
    if reason:
        return BadBatch(name, reason)
    leaves, count = document.get("leaves"), document.get("count")
    return Batch(
        id=document["id"],
        root=document["root"],
        created_at=_created(document) * SECOND,
        name=name,
        tree=document.get("tree", V0),
        namespace=document.get("namespace", ""),
        count=len(leaves) if isinstance(leaves, list) else count if isinstance(count, int) else 0,
        combined="batches" in document or document.get("kind") == "super",
    )


def leaves_root(tree: str, leaves: Sequence[str]) -> str:
    """Root of a document's `leaves`; in an RFC 6962 batch each is hashed with the 0x00 prefix, in v0 not."""
    raw = [hash_bytes(leaf) for leaf in leaves]
    if tree == V0:
        return hash_text(merkle.v0_root(raw))
    return hash_text(merkle.root([merkle.leaf_hash(data) for data in raw]))


def file_leaf(path: str, digest: str, size: int) -> str:
    """Leaf of a sealed file: sha256 of canonical {path, sha256, size}, so that a leaf speaks for its path too."""
    return hash_text(sha256(canonical({"path": path, "sha256": digest, "size": size}).encode()).digest())


def chain_leaf(job: str, seq: int, head: str) -> str:
    """Leaf of a job's journal: sha256 of canonical {head, job, seq}; `head` = hash of the row with number `seq`."""
    return hash_text(sha256(canonical({"head": head, "job": job, "seq": seq}).encode()).digest())


def strength(chain: str) -> int:
    """Position of an anchor's chain from strongest (0) on."""
    scheme = chain.partition(":")[0]
    return _CHAINS.index(scheme) if scheme in _CHAINS else len(_CHAINS)


def _fault(document: Mapping[str, Any], name: str) -> str:
    if not is_id(document.get("id")):
        return "id is missing or not a plain name (letters, digits, . _ -)"
    if document["id"] != name:
        return f"id {document['id']!r} is not the file's name"
    if not is_hash(document.get("root")):
        return "root is not sha256:<64 lower-case hex digits>"
    if document.get("tree", V0) not in (V0, RFC6962):
        return "tree is neither absent nor rfc6962-sha256"
    if not isinstance(document.get("namespace", ""), str):
        return "namespace is not a text"
    created = document.get("createdAt", 0)
    if isinstance(created, bool) or not isinstance(created, int) or not 0 <= created <= _LAST_SECOND:
        return "createdAt is not a time in whole seconds"
    return ""


def _created(document: Mapping[str, Any]) -> int:
    """Seconds; a document without createdAt goes by its numeric id."""
    created: int = document.get("createdAt", _numbers(document["id"])[0])
    return min(created, _LAST_SECOND)


def _numbers(identity: str) -> tuple[int, int]:
    found = _NUMBERS.match(identity)
    if found is None:
        return 0, 0
    return min(int(found[1]), 10**20 - 1), min(int(found[2] or 0), 10**10 - 1)


def _unique(pairs: list[tuple[str, Any]]) -> Document:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def slug(text: str) -> str:
    """For a file name; two targets of one scheme never meet in practice (`eip155:1` -> `eip155-1`)."""
    return _UNSAFE.sub("-", text)
