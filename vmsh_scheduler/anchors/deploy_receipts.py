"""`ops/receipts/deploy/<component>-<version>.receipt` (spec vaultmesh section 6): YAML front matter, then a text.

A receipt is rendered from its row in the Remembrancer's database, so that one can be held against the other."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.errors import Usage

DEPLOYMENT, ANCHOR = "deployment", "anchor"
VERIFIED_BY = "remembrancer-cli"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})
_UNSEEN = re.compile("[\\x7f-\\x9f\\u2028\\u2029\\ufeff]")
_COMPONENT_LENGTH = 100


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was deployed or anchored: a file (below the root as POSIX path; "" = none) and 64 hex digits."""

    artifact: str
    sha256: str


@dataclass(frozen=True, slots=True)
class DeployReceipt:
    """One file's content."""

    type: str
    component: str
    version: str
    timestamp: str
    """UTC with Z."""
    evidence: Evidence
    body: str = ""

    @property
    def name(self) -> str:
        """Without suffix."""
        return f"{self.component}-{self.version}"

    def same_but_for_time(self, other: "DeployReceipt") -> bool:
        return replace(self, timestamp=other.timestamp) == other

    def text(self) -> str:
        lines = [
            f"type: {self.type}",
            f"component: {_scalar(self.component)}",
            f"version: {_scalar(self.version)}",
            f"timestamp: {self.timestamp}",
            "evidence:",
            f"  artifact: {_scalar(self.evidence.artifact)}",
            f'  sha256: "{self.evidence.sha256}"',
            "status: active",
            f"verified_by: {VERIFIED_BY}",
        ]
        return "\n".join(["---", *lines, "---", "", self.body, ""])


def path_of(ops: Path, kind: str, name: str) -> Path:
    """Of `ops/receipts/<kind>/<name>.receipt`; Invalid for names that are no plain names."""
    for part in (kind, name):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,230}", part):
            raise Invalid(f"{part!r} is no plain name (letters, digits, . _ + -, at most 231)")
    return ops / "receipts" / kind / f"{name}.receipt"


def checked_name(what: str, text: str) -> str:
    """A component or version as the command line gives it; Usage."""
    if not _NAME.fullmatch(text):
        raise Usage(f"{what} {text!r} is no plain name (letters, digits, . _ + -, at most 100)")
    return text


def anchor_component(namespace: str, cadence: str, chain: str = "") -> str:
    """`anchor__<namespace>__<level>`, two names never alike: what is no letter, digit or dot becomes `_` and hex."""
    parts = [namespace, cadence, *([chain] if chain else [])]
    name = "__".join(["anchor", *("".join(map(_escaped, part)) for part in parts)])
    if len(name) <= _COMPONENT_LENGTH:
        return name
    return f"{name[:60]}__{sha256(name.encode()).hexdigest()[:32]}"


def read(path: Path) -> DeployReceipt:
    """What its fields say; Invalid when it is none. Also of receipts that others wrote in the same form."""
    try:
        text = disk.read(path, disk.SMALL_LIMIT).decode()
    except UnicodeDecodeError:
        raise Invalid(f"{path} is no receipt: not UTF-8") from None
    head, _, body = text.removeprefix("---\n").partition("\n---\n")
    fields = _fields(head) if text.startswith("---\n") else {}
    missing = {"type", "component", "version", "timestamp", "sha256"} - fields.keys()
    if missing:
        raise Invalid(f"{path} is no receipt: it lacks {', '.join(sorted(missing))}")
    evidence = Evidence(fields.get("artifact", ""), fields["sha256"])
    return DeployReceipt(
        fields["type"], fields["component"], fields["version"], fields["timestamp"], evidence, body.strip("\n")
    )


def _fields(head: str) -> Mapping[str, str]:
    """Flat: the two fields of `evidence` stand beside the others. A line that is no field is passed over."""
    found: dict[str, str] = {}
    for line in head.split("\n"):
        key, colon, value = line.strip().partition(":")
        if colon and value.strip():
            found[key] = _unquoted(value.strip())
    return found


def _unquoted(text: str) -> str:
    if text[:1] == text[-1:] == "'" and len(text) > 1:
        return text[1:-1].replace("''", "'")
    if text.startswith('"'):
        try:
            value = json.loads(text)
        except ValueError:
            raise Invalid(f"a receipt's value cannot be read: {text[:60]}") from None
        return str(value)
    return text


def _scalar(text: str) -> str:
    """As YAML 1.1 and 1.2 read it: a text, whatever it looks like."""
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", quoted)


def _escaped(character: str) -> str:
    if character.isascii() and (character.isalnum() or character == "."):
        return character
    return "".join(f"_{byte:02x}" for byte in character.encode())
