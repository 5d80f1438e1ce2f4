"""The signing key of a ledger: a 0600 file made at first use, or a systemd credential."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from vmsh_scheduler.anchors import disk
from vmsh_scheduler.anchors.note import Signer
from vmsh_scheduler.errors import ConfigError


@dataclass(frozen=True, slots=True)
class KeyPlace:
    """Where keys may be; a credential wins."""

    directory: Path
    credentials: Path | None = None

    def find(self, ledger: str) -> Signer | None:
        """None: there is none yet. Denied: others could read it."""
        name = f"{ledger}.ed25519"
        if self.credentials is not None:
            raw = disk.read_if_there(self.credentials / name, disk.SMALL_LIMIT)
            if raw is not None:
                return Signer.read(raw.decode(errors="replace"))
        path = self.directory / name
        raw = disk.read_if_there(path, disk.SMALL_LIMIT)
        if raw is None:
            return None
        disk.check_private(path)
        return Signer.read(raw.decode(errors="replace"))

    def make(self, ledger: str, origin: str) -> Signer:
        """A new key, durable before it is used; the directory is 0700."""
        disk.make_directory(self.directory, 0o700)
        with disk.locked(self.directory):
            made = self.find(ledger)
            if made is not None:
                return made
            signer = Signer(origin, secrets.token_bytes(32))
            disk.replace(self.directory / f"{ledger}.ed25519", signer.text().encode() + b"\n", mode=0o600)
            return signer


def signer_for(place: KeyPlace, ledger: str, origin: str, *, known: bool) -> Signer:
    """`known`: the ledger has a public key already, so a missing private one is never replaced."""
    signer = place.find(ledger)
    if signer is not None:
        return signer
    if known:
        raise ConfigError(
            f"the signing key of ledger {ledger!r} is gone: {place.directory / ledger}.ed25519",
            hint="restore it, set VMSH_KEYS, or anchor to a new ledger",
        )
    return place.make(ledger, origin)
