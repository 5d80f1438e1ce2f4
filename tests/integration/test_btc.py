"""The Bitcoin rail against bitcoind: as it answered once (always), and as it answers now (where there is one)."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from tests.support.bitcoin_node import PASSWORD, BitcoinNode
from tests.support.bitcoin_rpc import ENVIRON, Bench, bench
from tests.support.bitcoin_site import Site, root_of
from tests.support.needs import has
from vmsh_scheduler.anchors import btc, pays
from vmsh_scheduler.anchors.bitcoin_tx import parse, script
from vmsh_scheduler.anchors.chain import Anchor, Refused, Unreachable
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.online import of_facts
from vmsh_scheduler.anchors.submission import Book, Phase
from vmsh_scheduler.anchors.verify import verify
from vmsh_scheduler.errors import ConfigError, Denied, Exit

RECORD = bool(os.environ.get("VMSH_RECORD_BITCOIN"))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BitcoinNode | None]:
    if not has("bitcoind"):
        yield None
        return
    running = BitcoinNode(tmp_path_factory.mktemp("bitcoind")).start()
    try:
        running.fund()
        yield running
    finally:
        running.stop()


@pytest.fixture(params=["recorded", pytest.param("real", marks=pytest.mark.needs("bitcoind"))])
def bitcoin(request: pytest.FixtureRequest, node: BitcoinNode | None) -> Iterator[Bench]:
    name = request.node.originalname.removeprefix("test_")
    real = request.param == "real"
    if RECORD and not real:
        pytest.skip("the recordings are being made: only a real node is asked")
    with bench(name, node if real else None, record=RECORD) as found:
        yield found


@pytest.fixture
def site(tmp_path: Path, bitcoin: Bench, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, bitcoin, monkeypatch)


@pytest.fixture
def funded(site: Site) -> Site:
    site.bitcoin.do("wallet", site.bitcoin.wallet, 2)
    return site


def test_anchored_confirmed_and_final(funded: Site) -> None:
    first = funded.anchor()
    assert (first["phase"], first["attestation"]["block"]) == ("submitted", 0)
    assert funded.anchor()["attestation"]["tx"] == first["attestation"]["tx"]
    funded.bitcoin.do("mine")
    assert funded.confirm()["phases"] == {"verified": 1}
    assert (funded.told()["status"], funded.told()["depth"], funded.told()["need"]) == ("verified", 1, 3)
    assert funded.anchor()["attestation"]["tx"] == first["attestation"]["tx"]
    funded.bitcoin.do("mine", 2)
    assert funded.confirm()["phases"] == {"final": 1}
    told = funded.told()
    assert (told["tx"], told["status"], told["memo"]) == (first["attestation"]["tx"], "final", "OP_RETURN:RV+sha256")
    assert told["block"] > 101
    assert told["ts"] > 1_700_000_000
    assert len(told["blockHash"]) == 64
    funded.paid_once()


def test_the_bytes_in_the_book_say_the_root(funded: Site) -> None:
    result = funded.anchor()
    kept = funded.kept()
    tx = parse(kept.raw)
    assert tx.id == kept.tx == result["attestation"]["tx"]
    assert tx.scripts.count("6a225256" + root_of("b1").hex()) == 1
    assert 2 * tx.vsize <= kept.details["fee"] <= 2 * tx.vsize + 10


def test_as_the_scheduler_runs_it(funded: Site) -> None:
    words = [sys.executable, "-P", "-m", "vmsh_scheduler.anchors", "btc"]
    asked = json.dumps(dict(funded.facts().document))
    ran = subprocess.run(words, input=asked, env={**os.environ, **ENVIRON}, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert json.loads(ran.stdout)["attestation"]["tx"] == funded.kept().tx == funded.told()["tx"]
    wrong = json.dumps({**funded.facts().document, "target": "btc:signet"})
    ran = subprocess.run(words, input=wrong, env={**os.environ, **ENVIRON}, capture_output=True, text=True, check=False)
    assert ran.returncode == Exit.CONFIG
    assert "is on btc:regtest, not on btc:signet" in ran.stderr
    everything = "".join(path.read_text() for path in funded.root.rglob("*") if path.is_file())
    assert PASSWORD not in everything + ran.stdout + ran.stderr


def test_probe(funded: Site) -> None:
    assert pays.probe(funded.facts()) == {"status": "none", "exit": 1}
    first = funded.anchor()
    assert pays.probe(funded.facts())["attestation"]["tx"] == first["attestation"]["tx"]


def test_two_batches_in_one_block(funded: Site) -> None:
    one, two = funded.anchor("b1"), funded.anchor("b2")
    assert one["attestation"]["tx"] != two["attestation"]["tx"]
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 2}
    funded.paid_once("b1")
    funded.paid_once("b2")


def test_another_network(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"is on btc:regtest, not on btc:signet"):
        pays.anchor(site.facts(target="btc:signet"))


def test_wrong_password(funded: Site) -> None:
    funded.patch.setitem(ENVIRON, "BTC_PASSWORD", "canary-of-another")
    with pytest.raises(Denied, match="refused our credentials") as caught:
        funded.anchor()
    assert "canary" not in str(caught.value)


def test_an_empty_wallet(site: Site) -> None:
    site.bitcoin.do("call", "createwallet", site.bitcoin.wallet)
    with pytest.raises(Refused, match="has too few coins for the fee"):
        site.anchor()
    assert Book(site.root / "out", "btc:regtest").get("b1") is None


def test_no_such_wallet(site: Site) -> None:
    with pytest.raises(ConfigError, match="'no_such_wallet' is not loaded"):
        site.anchor()


def test_which_wallet(funded: Site) -> None:
    with pytest.raises(ConfigError, match="several wallets are loaded; set `wallet`"):
        funded.anchor(wallet=None)


def test_a_locked_wallet(funded: Site) -> None:
    funded.bitcoin.do("call", "encryptwallet", "words", wallet=funded.bitcoin.wallet)
    with pytest.raises(Denied, match="is locked; walletpassphrase"):
        funded.anchor()


def test_a_watch_only_wallet(site: Site) -> None:
    site.bitcoin.do("watch", site.bitcoin.wallet)
    with pytest.raises(Refused, match="cannot pay for it"):
        site.anchor()


def test_a_fee_above_the_cap(funded: Site) -> None:
    with pytest.raises(Refused, match=r"the fee would be \d+ sat, above the cap of 100; raise maxFeeSats"):
        funded.anchor(maxFeeSats=100)
    assert Book(funded.root / "out", "btc:regtest").get("b1") is None


def test_a_fee_target(funded: Site) -> None:
    assert funded.anchor(feeRate=None, confTarget=3)["phase"] == "submitted"


def test_too_cheap_to_relay(funded: Site) -> None:
    with pytest.raises(Refused, match=r"its fee is below what the node relays now.*raise feeRate"):
        funded.anchor(feeRate=0.01)
    assert funded.kept().phase is Phase.LOST
    dear = funded.anchor()
    assert dear["phase"] == "submitted"
    funded.bitcoin.do("mine")
    assert funded.confirm()["phases"] == {"verified": 1}
    funded.paid_once()


def test_out_of_its_block_and_into_another(funded: Site) -> None:
    first = funded.anchor()["attestation"]["tx"]
    funded.bitcoin.do("mine")
    funded.confirm()
    before = funded.told()
    funded.bitcoin.do("reorganise", 1)
    assert funded.confirm()["phases"] == {"reorged": 1}
    assert funded.told()["status"] == "reorged"
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 1}
    after = funded.told()
    assert (after["tx"], after["status"]) == (first, "final")
    assert after["blockHash"] != before["blockHash"]
    funded.paid_once()


def test_lost_to_another_spender(funded: Site) -> None:
    """Only when that one is as deep as we want our own to be; until then, nothing more is signed."""
    first = funded.anchor()["attestation"]["tx"]
    funded.bitcoin.do("steal", funded.bitcoin.wallet, funded.kept().raw)
    funded.bitcoin.do("mine", 2)
    assert funded.confirm()["phases"] == {"submitted": 1}
    assert funded.kept().tx == first
    funded.bitcoin.do("mine")
    funded.confirm()
    assert funded.kept().tx != first
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 1}
    assert funded.told()["earlier"] == [first]
    funded.paid_once()


def test_lost_before_it_ever_arrived(funded: Site) -> None:
    """The wallet knows nothing of ours, so that it tells of no conflict."""
    cut_off(funded)
    first = funded.kept()
    funded.bitcoin.do("steal", funded.bitcoin.wallet, first.raw)
    funded.bitcoin.do("mine", 2)
    assert funded.confirm()["phases"] == {"signed": 1}
    assert funded.kept().tx == first.tx
    funded.bitcoin.do("mine")
    funded.confirm()
    assert funded.kept().tx != first.tx
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 1}
    funded.paid_once()


def cut_off(site: Site) -> None:
    """Signed and written down; the node is gone when it is to be sent."""

    def gone(*_: object) -> None:
        raise Unreachable("gone")

    with site.patch.context() as patch:
        patch.setattr(btc.Bitcoin, "send", gone)
        assert site.anchor()["phase"] == "signed"


def test_what_was_cut_off_is_sent_by_the_next_pass(funded: Site) -> None:
    cut_off(funded)
    tx = funded.kept().tx
    assert funded.confirm()["phases"] == {"submitted": 1}
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 1}
    assert funded.kept().tx == tx
    funded.paid_once()


def test_what_was_cut_off_is_sent_before_the_next_batch(funded: Site) -> None:
    cut_off(funded)
    funded.anchor("b2")
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 2}
    funded.paid_once()


def test_stuck_and_hurried(funded: Site) -> None:
    slow = funded.anchor(feeRate=1)["attestation"]["tx"]
    fee = funded.kept().details["fee"]
    funded.later()
    assert funded.confirm()["phases"] == {"submitted": 1}
    fast = funded.kept()
    assert fast.tx != slow
    assert fast.details["fee"] >= fee * 1.5
    assert parse(fast.raw).spends == parse(fast.earlier[0].raw).spends
    assert parse(fast.raw).scripts.count(script(root_of("b1"))) == 1
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 1}
    assert (funded.told()["tx"], funded.told()["earlier"]) == (fast.tx, [slow])
    funded.paid_once()


def test_hurried_and_the_slow_one_is_mined(funded: Site) -> None:
    slow = funded.anchor(feeRate=1)["attestation"]["tx"]
    raw = funded.kept().raw
    funded.later()
    funded.confirm()
    assert funded.kept().tx != slow
    funded.bitcoin.do("mine_these", [raw])
    funded.bitcoin.do("mine", 2)
    assert funded.confirm()["phases"] == {"final": 1}
    assert funded.told()["tx"] == slow
    funded.paid_once()


def test_not_hurried_above_the_cap(funded: Site) -> None:
    tx = funded.anchor(maxFeeSats=400)["attestation"]["tx"]
    funded.later()
    assert funded.confirm(maxFeeSats=400)["phases"] == {"submitted": 1}
    assert funded.kept().tx == tx


def test_hurried_with_a_child(site: Site) -> None:
    """The second batch spends the first one's change. A dearer first has to pay for both, which the second try does;
    it throws the child out, whose batch is due again once that can not be undone."""
    site.patch.setattr(btc.Bitcoin, "_estimate", lambda _: Decimal(0))  # a real node's would skip the first try
    site.bitcoin.do("wallet", site.bitcoin.wallet, 1)
    site.anchor("b1", feeRate=1)
    first = site.kept("b1")
    site.at(8)
    site.anchor("b2", feeRate=1)
    child = site.kept("b2")
    assert parse(child.raw).spends[0].tx == first.tx
    site.at(8.5)
    site.confirm()
    assert (site.kept("b1").phase, len(site.kept("b1").earlier)) == (Phase.SIGNED, 1)
    site.at(15)
    site.confirm()
    assert (site.kept("b1").phase, len(site.kept("b1").earlier)) == (Phase.SUBMITTED, 2)
    for _ in range(2):
        site.bitcoin.do("mine", 3)
        site.confirm()
    assert site.confirm()["phases"] == {"final": 2}
    assert site.kept("b2").tx != child.tx
    site.paid_once("b1")
    site.paid_once("b2")


def test_another_wallet_goes_on_with_it(funded: Site) -> None:
    tx = funded.anchor()["attestation"]["tx"]
    funded.bitcoin.do("mine")
    funded.confirm()
    assert funded.confirm(wallet="miner")["phases"] == {"verified": 1}
    funded.bitcoin.do("mine", 2)
    assert funded.confirm(wallet="miner")["phases"] == {"final": 1}
    assert funded.told()["tx"] == tx


def test_a_forgotten_mempool(funded: Site) -> None:
    tx = funded.anchor()["attestation"]["tx"]
    funded.bitcoin.do("forget", funded.bitcoin.wallet)
    assert funded.confirm()["phases"] == {"submitted": 1}
    funded.bitcoin.do("mine", 3)
    assert funded.confirm()["phases"] == {"final": 1}
    assert funded.kept().tx == tx
    funded.paid_once()


def test_sent_again_when_mined_and_spent(funded: Site) -> None:
    """bitcoind then says "inputs missing or spent", as of something that never can be mined."""
    funded.anchor()
    funded.bitcoin.do("mine")
    funded.bitcoin.do("sweep", funded.bitcoin.wallet)
    funded.bitcoin.do("mine")
    assert funded.anchor()["status"] == "ok"
    assert funded.confirm()["phases"] == {"verified": 1}


def test_a_node_without_our_wallet_can_verify(funded: Site) -> None:
    funded.anchor()
    funded.bitcoin.do("mine", 3)
    funded.confirm()
    stranger = btc.looker(funded.facts(wallet="nobodys"))
    anchor = Anchor("b1", root_of("b1"))
    seen = stranger.look(funded.told(), anchor)
    assert seen is not None
    assert (seen.depth, seen.block, seen.block_hash, seen.ts, seen.fault) == (
        3,
        *(funded.told()[name] for name in ("block", "blockHash", "ts")),
        "",
    )
    old = {key: value for key, value in funded.told().items() if key != "blockHash"}
    assert stranger.look(old, anchor) == seen
    other = stranger.look(funded.told(), Anchor("b1", root_of("b2")))
    assert other is not None
    assert other.fault == "no output of it says this root"
    assert stranger.look({**funded.told(), "tx": "11" * 32}, anchor) is None
    assert stranger.look({**funded.told(), "blockHash": "11" * 32}, anchor) is None


def test_what_is_verified_and_then_reorganised_away(funded: Site) -> None:
    funded.anchor()
    funded.bitcoin.do("mine", 3)
    funded.confirm()
    assert rows(funded) == [(True, "btc:regtest")]
    funded.bitcoin.do("reorganise", 3)
    assert rows(funded) == [(False, f"btc:regtest: {funded.kept().tx} is in no block")]


def rows(site: Site) -> list[tuple[bool, str]]:
    facts = site.facts()
    entry = {"rail": facts.document["rail"], "railName": "regtest"}
    asking = of_facts(Facts({**facts.document, "online": True, "rails": {"btc:regtest": entry}}, ENVIRON))
    return [(row.ok, row.detail) for row in verify(site.root, asking=asking).rows if row.kind == "receipt"]
