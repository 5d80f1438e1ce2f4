"""Bitcoin without a node: what a transaction's bytes say, what errors mean, and nodes that answer nonsense."""

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.bitcoin_rpc import DATA
from tests.support.rpc_door import Door, door
from vmsh_scheduler.anchors import btc_errors, pays
from vmsh_scheduler.anchors.bitcoin_tx import Coin, parse, script
from vmsh_scheduler.anchors.chain import Refused, Unreachable
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.rpc import NotRpc, RpcError
from vmsh_scheduler.anchors.submission import Book, Phase
from vmsh_scheduler.errors import ConfigError, Exit, SchedulerError

GENESIS = (
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d010445546865"
    "2054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c"
    "6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a6"
    "7962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)
BATCH, ROOT = "b1", sha256(b"b1").digest()


def recorded(name: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads((DATA / f"{name}.json").read_text())
    return listed


def sent() -> tuple[str, str]:
    """Raw bytes that a real bitcoind took, and the id it gave them."""
    one = next(one for one in recorded("anchored_confirmed_and_final") if one["method"] == "sendrawtransaction")
    return one["params"][0], json.loads(one["body"])["result"]


def test_the_first_transaction_of_all() -> None:
    tx = parse(GENESIS)
    assert tx.id == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert tx.spends == (Coin("00" * 32, 0xFFFFFFFF),)
    assert len(tx.scripts) == 1
    assert tx.vsize == len(GENESIS) // 2


def test_a_transaction_with_witnesses_has_the_id_that_the_node_gives() -> None:
    raw, node_says = sent()
    assert raw[8:12] == "0001", "the recording has no witness"
    tx = parse(raw)
    assert tx.id == node_says
    assert script(ROOT) in tx.scripts
    assert tx.vsize < len(raw) // 2


def test_every_recorded_transaction_is_read() -> None:
    raws = [one["params"][0] for path in DATA.glob("*.json") for one in json.loads(path.read_text()) if sends(one)]
    assert len(raws) > 20
    assert all(parse(raw).spends for raw in raws)


def sends(exchange: dict[str, Any]) -> bool:
    return bool(exchange["method"] == "sendrawtransaction")


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 200), tail=st.binary(max_size=3), flip=st.integers(0, 200))
def test_cut_and_changed_bytes_are_invalid_or_another_transaction(cut: int, tail: bytes, flip: int) -> None:
    raw, tx_id = sent()
    data = bytearray.fromhex(raw)
    data = data[: len(data) - cut] + tail
    if data:
        data[flip % len(data)] ^= 1
    try:
        tx = parse(data.hex())
    except Invalid:
        return
    assert tx.spends
    assert cut == len(tail) or tx.id != tx_id


@pytest.mark.parametrize("raw", ["", "zz", "00", "0100000000010000", "ff" * 60, "01000000fe" + "ff" * 4 + "00" * 60])
def test_no_transaction(raw: str) -> None:
    with pytest.raises(Invalid, match="no Bitcoin transaction"):
        parse(raw)


@pytest.mark.parametrize(
    ("number", "said", "meaning"),
    [
        (-25, "bad-txns-inputs-missingorspent", "a coin it spends was spent by another transaction"),
        (-25, "Missing inputs", "a coin it spends was spent by another transaction"),
        (-26, "txn-mempool-conflict", "another transaction that waits to be mined spends its coin"),
        (
            -26,
            "insufficient fee, rejecting replacement 00; new feerate 0.1 <= old feerate 0.2",
            "does not pay enough more",
        ),
        (-26, "min relay fee not met, 1 < 141", "below what the node relays now"),
        (-26, "mempool min fee not met, 141 < 200", "below what the node relays now"),
        (
            -26,
            "too-long-mempool-chain, too many unconfirmed ancestors [limit: 25]",
            "too many unconfirmed transactions",
        ),
        (-26, "datacarrier", "raise bitcoind's -datacarriersize"),
        (-25, "Fee exceeds maximum configured by user (maxfeerate)", "above what the node sends"),
        (-26, "non-mandatory-script-verify-flag", "non-mandatory-script-verify-flag"),
        (-22, "TX decode failed", "TX decode failed"),
    ],
)
def test_what_sending_may_be_refused_for(number: int, said: str, meaning: str) -> None:
    refusal = btc_errors.of_send(RpcError(number, said, "http://n: sendrawtransaction"))
    assert isinstance(refusal, Refused)
    assert meaning in str(refusal)


