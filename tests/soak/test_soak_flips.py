"""Every byte of every file of evidence, flipped in two ways: `verify` fails, whatever byte it is."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.site import Site
from vmsh_scheduler.anchors.proof import proof
from vmsh_scheduler.anchors.remembrancer import Remembrancer, deploy_evidence
from vmsh_scheduler.domain import merkle
from vmsh_scheduler.domain.batch import hash_bytes, hash_text

Record = Callable[[str, object], None]
CACHES = ("tail.json", "index", "remembrancer.db", "app.tar")
"""Made anew when wrong; read row by row and not byte by byte; and what was deployed, which `verify FILE` looks at."""
UNHELD = ('"verifier"', "did:vm:arbiter:local-sealer", '"integrity"', '"anchors"')
"""Of a v0 event's receipt, which has no digest: whoever wrote it, its mark's name, and the name of the list that its
`anchor` is from."""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A sealed and a foreign batch through a super-batch, an event of the foreign one, a deployment, a proof."""
    site = Site(tmp_path)
    (tmp_path / "ops").mkdir()
    site.write("a.md", "a")
    site.write("app.tar", "app")
    own, foreign = site.seal("*.md").result, site.put_batch("10", leaves=2)
    _event(site, foreign["leaves"], foreign["root"])
    members = [{"id": one["id"], "root": one["root"]} for one in (own, foreign)]
    above = site.ask("combine", {"directory": str(site.batches), "namespace": "demo:files", "batches": members}).result
    assert site.anchor(above, "k").code == 0
    Remembrancer(tmp_path).deployed("app", "v1", deploy_evidence(tmp_path, tmp_path / "app.tar", ""), "note")
    site.write("proof.json", json.dumps(proof(tmp_path, tmp_path / "a.md")))
    assert not site.failures()
    return site


def _event(site: Site, leaves: list[str], root: str) -> None:
    path = [hash_text(node) for node in merkle.v0_path([hash_bytes(leaf) for leaf in leaves], 0)]
    about = {"eventHash": leaves[0], "batchRoot": root, "path": path, "eventId": "e0"}
    made = {"verifier": "did:vm:arbiter:local-sealer", "integrity": "vmr1-10-e0"}
    inside = {"anchor": {"chain": "vm:internal", "tx": "batch:10", "block": 0, "ts": 1}}
    site.write("out/receipts/e0.json", json.dumps({**about, **made, **inside}, indent=2))


def _evidence(site: Site) -> Iterator[Path]:
    for path in sorted(site.root.rglob("*")):
        inside = path.relative_to(site.root)
        if path.is_file() and inside.parts[0] in ("out", "ops", "proof.json") and not set(inside.parts) & set(CACHES):
            yield path


def _unheld(path: Path, raw: bytes) -> set[int]:
    if path.name != "e0.json":
        return set()
    starts = [(raw.index(text.encode()), len(text)) for text in UNHELD]
    return {place for start, length in starts for place in range(start, start + length)}


@pytest.mark.timeout(3600)
def test_every_byte_of_every_file(site: Site, record_property: Record) -> None:
    flips = 0
    for path in _evidence(site):
        raw, what = path.read_bytes(), str(path) if path.name == "proof.json" else "all"
        for place in sorted(set(range(len(raw))) - _unheld(path, raw)):
            for bit in (0x01, 0x20):
                path.write_bytes(raw[:place] + bytes([raw[place] ^ bit]) + raw[place + 1 :])
                assert site.failures(what), (path.name, place, bit, raw[max(0, place - 12) : place + 12])
                flips += 1
        path.write_bytes(raw)
    assert not site.failures()
    record_property("flipped bytes", f"{flips} flips, all seen")
