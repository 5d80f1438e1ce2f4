"""kill -9 of the Bitcoin verbs at every call of the node, before it is carried out and after: paid once, not lost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.bitcoin_node import PASSWORD, BitcoinNode
from tests.support.bitcoin_rpc import Answer, Bench, Door, passed_on
from tests.support.bitcoin_site import root_of
from vmsh_scheduler.domain.batch import hash_text, render

CALLS = 6
"""Of an anchor that is not disturbed, meeting the node included."""


@dataclass
class Killing:
    """Hands calls on to the node; at the `at`th it kills whoever asks, `before` or after the node carried it out."""

    node: BitcoinNode
    root: Path
    at: int = 0
    before: bool = False
    count: int = 0
    victim: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    url: str = ""

    def answer(self, path: str, body: bytes, headers: dict[str, str]) -> Answer | None:
        self.count += 1
        if self.count != self.at:
            return passed_on(self.node, path, body, headers)
        if not self.before:
            passed_on(self.node, path, body, headers)
        assert self.victim is not None
        self.victim.kill()
        self.victim.wait()
        return None

    def verb(self, name: str, batch: str, *, at: int = 0, before: bool = False) -> tuple[int, dict[str, Any]]:
        """Exit code, result; -9 when it was killed."""
        self.at, self.before, self.count = at, before, 0
        words = [sys.executable, "-P", "-m", "vmsh_scheduler.anchors", name]
        environ = {**os.environ, "BTC_PASSWORD": PASSWORD}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.victim = subprocess.Popen(words, env=environ, **pipes)
        out, _ = self.victim.communicate(json.dumps(self._facts(batch)).encode(), timeout=60)
        return self.victim.returncode, json.loads(out.splitlines()[-1]) if out else {}

    def _facts(self, batch: str) -> dict[str, Any]:
        path, digest = self.root / "out" / "batches" / f"{batch}.json", hash_text(root_of(batch))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render({"id": batch, "root": digest, "leaves": [digest], "createdAt": 1}))
        entry = Bench("kills", self.node).entry(rpcUrl=self.url)
        about = {"root": str(self.root), "target": "btc:regtest", "rail": entry, "railName": "regtest"}
        return {**about, "batch": {"id": batch, "root": digest, "file": str(path)}}


@pytest.fixture
def killing(tmp_path: Path) -> Iterator[Killing]:
    node = BitcoinNode(tmp_path / "node").start()
    try:
        node.fund()
        node.wallet("kills", 8)
        found = Killing(node, tmp_path / "root")
        with Door(found.answer).open() as door:
            found.url = f"http://127.0.0.1:{door.port}"
            yield found
    finally:
        node.stop()


@pytest.mark.timeout(400)
@pytest.mark.needs("bitcoind")
def test_whenever_it_is_killed_it_pays_once(killing: Killing) -> None:
    rounds = [(f"b{at}{'a' if before else 'b'}", at, before) for at in range(1, CALLS + 1) for before in (True, False)]
    for batch, at, before in rounds:
        assert killing.verb("btc", batch, at=at, before=before)[0] == -9
        code, _ = killing.verb("probe", batch)
        assert code in (0, 1)
        if code == 1:
            assert killing.verb("btc", batch)[0] == 0
    killed = [killing.verb("confirm", "b1a", at=at, before=before)[0] for at in range(1, 8) for before in (True, False)]
    assert killed == [-9] * 14
    for _ in range(3):
        killing.node.mine()
        killing.verb("confirm", "b1a", at=5)
    _, result = killing.verb("confirm", "b1a")
    assert result["phases"] == {"final": len(rounds)}
    for batch, _, _ in rounds:
        assert killing.node.payments("kills", root_of(batch)) == 1
        receipt = json.loads((killing.root / "out" / "receipts" / "batches" / f"{batch}.json").read_text())
        assert receipt["anchor"]["status"] == "final"