@pytest.mark.parametrize(
    ("number", "said", "exit_code"),
    [
        (-25, "Missing inputs", Exit.BUSY),
        (-26, "mempool min fee not met, 141 < 200", Exit.BUSY),
        (-26, "too-long-mempool-chain", Exit.BUSY),
        (-26, "datacarrier", Exit.STATE_UNREADABLE),
    ],
)
def test_what_may_pass_is_tried_again_and_the_rest_is_not(number: int, said: str, exit_code: Exit) -> None:
    refusal = btc_errors.of_send(RpcError(number, said, "n"))
    assert isinstance(refusal, Refused)
    assert refusal.exit == exit_code


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (-27, "Transaction already in block chain"),
        (-27, "Transaction outputs already in utxo set"),
        (-26, "txn-already-known"),
        (-26, "txn-already-in-mempool"),
    ],
)
def test_what_the_node_has_already_is_fine(number: int, said: str) -> None:
    assert btc_errors.of_send(RpcError(number, said, "n")) is None


@pytest.mark.parametrize("number", [-28, -9, -10, -32603, 0])
def test_what_is_not_known_to_be_refused_is_asked_again_later(number: int) -> None:
    """Never `Refused`: that would have it signed anew."""
    assert isinstance(btc_errors.of_send(RpcError(number, "what now", "n")), Unreachable)


ANSWERS: dict[str, Any] = {
    one["method"]: json.loads(one["body"])["result"] for one in reversed(recorded("the_bytes_in_the_book_say_the_root"))
}
"""Sound ones, of one anchor of ROOT."""


@pytest.fixture
def node() -> Iterator[Door]:
    with door(lambda method, params: {"result": ANSWERS[method]}) as opened:
        yield opened


def facts(node: Door, root: Path, **entry: Any) -> Facts:
    batch = {"id": BATCH, "root": f"sha256:{ROOT.hex()}"}
    rail = {"rpcUrl": node.url, "wallet": "w", "feeRate": 2, **entry}
    return Facts({"root": str(root), "batch": batch, "target": "btc:regtest", "rail": rail, "railName": "regtest"}, {})


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("getblockchaininfo", []),
        ("getblockchaininfo", {"chain": 7}),
        ("createrawtransaction", None),
        ("fundrawtransaction", "00"),
        ("fundrawtransaction", {"hex": "00"}),
        ("fundrawtransaction", {"hex": "00", "fee": "0.1"}),
        ("fundrawtransaction", {"hex": "00", "fee": float("nan")}),
        ("fundrawtransaction", {"hex": "00", "fee": True}),
        ("fundrawtransaction", {"fee": 0.00001}),
        ("signrawtransactionwithwallet", {"hex": sent()[0], "complete": False}),
        ("signrawtransactionwithwallet", {"complete": True}),
        ("signrawtransactionwithwallet", {"complete": True, "hex": "00"}),
        ("signrawtransactionwithwallet", {"complete": True, "hex": GENESIS}),
    ],
)
def test_before_anything_is_written_nonsense_is_refused(node: Door, tmp_path: Path, method: str, answer: Any) -> None:
    sound = {**ANSWERS, method: answer}
    if answer is None:
        sound["fundrawtransaction"] = None
    node.behind = lambda asked, params: {"result": sound[asked]}
    with pytest.raises(SchedulerError) as caught:
        pays.anchor(facts(node, tmp_path))
    assert isinstance(caught.value, NotRpc | Invalid | ConfigError)
    assert node.count("sendrawtransaction") == 0
    assert Book(tmp_path / "out", "btc:regtest").get(BATCH) is None


