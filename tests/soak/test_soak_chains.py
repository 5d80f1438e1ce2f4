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
