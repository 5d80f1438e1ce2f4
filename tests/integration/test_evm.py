"""The EVM rail against real EVMs: py-evm always, anvil where it is found."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.evm import ETHER, Node, PyEvm, ask, node, send
from tests.support.paying import Paying, a_key, deployed, secret_of
from tests.support.rpc_door import Door
from tests.support.site import Answer, Site
from vmsh_scheduler.anchors import confirm
from vmsh_scheduler.anchors.chain import Anchor, Refused, Seen, Signed, Underpriced
from vmsh_scheduler.anchors.ethereum import Key
from vmsh_scheduler.anchors.evm import Evm
from vmsh_scheduler.anchors.evm_call import Call
from vmsh_scheduler.anchors.evm_node import Node as Reading
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.rails import opened
from vmsh_scheduler.anchors.receipt_v1 import receipt_v1
from vmsh_scheduler.anchors.rpc import Rpc, endpoint
from vmsh_scheduler.anchors.submission import Book
from vmsh_scheduler.domain.batch import render, slug, with_digest
from vmsh_scheduler.errors import Exit

Document = dict[str, Any]
BOTH = ["py-evm", pytest.param("anvil", marks=pytest.mark.needs("anvil"))]
ONE = ["py-evm"]
REVERTS = bytes.fromhex("6460006000fd6000526005601bf3")
"""Init code of a contract that reverts whatever it is asked."""
STOPS = bytes.fromhex("600060005360016000f3")
"""Of one whose code is a single STOP."""


@pytest.fixture(scope="module")
def chains() -> Iterator[dict[str, tuple[Node, Door, str]]]:
    """Started at first use, once a module."""
    made: dict[str, tuple[Node, Door, str]] = {}
    opened = []
    try:
        yield _Lazily(made, opened)
    finally:
        for each in opened:
            each.__exit__(None, None, None)


class _Lazily(dict[str, tuple[Node, Door, str]]):
    def __init__(self, made: dict[str, tuple[Node, Door, str]], opened: list[Any]) -> None:
        super().__init__(made)
        self.opened = opened

    def __missing__(self, name: str) -> tuple[Node, Door, str]:
        context = node(name)
        chain, door = context.__enter__()
        self.opened.append(context)
        self[name] = chain, door, deployed(chain)
        return self[name]


@pytest.fixture(params=BOTH)
def paying(request: pytest.FixtureRequest, chains: dict[str, Any], tmp_path: Path) -> Iterator[Paying]:
    """An account of its own with one ether, and no contract."""
    chain, door, _ = chains[request.param]
    made = Paying(Site(tmp_path), chain, door, secret_of(request.node.name))
    chain.fund(made.account, ETHER)
    yield made
    door.reset()
    chain.forget()
    chain.automine(True)


@pytest.fixture
def contract(paying: Paying, chains: dict[str, Any]) -> str:
    address: str = chains[paying.node.name][2]
    paying.entry["contract"] = address
    return address


only_py_evm = pytest.mark.parametrize("paying", ONE, indirect=True)


def test_a_call_of_the_contract(paying: Paying, contract: str) -> None:
    batch = paying.site.put_batch("1700-1", leaves=3)
    answer = paying.anchor(batch, waitS="5", memo="dao:vaultmesh")
    assert answer.code == 0, answer.result
    said = answer.result["attestation"]
    assert (said["chain"], said["contract"], said["memo"]) == (paying.target, contract, "dao:vaultmesh")
    assert said["sender"] == paying.account
    assert said["block"] > 0
    block = ask(paying.node, "eth_getBlockByNumber", hex(said["block"]), False)
    assert (said["blockHash"], said["ts"]) == (block["hash"], int(block["timestamp"], 16))
    assert paying.receipt(batch)["anchor"] == said
    assert paying.paid() == 1


def test_plain_calldata_to_oneself(paying: Paying) -> None:
    batch = paying.site.put_batch("1700-1")
    answer = paying.anchor(batch)
    assert answer.code == 0, answer.result
    sent = ask(paying.node, "eth_getTransactionByHash", answer.result["attestation"]["tx"])
    assert sent["input"] == "0x5256" + batch["root"][7:]
    assert sent["from"].lower() == sent["to"].lower() == paying.account.lower()
    assert "contract" not in answer.result["attestation"]


def test_kept_in_the_contract(paying: Paying, contract: str) -> None:
    """`persist`: the root leads to the time of its block."""
    paying.entry["persist"] = True
    batch = paying.site.put_batch("1700-1")
    said = paying.anchor(batch, waitS="5").result["attestation"]
    question = {"to": contract, "data": "0x9591a610" + batch["root"][7:]}
    assert int(ask(paying.node, "eth_call", question, "latest"), 16) == said["ts"]
    paying.entry["persist"] = False
    other = paying.site.put_batch("1700-2")
    paying.anchor(other, waitS="5")
    question = {"to": contract, "data": "0x9591a610" + other["root"][7:]}
    assert int(ask(paying.node, "eth_call", question, "latest"), 16) == 0


def test_the_same_batch_is_paid_once(paying: Paying, contract: str) -> None:
    batch = paying.site.put_batch("1700-1")
    first = paying.anchor(batch).result["attestation"]
    again, probed = paying.anchor(batch), paying.probe(batch)
    assert again.result["attestation"]["tx"] == probed.result["attestation"]["tx"] == first["tx"]
    assert paying.paid() == 1


def test_a_probe_of_what_never_was_signed(paying: Paying) -> None:
    answer = paying.probe(paying.site.put_batch("1700-1"))
    assert (answer.code, answer.result["status"]) == (1, "none")
    assert paying.paid() == 0


def test_deeper_until_it_is_final(paying: Paying, contract: str) -> None:
    batch = paying.site.put_batch("1700-1")
    assert paying.anchor(batch, waitS="5").result["phase"] == "verified"
    paying.node.mine(1)
    assert paying.confirm().result["open"] == 1
    paying.node.mine(1)
    done = paying.confirm().result
    assert (done["open"], done["phases"]) == (0, {"final": 1})
    said = paying.receipt(batch)["anchor"]
    assert (said["status"], said["depth"], said["need"]) == ("final", 3, 3)
    assert paying.site.failures() == []
    assert paying.online().ok, paying.online()


def test_out_of_its_block_and_in_another(paying: Paying, contract: str) -> None:
    """A reorganisation: the same bytes are sent again, so the batch is paid once in the chain that is left."""
    paying.node.mark()
    batch = paying.site.put_batch("1700-1")
    before = paying.anchor(batch, waitS="5").result["attestation"]
    assert before["status"] == "verified"
    paying.node.reorg()
    assert not paying.mined(before["tx"])
    assert paying.paid() == 0
    answer = paying.confirm()
    assert answer.code == 0, answer.result
    paying.node.mine()
    paying.confirm()
    after = paying.receipt(batch)["anchor"]
    assert (after["tx"], after["status"]) == (before["tx"], "verified")
    assert after["blockHash"] != before["blockHash"]
    assert paying.paid() == 1
    paying.node.mine(3)
    paying.confirm()
    assert paying.online().ok


def test_a_lost_block_is_told_also_when_it_is_paid_for_anew_in_that_pass(paying: Paying, contract: str) -> None:
    paying.node.mark()
    batch = paying.site.put_batch("1700-1")
    paying.anchor(batch, waitS="5")
    paying.node.reorg()
    paying.node.forget()
    send(paying.node, Key(paying.secret), paying.account, b"another", nonce=0)
    paying.node.mine(4)
    assert _moves(paying.confirm()) == [("verified", "reorged"), ("reorged", "submitted")]


@pytest.mark.parametrize(("method", "how"), [("eth_sendRawTransaction", "403"), ("eth_getTransactionCount", "502")])
def test_a_lost_block_is_told_also_when_that_pass_comes_no_further(
    paying: Paying, contract: str, method: str, how: str
) -> None:
    """Whether the node refuses this one or falls silent: the next pass finds nothing that moved."""
    paying.node.mark()
    batch = paying.site.put_batch("1700-1")
    paying.anchor(batch, waitS="5")
    paying.node.reorg()
    paying.node.forget()
    paying.door.fail(method, how, times=99)
    answer = paying.confirm()
    assert (answer.code == 0) is (how == "403")
    assert _moves(answer) == [("verified", "reorged")]
    assert paying.phase(batch) == "reorged"


@only_py_evm
def test_what_moved_is_told_also_when_the_disk_fails(paying: Paying) -> None:
    batch, out = paying.site.put_batch("1700-1"), paying.site.out
    paying.node.automine(False)
    paying.anchor(batch)
    paying.node.mine()
    (out / "receipts").rename(out / "kept")
    (out / "receipts").write_text("where a directory belongs")
    answer = paying.confirm()
    assert (answer.code, _moves(answer)) == (Exit.BUSY, [("submitted", "verified")])


def _moves(answer: Answer) -> list[tuple[str, str]]:
    return [(moved["was"], moved["now"]) for moved in answer.result["changed"]]


@only_py_evm
def test_a_node_that_has_the_receipt_and_not_the_transaction_makes_nothing_faulty(paying: Paying) -> None:
    """As behind an address with several nodes."""
    batch = paying.site.put_batch("1700-1")
    paying.door.fail("eth_getTransactionByHash", "says", result=None, times=99)
    assert paying.anchor(batch).code == 0
    assert paying.phase(batch) == "submitted"
    paying.door.reset()
    paying.confirm()
    assert paying.phase(batch) == "verified"


@only_py_evm
def test_what_fails_after_the_payment_fails_no_run(paying: Paying) -> None:
    """The next try would be about a larger super-batch, which would pay for these batches once more."""
    batch = paying.site.put_batch("1700-1")
    paying.door.fail("eth_getTransactionReceipt", "403")
    (paying.site.out / "receipts").write_text("where a directory belongs")
    answer = paying.anchor(batch)
    assert answer.code == 0
    assert "receipts" in answer.result["warnings"][1]
    assert paying.confirm().code == Exit.BUSY
    (paying.site.out / "receipts").unlink()
    assert paying.confirm().code == 0
    assert paying.receipt(batch)["anchor"]["status"] == "verified"


@only_py_evm
def test_what_was_paid_for_and_is_in_no_receipt_fails_a_verification(paying: Paying) -> None:
    batch = paying.site.put_batch("1700-1")
    paying.anchor(batch, waitS="5")
    assert paying.site.failures() == []
    paying.receipt_path(batch).unlink()
    assert [row.detail.partition(":")[0] for row in paying.site.failures()] == ["its receipt is gone"]


@only_py_evm
def test_a_root_that_came_alone_gets_its_later_receipts(paying: Paying) -> None:
    """There is no batch file of it, and never was."""
    batch = paying.site.put_batch("1700-1")
    Path(batch.pop("file")).unlink()
    paying.anchor(batch, waitS="5")
    assert paying.receipt(batch)["anchor"]["status"] == "verified"
    paying.node.mine(3)
    assert paying.confirm().result["warnings"] == []
    assert paying.receipt(batch)["anchor"]["status"] == "final"
    assert paying.site.verify().ok


@only_py_evm
def test_a_chain_that_nobody_can_ask_does_not_pass_online(paying: Paying) -> None:
    batch = paying.site.put_batch("1700-1", leaves=1)
    anchor = {"chain": "fip155:1", "tx": "0x1", "block": 7, "ts": 1}
    event = {"eventHash": batch["leaves"][0], "batchRoot": batch["root"], "path": [], "anchor": anchor}
    paying.site.write("out/receipts/e0.json", json.dumps(event))
    assert paying.site.failures() == []
    assert "cannot be checked" in next(row.detail for row in paying.online().rows if not row.ok)


@only_py_evm
def test_what_a_node_says_of_one_attestation_is_not_held_against_the_next(paying: Paying) -> None:
    for name in ("1700-1", "1701-1"):
        paying.anchor(paying.site.put_batch(name), waitS="5")
    paying.node.mine(3)
    paying.confirm()
    paying.door.fail("eth_getTransactionReceipt", "json500")
    rows = [row for row in paying.online().rows if row.kind == "receipt"]
    assert [row.ok for row in rows] == [False, True]


def test_a_node_of_another_chain(paying: Paying) -> None:
    paying.target = "eip155:8453"
    answer = paying.anchor(paying.site.put_batch("1700-1"))
    assert answer.code == Exit.CONFIG
    assert f"eip155:{paying.node.chain_id}" in answer.result["message"]
    assert paying.door.count("eth_sendRawTransaction") == 0
    assert not (paying.site.out / "submissions").exists()


def test_a_contract_that_refuses(paying: Paying) -> None:
    paying.entry["contract"] = deployed(paying.node, REVERTS)
    answer = paying.anchor(paying.site.put_batch("1700-1"))
    assert (answer.code, answer.result["code"]) == (Exit.STATE_UNREADABLE, "reverted")
    assert paying.paid() == 0
    assert not (paying.site.out / "receipts").exists()


def test_no_contract_there(paying: Paying) -> None:
    paying.entry["contract"] = "0x" + "12" * 20
    answer = paying.anchor(paying.site.put_batch("1700-1"))
    assert answer.code == Exit.CONFIG
    assert "no contract at" in answer.result["message"]
    assert paying.paid() == 0


def test_a_contract_that_says_nothing(paying: Paying) -> None:
    """Its code stops at once: mined, paid, and no anchor. A person has to look; nobody pays again."""
    paying.entry["contract"] = deployed(paying.node, STOPS)
    batch = paying.site.put_batch("1700-1")
    answer = paying.anchor(batch, waitS="5")
    assert (answer.code, paying.phase(batch)) == (Exit.STATE_UNREADABLE, "faulty")
    assert "no event of the contract" in answer.result["message"]
    paying.anchor(batch)
    paying.confirm()
    assert paying.paid() == 1


def test_an_empty_wallet(paying: Paying) -> None:
    paying.secret = secret_of("empty " + paying.node.name)
    batch = paying.site.put_batch("1700-1")
    answer = paying.anchor(batch)
    assert (answer.code, answer.result["code"]) == (Exit.BUSY, "no_funds")
    assert paying.account in answer.result["message"]
    assert not (paying.site.out / "submissions" / slug(paying.target)).exists()
    paying.node.fund(paying.account, ETHER)
    assert paying.anchor(batch).code == 0
    assert paying.paid() == 1


def test_a_fee_above_the_cap(paying: Paying, contract: str) -> None:
    paying.entry["maxFeeGwei"] = 0.000_001
    batch = paying.site.put_batch("1700-1")
    answer = paying.anchor(batch)
    assert (answer.code, answer.result["code"]) == (Exit.BUSY, "fee_above_cap")
    assert "fee above the cap" in answer.result["message"]
    assert "maxFeeGwei" in answer.result["message"]
    assert paying.paid() == 0
    del paying.entry["maxFeeGwei"]
    assert paying.anchor(batch).code == 0


@only_py_evm
def test_too_cheap_for_the_node(paying: Paying) -> None:
    assert isinstance(paying.node, PyEvm)
    paying.node.floor = 10**12
    batch = paying.site.put_batch("1700-1")
    answer = paying.anchor(batch)
    paying.node.floor = 0
    assert (answer.code, answer.result["code"]) == (Exit.BUSY, "underpriced")
    assert paying.anchor(batch).code == 0
    assert paying.paid() == 1


@only_py_evm
def test_a_chain_without_a_base_fee(paying: Paying, contract: str) -> None:
    assert isinstance(paying.node, PyEvm)
    paying.node.legacy = True
    batch = paying.site.put_batch("1700-1")
    answer = paying.anchor(batch)
    paying.entry["maxFeeGwei"] = 1
    capped = paying.anchor(paying.site.put_batch("1700-2"))
    paying.node.legacy = False
    assert answer.code == 0, answer.result
    assert not paying.submission(batch)["raw"].startswith("0x02")
    assert capped.result["code"] == "fee_above_cap"
    assert paying.paid() == 1


def test_two_at_once_with_one_key(paying: Paying, contract: str) -> None:
    batches = [paying.site.put_batch(f"1700-{number}") for number in range(6)]
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda b=batch: answers.append(paying.anchor(b))) for batch in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.code for answer in answers] == [0] * 6
    assert paying.paid() == 6
    assert len({answer.result["attestation"]["tx"] for answer in answers}) == 6
    paying.node.mine(3)
    assert paying.confirm().result["open"] == 0


def test_a_gap_in_the_nonces_is_filled(paying: Paying) -> None:
    """Somebody's transaction with a later nonce waits for ours, not ours for it."""
    ours = paying.site.put_batch("1700-1")
    send(paying.node, Key(paying.secret), paying.account, b"later", nonce=1)
    assert paying.paid() == 0
    assert paying.anchor(ours, waitS="5").result["phase"] == "verified"
    assert paying.paid() == 2