@pytest.mark.parametrize(
    "how", ["json500", "502", "html", "garbage", "empty", "redirect", "list", "null", "cut", "lost"]
)
def test_an_answer_to_sending_that_says_nothing(node: Door, tmp_path: Path, how: str) -> None:
    """It may have been taken: the same bytes go out again, and nothing else does."""
    node.fail("sendrawtransaction", how)
    first = pays.anchor(facts(node, tmp_path))
    assert (first["status"], first["phase"]) in (("ok", "signed"), ("ok", "submitted"))
    second = pays.anchor(facts(node, tmp_path))
    assert second["attestation"]["tx"] == first["attestation"]["tx"]
    sent_bytes = [params for method, params in node.seen.calls if method == "sendrawtransaction"]
    assert len(sent_bytes) == 2
    assert sent_bytes[0] == sent_bytes[1]
    assert node.count("signrawtransactionwithwallet") == 1


@pytest.mark.parametrize("how", ["html", "garbage", "empty", "redirect", "502", "401"])
@pytest.mark.parametrize("method", ["getblockchaininfo", "fundrawtransaction", "signrawtransactionwithwallet"])
def test_a_failure_before_it_is_signed(node: Door, tmp_path: Path, method: str, how: str) -> None:
    node.fail(method, how)
    with pytest.raises(SchedulerError):
        pays.anchor(facts(node, tmp_path))
    assert node.count("sendrawtransaction") == 0
    assert pays.anchor(facts(node, tmp_path))["status"] == "ok"


def test_a_node_that_is_still_starting(node: Door, tmp_path: Path) -> None:
    node.behind = lambda method, params: {"error": {"code": -28, "message": "Verifying blocks"}}
    with pytest.raises(Unreachable, match="is still starting: Verifying blocks"):
        pays.anchor(facts(node, tmp_path))


def test_a_wallet_named_twice(node: Door, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rpcUrl has a path, and wallet is set"):
        pays.anchor(facts(node, tmp_path, rpcUrl=f"{node.url}/wallet/other"))


@pytest.mark.parametrize("time", [-1, 253_402_300_800, 10**400])
def test_a_block_at_a_time_that_no_calendar_has_makes_nothing_final(node: Door, tmp_path: Path, time: int) -> None:
    first = pays.anchor(facts(node, tmp_path, confirmations=1))
    mined = {"hex": sent()[0], "confirmations": 1, "blockhash": "00" * 32}
    told = {**ANSWERS, "gettransaction": mined, "getblockheader": {"confirmations": 1, "height": 7, "time": time}}
    node.behind = lambda method, params: {"result": told[method]}
    with pytest.raises(NotRpc, match="in no year from 1970 to 9999"):
        pays.confirm(facts(node, tmp_path, confirmations=1))
    kept = Book(tmp_path / "out", "btc:regtest").get(BATCH)
    assert kept is not None
    assert (kept.tx, kept.phase) == (first["attestation"]["tx"], Phase.SUBMITTED)


def test_a_block_without_the_root_is_a_fault_that_a_person_sees(node: Door, tmp_path: Path) -> None:
    """As of a book that somebody put another transaction's id into."""
    mined = {**ANSWERS["gettransaction"], "hex": GENESIS, "confirmations": 1, "blockhash": "00" * 32}
    header = {"confirmations": 1, "height": 7, "time": 1_800_000_000}
    told = {**ANSWERS, "gettransaction": mined, "getblockheader": header}
    node.behind = lambda method, params: {"result": told[method]}
    with pytest.raises(Refused, match="is in block 7, and no output of it says this root"):
        pays.anchor(facts(node, tmp_path))
