"""Whom a verification believes: the root certificates that anchors.yaml names for each authority."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.domain.references import fill
from vmsh_scheduler.errors import ConfigError

if TYPE_CHECKING:  # slow to load, and most verifications meet no time stamp
    from cryptography import x509

_PLACES = ("config/anchors.yaml", "vmsh/config/anchors.yaml")


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a PEM file holds. Only roots are believed; the others help to build a chain to one."""

    roots: "tuple[x509.Certificate, ...]"
    others: tuple[bytes, ...] = ()
    """DER."""


@cache
def bundle(path: Path) -> Bundle:
    """Raises ConfigError when it is not there or holds no root."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        certificates = x509.load_pem_x509_certificates(disk.read(path, disk.SMALL_LIMIT))
    except OSError as error:
        raise ConfigError(f"trust bundle {path}: {error.strerror or error}") from None
    except Invalid as error:
        raise ConfigError(f"trust bundle {error.message}") from None
    except ValueError:
        raise ConfigError(f"trust bundle {path} is no PEM file of certificates") from None
    roots = tuple(each for each in certificates if each.issuer == each.subject)
    if not roots:
        raise ConfigError(f"trust bundle {path} holds no root certificate (one that signs itself)")
    return Bundle(roots, tuple(each.public_bytes(Encoding.DER) for each in certificates if each not in roots))


@dataclass(slots=True)
class Trust:
    """By name of the authority; read when first asked. `one`: a bundle to use for all of them, read at once: who names
    it wants to know whether it can be used, be there a time stamp or not. ConfigError."""

    root: Path
    anchors: Path | None = None
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    one: Path | None = None
    _entries: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.one is not None:
            bundle(self.one)

    def of(self, name: str) -> Bundle:
        """Raises ConfigError, which says what is missing."""
        if self.one is not None:
            return bundle(self.one)
        entry = self._entry(name)
        written = entry.get("trustBundle")
        if not isinstance(written, str):
            raise ConfigError(f"anchors.yaml names no trustBundle for rfc3161:{name}", hint="or use --trust FILE")
        filled = fill(written, self.environ)
        if filled.problems or not filled.text:
            raise ConfigError(f"rfc3161.{name}.trustBundle: {'; '.join(filled.problems) or 'is empty'}")
        return bundle(self.root / filled.text)

    def _entry(self, name: str) -> Mapping[str, Any]:
        if self._entries is None:
            self._entries = self._read()
        entry = self._entries.get(name, self._entries.get("default"))
        return entry if isinstance(entry, dict) else {}

    def _read(self) -> Mapping[str, Any]:
        from vmsh_scheduler.sources.yaml_file import parse  # YAML, which other verifications do not need

        for path in [self.anchors] if self.anchors else [self.root / place for place in _PLACES]:
            raw = disk.read_if_there(path, disk.SMALL_LIMIT)
            if raw is not None:
                entries = parse(raw, str(path), empty_ok=True).data.get("rfc3161")
                return entries if isinstance(entries, dict) else {}
        return {}