def test_stuck_and_replaced(paying: Paying, contract: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same nonce at a higher fee: one of both is mined, and the receipt names it."""
    paying.node.automine(False)
    batch = paying.site.put_batch("1700-1")
    first = paying.anchor(batch).result["attestation"]["tx"]
    before = paying.submission(batch)["details"]
    monkeypatch.setattr(confirm, "now_s", lambda: _now() + 10_000)
    assert paying.confirm().code == 0
    monkeypatch.undo()
    after = paying.submission(batch)
    assert after["tx"] != first
    assert after["details"]["nonce"] == before["nonce"]
    for name in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert after["details"][name] * 8 >= before[name] * 9
    paying.node.mine()
    paying.confirm()
    assert (paying.mined(first), paying.mined(after["tx"])) == (False, True)
    assert paying.receipt(batch)["anchor"]["tx"] == after["tx"]
    assert paying.receipt(batch)["anchor"]["earlier"] == [first]
    assert paying.paid() == 1


def _now() -> int:
    return int(time.time())


def test_not_replaced_at_the_cap(paying: Paying, monkeypatch: pytest.MonkeyPatch) -> None:
    paying.node.automine(False)
    batch = paying.site.put_batch("1700-1")
    paying.anchor(batch)
    most = paying.submission(batch)["details"]["maxFeePerGas"]
    paying.entry["maxFeeGwei"] = most / 10**9
    monkeypatch.setattr(confirm, "now_s", lambda: _now() + 10_000)
    assert paying.confirm().code == 0
    assert paying.submission(batch)["details"]["maxFeePerGas"] == most
    assert paying.submission(batch)["earlier"] == []


def test_its_nonce_was_spent_by_another(paying: Paying, contract: str) -> None:
    """Lost only once the other is as deep as an anchor has to be; then, and not before, it is signed anew."""
    paying.node.automine(False)
    batch = paying.site.put_batch("1700-1")
    first = paying.anchor(batch).result["attestation"]["tx"]
    paying.node.forget()
    send(paying.node, Key(paying.secret), paying.account, b"another", nonce=0)
    paying.node.mine()
    assert paying.confirm().code == 0
    assert paying.submission(batch)["tx"] == first
    paying.node.mine(3)
    assert paying.confirm().code == 0
    after = paying.submission(batch)
    assert after["tx"] != first
    paying.node.mine(4)
    paying.confirm()
    assert paying.phase(batch) == "final"
    assert paying.paid() == 2


@only_py_evm
def test_another_program_took_the_nonce(paying: Paying, contract: str) -> None:
    """Between the question and the sending: refused, so nothing was paid, and the next run takes the next one."""
    send(paying.node, Key(paying.secret), paying.account, b"another")
    batch = paying.site.put_batch("1700-1")
    paying.door.fail("eth_getTransactionCount", "says", result="0x0")
    answer = paying.anchor(batch)
    assert (answer.code, answer.result["code"]) == (Exit.BUSY, "nonce_spent")
    assert "another program" in answer.result["message"]
    assert paying.phase(batch) == "lost"
    assert paying.anchor(batch, waitS="5").result["phase"] == "verified"
    assert paying.paid() == 2


def test_sent_again_in_the_pool_and_in_a_block(paying: Paying, contract: str) -> None:
    """Both are success, and neither is lost, however deep."""
    facts = Facts({"root": str(paying.site.root), **paying.request({})}, paying.environ)
    chain = opened(facts).chain
    paying.node.automine(False)
    signed = chain.sign(Anchor("1700-1", bytes(31) + b"1"))
    for _ in range(2):
        chain.send(signed)
    assert not chain.lost(signed)
    paying.node.mine(5)
    chain.send(signed)
    assert not chain.lost(signed)
    seen = chain.find(signed, Anchor("1700-1", bytes(31) + b"1"))
    assert seen
    assert (seen.depth >= 5, seen.fault) == (True, "")
    assert paying.secret.hex() not in f"{facts} {chain} {signed}"
    assert paying.paid() == 1


def test_forgotten_by_the_node(paying: Paying) -> None:
    """A restarted node has an empty pool: the same bytes go again."""
    paying.node.automine(False)
    batch = paying.site.put_batch("1700-1")
    first = paying.anchor(batch).result["attestation"]["tx"]
    paying.node.forget()
    assert paying.confirm().code == 0
    paying.node.mine()
    paying.confirm()
    assert paying.mined(first)
    assert paying.paid() == 1


def test_several_wait_in_line(paying: Paying) -> None:
    """Each after those that are not mined yet."""
    paying.node.automine(False)
    batches = [paying.site.put_batch(f"1700-{number}") for number in range(3)]
    assert [paying.anchor(batch).code for batch in batches] == [0, 0, 0]
    assert [paying.submission(batch)["details"]["nonce"] for batch in batches] == [0, 1, 2]
    paying.node.mine(4)
    assert paying.confirm().result["open"] == 0


def look(paying: Paying, tx: str, call: Call, batch: str, root: str) -> Seen | None:
    return Reading(Rpc(endpoint(paying.door.url))).seen(tx, call, Anchor(batch, bytes.fromhex(root[7:])))


def test_what_a_transaction_says(paying: Paying, contract: str) -> None:
    """Status, root, batch, contract and sender each make the difference."""
    batch, key = paying.site.put_batch("1700-1"), Key(paying.secret)
    root, other = batch["root"], "sha256:" + "77" * 32
    call, plain = Call(key.address, contract), Call(key.address)
    data = call.data(Anchor("1700-1", bytes.fromhex(root[7:])))
    refusing = deployed(paying.node, REVERTS)
    said, reverted = send(paying.node, key, contract, data), send(paying.node, key, refusing, data)
    bare = send(paying.node, key, key.address, b"RV" + bytes.fromhex(root[7:]))
    stranger = a_key("stranger")
    paying.node.fund(stranger.address, ETHER)
    foreign = send(paying.node, stranger, key.address, b"RV" + bytes.fromhex(root[7:]))
    expected = [
        (said, call, "1700-1", root, ""),
        (said, call, "", root, ""),
        (said, call, "1700-2", root, "anchors the root for another batch"),
        (said, call, "1700-1", other, "has no BatchAnchored event of this root"),
        (said, Call(key.address, refusing), "1700-1", root, "has no event of the contract"),
        (reverted, Call(key.address, refusing), "1700-1", root, "was reverted"),
        (bare, plain, "1700-1", root, ""),
        (bare, plain, "1700-1", other, "carries another root"),
        (foreign, plain, "1700-1", root, "is not from"),
    ]
    for tx, how, identity, of, fault in expected:
        seen = look(paying, tx, how, identity, of)
        assert seen
        assert seen.depth > 0
        assert seen.fault.startswith(fault), seen
        assert bool(seen.fault) == bool(fault), seen
    assert look(paying, "0x" + "12" * 32, call, "1700-1", root) is None


@only_py_evm
def test_a_receipt_of_a_block_that_is_off_the_chain(paying: Paying, contract: str) -> None:
    """Some nodes keep answering with it: it counts for nothing."""
    paying.node.automine(False)
    batch = paying.site.put_batch("1700-1")
    paying.anchor(batch)
    paying.node.mine()
    stale = {"hash": "0x" + "ee" * 32, "timestamp": "0x1", "number": "0x1"}
    paying.door.fail("eth_getBlockByNumber", "says", result=stale, times=100)
    paying.confirm()
    assert paying.phase(batch) == "submitted"
    paying.door.reset()
    paying.confirm()
    assert paying.phase(batch) == "verified"


@only_py_evm
@pytest.mark.parametrize("result", ["latest", None, -1, "0x", {"a": 1}, [], True, "0x" + "f" * 65])
def test_an_answer_of_another_shape(paying: Paying, contract: str, result: object) -> None:
    for method in ("eth_chainId", "eth_getTransactionCount", "eth_estimateGas", "eth_getBalance"):
        paying.door.fail(method, "says", result=result)
        answer = paying.anchor(paying.site.put_batch("1700-1"))
        assert (answer.code, answer.result["code"]) == (Exit.BUSY, "not_rpc"), method
    assert paying.paid() == 0


@only_py_evm
@pytest.mark.parametrize("ts", [253_402_300_800, 2**62, 2**256 - 1])
def test_a_block_at_a_time_that_no_calendar_has_makes_nothing_final(paying: Paying, contract: str, ts: int) -> None:
    batch, behind = paying.site.put_batch("1700-1"), paying.door.behind

    def hostile(method: str, params: list[Any]) -> Document:
        answer = behind(method, params)
        if method == "eth_getBlockByNumber" and answer.get("result"):
            answer["result"]["timestamp"] = hex(ts)
        return answer

    paying.entry["confirmations"] = 1
    paying.door.behind = hostile
    try:
        assert paying.anchor(batch).code == 0
        asked = paying.confirm()
    finally:
        paying.door.behind = behind
    assert (asked.code, asked.result["code"]) == (Exit.BUSY, "not_rpc")
    assert "in no year from 1970 to 9999" in asked.result["message"]
    assert paying.receipt(batch)["anchor"]["status"] == "submitted"
    assert paying.confirm().code == 0
    assert paying.receipt(batch)["anchor"]["status"] == "final"
    assert receipt_v1(paying.site.root, batch["id"])["status"] == "verified"


BAD = {
    "html": (Exit.BUSY, "not_rpc"),
    "garbage": (Exit.BUSY, "not_rpc"),
    "empty": (Exit.BUSY, "not_rpc"),
    "list": (Exit.BUSY, "not_rpc"),
    "null": (Exit.BUSY, "not_rpc"),
    "cut": (Exit.BUSY, "not_rpc"),
    "redirect": (Exit.BUSY, "not_rpc"),
    "502": (Exit.BUSY, "not_rpc"),
    "500": (Exit.BUSY, "not_rpc"),
    "json500": (Exit.BUSY, "rpc_error"),
    "refused": (Exit.BUSY, None),
    "401": (Exit.DENIED, "denied"),
    "403": (Exit.DENIED, "denied"),
}
BEFORE = [
    "eth_chainId",
    "eth_getCode",
    "eth_getBlockByNumber",
    "eth_estimateGas",
    "eth_getBalance",
    "eth_getTransactionCount",
]


@only_py_evm
@pytest.mark.parametrize("how", BAD)
def test_a_bad_answer_before_anything_is_signed(paying: Paying, contract: str, how: str) -> None:
    for method in BEFORE:
        batch = paying.site.put_batch(f"1700-{BEFORE.index(method)}")
        paying.door.fail(method, how)
        answer = paying.anchor(batch)
        code, kind = BAD[how]
        assert answer.code == code, (method, answer.result)
        assert kind in (None, answer.result["code"])
        assert len(answer.result["message"]) > 20
        assert paying.door.url.removeprefix("http://") in answer.result["message"] or "gas" in method
    assert paying.door.count("eth_sendRawTransaction") == 0
    assert not (paying.site.out / "receipts").exists()
    assert paying.paid() == 0


@only_py_evm
@pytest.mark.parametrize("how", [*BAD, "lost"])
def test_a_bad_answer_to_the_sending(paying: Paying, contract: str, how: str) -> None:
    """Whether the node took it or not: it is paid once, and the next one sees to it."""
    batch = paying.site.put_batch("1700-1")
    paying.door.fail("eth_sendRawTransaction", how)
    first = paying.anchor(batch)
    assert paying.submission(batch)["tx"]
    if how in ("401", "403"):
        assert first.code == Exit.DENIED
    else:
        assert first.code == 0, first.result
    assert paying.confirm().code == 0
    paying.node.mine(3)
    assert paying.confirm().result["open"] == 0
    assert paying.receipt(batch)["anchor"]["status"] == "final"
    assert paying.paid() == 1


@only_py_evm
@pytest.mark.parametrize("meanwhile", ["", "final"])
def test_a_retry_pays_only_for_what_arrived_since_it_signed(paying: Paying, contract: str, meanwhile: str) -> None:
    """Refused at the first sending, the run is asked for again with a third batch: in another super-batch."""
    one, two, three = (paying.site.put_batch(f"1700-{number}") for number in (1, 2, 3))
    first, grown = _combined(paying, one, two), _combined(paying, one, two, three)
    paying.door.fail("eth_sendRawTransaction", "401")
    assert paying.anchor(first).code == Exit.DENIED
    if meanwhile:
        paying.confirm()
        paying.node.mine(3)
        paying.confirm()
        assert paying.phase(first) == "final"
    told = paying.site.root / "told"
    tell = [sys.executable, "-c", f"import sys; open({str(told)!r}, 'a').write(sys.stdin.read())"]
    answer = paying.anchor(grown, on_anchor=tell)
    assert answer.code == 0, answer.result
    paying.node.mine(3)
    assert paying.confirm().result["open"] == 0
    assert paying.paid() == 2
    assert answer.result["batch"]["id"] == three["id"]
    vias = [paying.receipt(batch)["anchor"].get("via", {}).get("batch") for batch in (one, two, three)]
    assert vias == [first["id"], first["id"], None]
    news = [json.loads(line)["batch"]["id"] for line in told.read_text().splitlines()]
    assert news == ([three["id"]] if meanwhile else [first["id"], three["id"]])
    again = paying.anchor(grown)
    assert (again.code, paying.paid()) == (0, 2)
    assert not paying.site.failures()


def _combined(paying: Paying, *batches: Document) -> Document:
    members = [{name: batch[name] for name in ("id", "root")} for batch in batches]
    return paying.site.ask("combine", {"directory": str(paying.site.batches), "batches": members}).result


@only_py_evm
def test_secrets_are_in_no_file_and_no_text(paying: Paying, contract: str, capfd: pytest.CaptureFixture[str]) -> None:
    paying.entry["rpcUrl"] = "${EVM_URL}"
    url = paying.door.url.replace("http://", "http://somebody:passw0rd@") + "/v3/0123456789abcdef"
    paying.site.put_batch("1700-1")
    said = []
    for number, how in enumerate(["", "401", "html", "json500", "refused"]):
        if how:
            paying.door.fail("eth_estimateGas", how)
        batch = paying.site.put_batch(f"1700-{number}")
        answer = paying.site.ask("evm", paying.request(batch), {**paying.environ, "EVM_URL": url})
        said.append(json.dumps(answer.result))
    assert any(head.get("Authorization", "").startswith("Basic ") for head in paying.door.seen.headers)
    files = [path.read_bytes().decode(errors="replace") for path in paying.site.root.rglob("*") if path.is_file()]
    out, err = capfd.readouterr()
    for secret in (paying.secret.hex(), "passw0rd", "somebody", "0123456789abcdef"):
        assert not any(secret in text for text in [*files, *said, out, err])
    assert paying.paid() == 1


@only_py_evm
def test_a_receipt_is_compared_with_what_was_paid(paying: Paying, contract: str) -> None:
    """Without a node, its digest redone; below a super-batch the book is that one's. What a pass is still to tell of
    the book is no fault."""
    first, second = paying.site.put_batch("1700-1"), paying.site.put_batch("1700-2", leaves=2)
    members = [{"id": one["id"], "root": one["root"]} for one in (first, second)]
    about = {"directory": str(paying.site.batches), "namespace": "demo:files", "batches": members}
    above = paying.site.ask("combine", about).result
    assert paying.anchor(above, waitS="5").code == 0
    for batch in (first, second, above):
        path = paying.receipt_path(batch)
        whole, document = path.read_bytes(), paying.receipt(batch)
        for name, value in (("tx", "0x" + "12" * 32), ("block", 1), ("ts", 1_600_000_000), ("need", 1)):
            anchor = {**document["anchor"], name: value}
            path.write_text(render(with_digest({**document, "anchor": anchor, "anchors": [anchor]})))
            (fault, *_) = [row.detail for row in paying.site.verify(batch["id"]).rows if not row.ok]
            assert "something else" in fault, name
            assert not paying.site.verify().ok
        path.write_bytes(whole)
    book = Book(paying.site.out, paying.target)
    one = book.get(above["id"])
    assert one is not None
    book.put(replace(one, depth=one.depth + 1, told=False))
    assert paying.site.verify().ok


def test_verification_online(paying: Paying, contract: str) -> None:
    batch = paying.site.put_batch("1700-1", leaves=2)
    assert paying.anchor(batch, waitS="5").code == 0
    offline = paying.site.verify(batch["id"]).rows[-1]
    assert offline.ok
    assert "not checked here: ask with --online" in offline.detail
    shallow = paying.online(batch["id"])
    assert not shallow.ok
    assert "1 of 3 confirmations" in shallow.rows[-1].detail
    paying.node.mine(2)
    good = paying.online(batch["id"])
    assert good.ok, good
    assert "not checked" not in good.rows[-1].detail


LIES: list[tuple[str, object, str]] = [
    ("tx", "0x" + "12" * 32, "not known"),
    ("block", 1, "another block"),
    ("blockHash", "0x" + "34" * 32, "another block"),
    ("ts", 1_600_000_000, "is of"),
    ("contract", "0x" + "56" * 20, "no event of the contract"),
    ("contract", None, "another root"),
    ("need", 1_000_000, "confirmations"),
    ("chain", "eip155:1", "no entry"),
]


@only_py_evm
def test_a_receipt_that_lies(paying: Paying, contract: str) -> None:
    """With a digest that fits: only the node knows better."""
    batch, other = paying.site.put_batch("1700-1"), paying.site.put_batch("1700-2", leaves=2)
    paying.anchor(batch, waitS="5")
    second = paying.anchor(other, waitS="5").result["attestation"]
    paying.node.mine(3)
    assert paying.online(batch["id"]).ok
    document = paying.receipt(batch)
    lies = [*LIES, *[(name, second[name], "") for name in ("tx", "block", "blockHash")]]
    for name, value, why in lies:
        anchor = {key: each for key, each in {**document["anchor"], name: value}.items() if each is not None}
        changed = with_digest({**document, "anchor": anchor, "anchors": [anchor]})
        paying.receipt_path(batch).write_text(render(changed))
        report = paying.online(batch["id"])
        assert not report.ok, name
        assert why in report.rows[-1].detail


@only_py_evm
def test_online_with_the_node_down(paying: Paying, contract: str) -> None:
    batch = paying.site.put_batch("1700-1")
    paying.anchor(batch, waitS="5")
    paying.door.fail("*", "refused", times=1000)
    report = paying.online(batch["id"])
    assert not report.ok
    assert paying.target in report.rows[-1].detail


def test_deploying(paying: Paying) -> None:
    """Said twice it is done once; what stands there is what was shipped, and takes anchors."""
    request = {"target": paying.target, "rail": paying.entry, "railName": "default"}
    paying.door.fail("eth_sendRawTransaction", "lost")
    lost = paying.site.ask("deploy", request, paying.environ)
    assert lost.code == Exit.BUSY
    answer = paying.site.ask("deploy", request, paying.environ)
    assert answer.code == 0, answer.result
    again = paying.site.ask("deploy", request, paying.environ)
    assert again.result == answer.result
    assert paying.paid() == 1
    paying.entry["contract"] = answer.result["address"]
    batch = paying.site.put_batch("1700-1")
    assert paying.anchor(batch, waitS="5").result["phase"] == "verified"
    other = paying.site.ask("deploy", {**request, "again": True}, paying.environ)
    assert other.result["address"] != answer.result["address"]


@only_py_evm
@pytest.mark.parametrize(
    ("told", "environ", "says"),
    [
        ({"off": "config/scheduler.yaml"}, {}, "off (config/scheduler.yaml)"),
        ({}, {"ANCHOR_WRITE_ENABLED": "0"}, "off (env ANCHOR_WRITE_ENABLED)"),
    ],
)
def test_nothing_is_deployed_while_nothing_may_be_written(
    paying: Paying, told: Document, environ: dict[str, str], says: str
) -> None:
    request = {"target": paying.target, "rail": paying.entry, "railName": "default", **told}
    paying.door.reset()
    answer = paying.site.ask("deploy", request, {**paying.environ, **environ})
    assert (answer.code, answer.result["code"]) == (Exit.USAGE, "usage")
    assert f"anchor_write_enabled is {says}" in answer.result["message"]
    assert paying.door.seen.calls == []
    assert not (paying.site.out / "deployments").exists()


@only_py_evm
def test_a_deployment_that_is_refused_when_sent_again_may_be_mined_yet(paying: Paying) -> None:
    """Another node may have it: no other is signed before this one never can be mined."""
    request = {"target": paying.target, "rail": paying.entry, "railName": "default"}
    place = f"out/deployments/{slug(paying.target)}.json"
    paying.node.automine(False)
    paying.door.fail("eth_sendRawTransaction", "lost")
    assert paying.site.ask("deploy", request, paying.environ).code == Exit.BUSY
    first = paying.site.read(place)
    paying.node.forget()
    paying.node.floor = ETHER
    refused = paying.site.ask("deploy", request, paying.environ)
    assert (refused.code, refused.result["code"]) == (Exit.BUSY, "underpriced")
    assert f"{first['tx']} may be mined yet" in refused.result["message"]
    assert paying.site.read(place) == first
    paying.node.floor = 0
    send(paying.node, Key(paying.secret), paying.account, b"another", nonce=first["nonce"])
    paying.node.mine()
    assert paying.site.ask("deploy", request, paying.environ).code == Exit.BUSY
    assert paying.site.read(place) == first, "not deep enough"
    paying.node.mine(3)
    assert paying.site.ask("deploy", request, paying.environ).code == Exit.BUSY
    assert not (paying.site.root / place).exists()
    paying.node.automine(True)
    answer = paying.site.ask("deploy", request, paying.environ)
    assert (answer.code, answer.result["tx"] != first["tx"]) == (0, True)
    assert paying.paid() == 2


@only_py_evm
def test_a_refusal_of_what_the_node_has_is_none(paying: Paying, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some say of the same bytes that they are too cheap to take their own place."""
    request = {"target": paying.target, "rail": paying.entry, "railName": "default"}

    def send_then_refuse(chain: Evm, signed: Signed) -> None:
        with suppress(Refused):
            plain(chain, signed)
        raise Underpriced("replacement transaction underpriced")

    plain = Evm.send
    monkeypatch.setattr(Evm, "send", send_then_refuse)
    paying.door.fail("eth_getTransactionReceipt", "refused", nth=2)
    assert paying.site.ask("deploy", request, paying.environ).code == Exit.BUSY
    assert paying.site.ask("deploy", request, paying.environ).code == 0
    assert paying.paid() == 1


@only_py_evm
def test_another_deployment_that_is_refused_leaves_the_one_that_is_there(paying: Paying) -> None:
    request = {"target": paying.target, "rail": paying.entry, "railName": "default"}
    done = paying.site.ask("deploy", request, paying.environ)
    paying.node.floor = ETHER
    assert paying.site.ask("deploy", {**request, "again": True}, paying.environ).code == Exit.BUSY
    paying.node.floor = 0
    assert paying.site.ask("deploy", request, paying.environ).result == done.result
    assert paying.paid() == 1


@only_py_evm
def test_a_deployment_that_made_nothing_is_signed_anew(paying: Paying) -> None:
    """What the text says to do helps."""
    request = {"target": paying.target, "rail": paying.entry, "railName": "default"}
    paying.door.fail("eth_getTransactionReceipt", "says", result={"blockNumber": "0x1", "status": "0x0"})
    reverted = paying.site.ask("deploy", request, paying.environ)
    assert (reverted.code, "was reverted" in reverted.result["message"]) == (Exit.STATE_UNREADABLE, True)
    answer = paying.site.ask("deploy", request, paying.environ)
    assert answer.code == 0, answer.result
    assert paying.paid() == 2


@only_py_evm
@pytest.mark.parametrize("said", ["0x", None])
def test_a_contract_that_the_node_does_not_show_yet_is_not_deployed_again(paying: Paying, said: str | None) -> None:
    request = {"target": paying.target, "rail": paying.entry, "railName": "default"}
    paying.door.fail("eth_getCode", "says", result=said)
    assert paying.site.ask("deploy", request, paying.environ).code == Exit.BUSY
    assert paying.site.ask("deploy", request, paying.environ).code == 0
    assert paying.paid() == 1


@pytest.mark.parametrize("module", ["coincurve", "Crypto"])
@pytest.mark.parametrize("verb", ["evm", "deploy"])
def test_without_the_extra_the_line_that_installs_it_is_told(module: str, verb: str) -> None:
    """In a process of its own: what was imported once stays."""
    code = f"""import sys
sys.modules[{module!r}] = None
from vmsh_scheduler.anchors.__main__ import main
sys.exit(main([{verb!r}], {{}}, sys.stdin.buffer, sys.stdout))"""
    argv, given = [sys.executable, "-c", code], '{"target": "eip155:1", "rail": {}}'
    done = subprocess.run(argv, input=given, capture_output=True, text=True, check=False)
    assert (done.returncode, "vmsh-scheduler[evm]" in done.stderr) == (Exit.CONFIG, True), done.stderr


@only_py_evm
def test_a_key_file_that_others_can_read(paying: Paying) -> None:
    del paying.entry["key"]
    paying.entry["keyFile"] = "evm.key"
    path = paying.site.write("evm.key", paying.secret.hex() + "\n")
    path.chmod(0o644)
    batch = paying.site.put_batch("1700-1")
    assert paying.site.ask("evm", paying.request(batch), {}).code == Exit.DENIED
    path.chmod(0o600)
    assert paying.site.ask("evm", paying.request(batch), {}).code == 0
    path.write_text("not a key")
    refused = paying.site.ask("evm", paying.request(batch), {})
    assert refused.code == Exit.CONFIG
    assert "not a key" not in refused.result["message"].replace("is no private key", "")
