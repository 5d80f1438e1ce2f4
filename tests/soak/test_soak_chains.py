"""The daemon and its anchoring child killed twenty times a rail, between the first call and the last: every batch is
paid for once, and no receipt is lost."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.chained import (
    Armed,
    Chained,
    EvmRail,
    TsaRail,
    a_bitcoin,
    a_chain,
    btc_moments,
    evm_moments,
    killed,
    tsa_moments,
)
from tests.support.daemon import Place
from tests.support.tsa import make_authorities, serving
from vmsh_scheduler.anchors.verify import verify

KILLS = 20
Record = Callable[[str, object], None]


def played(chained: Chained, moments: list[tuple[str, Armed]], settle: Callable[[], None]) -> None:
    """`settle` mines what is waiting. Closes the place."""
    assert len(moments) == KILLS
    try:
        daemon = killed(chained, moments)
        settle()
        (rail,) = chained.rails
        if not isinstance(rail, TsaRail):
            chained.confirm(rail.target, daemon)
            chained.wait_phases(rail.target, daemon, final=KILLS)
        daemon.stop()
        told = {receipt["batchId"]: receipt["anchors"] for receipt in chained.receipts()}
        assert len(chained.sealed()) == KILLS
        for batch in chained.sealed():
            assert [anchor["chain"] for anchor in told[batch]] == [rail.target], batch
        assert chained.failing("--online") == []
    finally:
        chained.place.close()


def rooted(tmp_path: Path) -> Place:
    root = tmp_path / "root"
    root.mkdir()
    return Place(root)


def test_eip155_killed_at_every_call(tmp_path: Path, record_property: Record) -> None:
    with a_chain() as (node, door, contract):
        rail = EvmRail(node, door, "soak", contract)
        played(Chained(rooted(tmp_path), [rail]).configured(), evm_moments(rail), lambda: node.mine(2))
        assert rail.paid() == KILLS
    record_property("anchors eip155", f"{KILLS} kills, {KILLS} batches: {KILLS} payments, 0 receipts lost")


@pytest.mark.needs("bitcoind")
def test_bitcoin_killed_at_every_call(tmp_path: Path, record_property: Record) -> None:
    with a_bitcoin(tmp_path / "node", KILLS + 10) as rail:
        moments = btc_moments(rail, KILLS)
        played(Chained(rooted(tmp_path), [rail]).configured(), moments, lambda: rail.node.mine(3))
        assert rail.paid() == KILLS
    record_property("anchors btc", f"{KILLS} kills, {KILLS} batches: {KILLS} payments, 0 receipts lost")


@pytest.mark.needs("openssl")
def test_rfc3161_killed_around_the_reply(tmp_path: Path, record_property: Record) -> None:
    with serving(make_authorities(tmp_path / "ca")) as tsa:
        tsa.release.set()
        rail = TsaRail(tsa, path="/held")
        played(Chained(rooted(tmp_path), [rail]).configured(), tsa_moments(rail, KILLS), lambda: None)
    record_property("anchors rfc3161", f"{KILLS} kills, {KILLS} batches: 0 receipts lost")


def test_every_byte_of_what_is_stamped_and_paid(tmp_path: Path, record_property: Record) -> None:
    """Batch, receipt with its token, and submission; without the node, which knows nothing that they do not say."""
    (tmp_path / "ca").mkdir()
    with a_chain() as (node, door, contract), serving(make_authorities(tmp_path / "ca")) as tsa:
        rail = EvmRail(node, door, "flips", contract)
        chained = Chained(rooted(tmp_path), [TsaRail(tsa), rail]).configured()
        try:
            chained.write("a")
            daemon = chained.place.daemon().ready()
            chained.wait_anchored()
            node.mine(2)
            chained.confirm(rail.target, daemon)
            chained.wait_phases(rail.target, daemon, final=1)
            daemon.stop()
            assert chained.failing("--online") == []
            flips = sum(_flipped(path, chained.place.root) for path in _kept(chained.place.root))
            assert chained.failing("--online") == []
        finally:
            chained.place.close()
    record_property("flipped bytes", f"{flips} flips of a batch, its receipt and its transaction, all seen")


def _kept(root: Path) -> list[Path]:
    found = [path for name in ("batches", "receipts", "submissions") for path in (root / "out" / name).rglob("*.json")]
    assert len(found) == 3
    return found


def _flipped(path: Path, root: Path) -> int:
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert not verify(root).ok, (path.name, place, raw[max(0, place - 12) : place + 12])
    path.write_bytes(raw)
    return len(raw)
