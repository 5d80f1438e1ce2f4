"""What a verb is told: one JSON object on stdin, else VMSH_* of the environment; stdin wins."""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.domain.batch import is_hash, is_id, load
from vmsh_scheduler.errors import ConfigError

STDIN_LIMIT = 64 << 20
"""Bytes; `combine` gets a list of batch ids."""
_LEDGER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def now_s() -> int:
    """UTC; the one clock of this program."""
    return int(time.time())


@dataclass(frozen=True, slots=True)
class Facts:
    """Input of one verb."""

    document: Mapping[str, Any] = field(default_factory=dict)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Holds keys and passwords, so that no text shows it."""

    def text(self, key: str, variable: str = "") -> str:
        """`a.b` looks into the object `a`; "" when neither says it; Invalid when it is no text."""
        value: object = self.document
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is None:
            return self.environ.get(variable, "") if variable else ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise Invalid(f"stdin: {key} is not a text")
        return str(value)

    def texts(self, key: str) -> list[str]:
        value = self.document.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise Invalid(f"stdin: {key} is not a list of texts")
        return value

    @property
    def root(self) -> Path:
        """Where `out/` is: told, else two above the batch file's directory, else the working directory."""
        told = self.text("root", "VMSH_ROOT")
        file = self.text("batch.file", "VMSH_BATCH_FILE")
        if not told and file:
            directory = Path(file).absolute().parent
            if directory.parts[-2:] == ("out", "batches"):
                return directory.parent.parent
        return Path(told or ".").absolute()

    @property
    def keys(self) -> Path:
        """Directory of private keys: told, else beside the state file, else that of the root's layout."""
        told, state = self.text("keys", "VMSH_KEYS"), self.text("state", "VMSH_STATE")
        if told or state:
            return Path(told) if told else Path(state).parent / "keys"
        seed_layout = self.root / "out" / "state"
        return (seed_layout if seed_layout.is_dir() else self.root / "state") / "keys"

    @property
    def namespace(self) -> str:
        return self.text("namespace", "VMSH_NAMESPACE")

    @property
    def cadence(self) -> str:
        """Its level's name."""
        return self.text("cadence", "VMSH_CADENCE")

    @property
    def write_off(self) -> bool:
        """By the environment: nothing may be written to chains."""
        return self.environ.get("ANCHOR_WRITE_ENABLED") == "0"

    @property
    def credentials(self) -> Path | None:
        """systemd's LoadCredential directory."""
        told = self.text("credentials", "CREDENTIALS_DIRECTORY")
        return Path(told) if told else None

    @property
    def ledger(self) -> str:
        """Name in the target `local:<name>`; ConfigError when the target is none."""
        target = self.text("target", "VMSH_TARGET")
        scheme, _, name = target.partition(":")
        if scheme != "local" or not _LEDGER.fullmatch(name):
            raise ConfigError(f"target {target!r} is not local:<name>", hint="name: letters, digits, . _ -")
        return name

    @property
    def batch(self) -> tuple[str, str]:
        """Id and root, checked."""
        identity, root = self.text("batch.id", "VMSH_BATCH_ID"), self.text("batch.root", "VMSH_BATCH_ROOT")
        if not is_id(identity) or not is_hash(root):
            raise Invalid("no batch to anchor: batch.id and batch.root (sha256:<hex>) are needed")
        return identity, root


def read_facts(stdin: BinaryIO, environ: Mapping[str, str]) -> Facts:
    """Empty input and a terminal mean: the environment says everything."""
    raw = b"" if stdin.isatty() else stdin.read(STDIN_LIMIT + 1)
    if len(raw) > STDIN_LIMIT:
        raise Invalid(f"stdin is larger than {STDIN_LIMIT} bytes")
    document = load(raw) if raw.strip() else {}
    if isinstance(document, str):
        raise Invalid(f"stdin is {document}")
    _check_texts(document)
    return Facts(document, environ)


def _check_texts(document: Mapping[str, Any]) -> None:
    """Invalid when one holds what no path and no argument can: a NUL, or half a character that stands for no byte."""
    left: list[object] = [document]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str):
            _check_text(value)


def _check_text(text: str) -> None:
    if "\0" in text:
        raise Invalid(f"stdin: a text holds a NUL: {text[:60]!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise Invalid(f"stdin: a text holds half a character: {text[:60]!r}") from None


def relative_to_root(path: Path, root: Path) -> str:
    """As recorded in batches: POSIX, with `..` where the path is outside."""
    return Path(os.path.relpath(path, root)).as_posix()
