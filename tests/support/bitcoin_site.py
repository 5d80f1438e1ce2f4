"""A root directory whose batches go to bitcoind."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.support.bitcoin_rpc import ENVIRON, Bench
from vmsh_scheduler.anchors import confirm, pays, transact
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.submission import Book, Submission
from vmsh_scheduler.domain.batch import hash_text, render


@dataclass
class Site:
    """A root directory with batches, and verbs that run in it."""

    root: Path
    bitcoin: Bench
    patch: pytest.MonkeyPatch

    def facts(self, batch: str = "b1", target: str = "btc:regtest", **entry: Any) -> Facts:
        path = self.root / "out" / "batches" / f"{batch}.json"
        digest = hash_text(root_of(batch))
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render({"id": batch, "root": digest, "leaves": [digest], "createdAt": 1}))
        about = {"id": batch, "root": digest, "file": str(path)}
        rail = {"rail": self.bitcoin.entry(**entry), "railName": "regtest"}
        return Facts({"root": str(self.root), "batch": about, "target": target, **rail}, ENVIRON)

    def anchor(self, batch: str = "b1", **entry: Any) -> dict[str, Any]:
        return pays.anchor(self.facts(batch, **entry))

    def confirm(self, **entry: Any) -> dict[str, Any]:
        return pays.confirm(self.facts(**entry))

    def kept(self, batch: str = "b1") -> Submission:
        found = Book(self.root / "out", "btc:regtest").get(batch)
        assert found is not None
        return found

    def told(self, batch: str = "b1") -> dict[str, Any]:
        path = self.root / "out" / "receipts" / "batches" / f"{batch}.json"
        anchor: dict[str, Any] = json.loads(path.read_text())["anchor"]
        return anchor

    def at(self, hours: float) -> None:
        """From now on it is so much later than it is."""
        now = int(now_s() + hours * 3600)
        for module in (confirm, transact):
            self.patch.setattr(module, "now_s", lambda: now)

    def later(self) -> None:
        """Everything that was sent is stuck now."""
        self.at(7)

    def paid_once(self, batch: str = "b1") -> None:
        node = self.bitcoin.node
        assert node is None or node.payments(self.bitcoin.wallet, root_of(batch)) == 1


def root_of(batch: str) -> bytes:
    return sha256(batch.encode()).digest()
