"""RLP, keccak, addresses, signatures and calldata of the EVM rail, against published vectors and another library."""

import json
import pickle
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.eth_library import library
from vmsh_scheduler.anchors import deploy
from vmsh_scheduler.anchors.chain import Anchor
from vmsh_scheduler.anchors.ethereum import (
    Fees,
    Key,
    Transaction,
    checksummed,
    is_address,
    keccak,
    rlp,
    transaction_hash,
)
from vmsh_scheduler.anchors.evm_call import SELECTOR, TOPIC, Call, batch_word
from vmsh_scheduler.anchors.evm_errors import Meaning, meaning
from vmsh_scheduler.anchors.rpc import RpcError

KEY = "4646464646464646464646464646464646464646464646464646464646464646"
ROOT = bytes(range(32))
VECTOR_1559 = "0xf6b2cfac6a7f9ae57c1216d6ffb6f75662ebc23d59feb325dda357bb8d333bd2"
VECTOR_LEGACY = "0xd141b88b41fef099e5b2b919443822948a79ebecbb13a8166c2c0740569d7b31"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", "80"),
        (b"dog", "83646f67"),
        (b"\x00", "00"),
        (b"\x7f", "7f"),
        (b"\x80", "8180"),
        (0, "80"),
        (15, "0f"),
        (1024, "820400"),
        ([], "c0"),
        ([b"cat", b"dog"], "c88363617483646f67"),
        ([[], [[]], [[], [[]]]], "c7c0c1c0c3c0c1c0"),
        (b"a" * 55, "b7" + "61" * 55),
        (b"a" * 56, "b838" + "61" * 56),
        ([b"a"] * 56, "f838" + "61" * 56),
        (b"a" * 256, "b90100" + "61" * 256),
    ],
)
def test_rlp(value: object, expected: str) -> None:
    """ethereum.org's examples, and both sides of each length."""
    assert rlp(value).hex() == expected  # type: ignore[arg-type]  # parametrize knows no recursive type


def test_keccak_is_not_sha3() -> None:
    assert keccak(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak(b"1729740000").hex().startswith("ebb5a759")
    assert keccak(b"1729740000").hex().endswith("868a")


def test_the_hash_that_eip_155_gives_as_its_example() -> None:
    fields = [9, 20 * 10**9, 21_000, bytes.fromhex("35" * 20), 10**18, b"", 1, 0, 0]
    assert keccak(rlp(fields)).hex() == "daf5a779ae972f972197303d7b574746c7ef83eadac0f2791ad23db92e4c8e53"


@pytest.mark.parametrize(
    "address",
    [
        "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed",
        "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359",
        "0xdbF03B407c01E7cD3CBea99509d93f8DDDC8C6FB",
        "0xD1220A0cf47c7B9Be7A2E6BA89F429762e7b9aDb",
    ],
)
def test_checksums_of_eip_55(address: str) -> None:
    assert checksummed(address.lower()) == address
    assert is_address(address)
    assert is_address(address.lower())
    assert is_address("0x" + address[2:].upper())
    assert not is_address("0x" + address[2:].swapcase())
    assert not is_address(address[:-1])
    assert not is_address(None)


def test_the_address_of_a_key() -> None:
    """Anvil's and Hardhat's first account."""
    key = Key.read("0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80\n")
    assert key
    assert key.address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


@pytest.mark.parametrize("text", ["", "0x", KEY[:-1], KEY + "0", "0" * 64, "f" * 64, "g" * 64])
def test_what_is_no_key(text: str) -> None:
    assert Key.read(text) is None


def test_a_key_is_in_no_text() -> None:
    key = Key.read(KEY)
    assert key
    assert KEY not in f"{key} {key!r} {dir(key)}"
    with pytest.raises(TypeError):
        pickle.dumps(key)
    with pytest.raises(TypeError):
        json.dumps(key)


def test_a_signed_transaction_that_another_library_made() -> None:
    """Recorded from eth-account 0.14, for the published key of EIP-155."""
    fees = Fees(30 * 10**9, 10**9)
    key = Key.read(KEY)
    assert key
    raw = key.signed(Transaction(8453, 7, fees, 60_000, "0x" + "35" * 20, b"RV" + ROOT))
    assert transaction_hash(raw) == VECTOR_1559
    raw = key.signed(Transaction(8453, 7, Fees(fees.most), 60_000, "0x" + "35" * 20, b"RV" + ROOT))
    assert transaction_hash(raw) == VECTOR_LEGACY


@settings(max_examples=50, deadline=None)
@given(
    chain=st.integers(1, 2**50),
    nonce=st.integers(0, 2**32),
    most=st.integers(1, 10**13),
    tip=st.none() | st.integers(0, 10**12),
    data=st.binary(max_size=300),
    make=st.booleans(),
)
def test_the_bytes_are_those_of_eth_account(
    *, chain: int, nonce: int, most: int, tip: int | None, data: bytes, make: bool
) -> None:
    to = "" if make else "0x" + "35" * 20
    key = Key.read(KEY)
    assert key
    ours = key.signed(Transaction(chain, nonce, Fees(most, tip), 100_000, to, data))
    fees = {"gasPrice": most} if tip is None else {"maxFeePerGas": most, "maxPriorityFeePerGas": tip, "type": 2}
    theirs = {"chainId": chain, "nonce": nonce, "gas": 100_000, "value": 0, "data": data, **fees}
    signed = (
        library("eth_account")
        .Account.from_key(KEY)
        .sign_transaction(theirs | ({"to": checksummed(to)} if to else {"to": b""}))
    )
    assert ours.hex() == bytes(signed.raw_transaction).hex()


def test_selector_and_topic() -> None:
    assert keccak(b"anchor(bytes32,bytes32,string,bool)")[:4] == SELECTOR
    assert "0x" + keccak(b"BatchAnchored(bytes32,bytes32,string)").hex() == TOPIC


@pytest.mark.parametrize("memo", ["", "a", "dao:vaultmesh", "x" * 32, "é" * 40])
def test_calldata_is_what_the_abi_says(memo: str) -> None:
    call = Call("0x" + "11" * 20, "0x" + "22" * 20, memo, persist=True)
    body = library("eth_abi").encode(["bytes32", "bytes32", "string", "bool"], [ROOT, batch_word("b-1"), memo, True])
    assert call.data(Anchor("b-1", ROOT)) == SELECTOR + body


def test_the_shipped_contract() -> None:
    """Its bytecode knows the selector and the topic, its interface is the one that is called."""
    code = deploy.BYTECODE.read_text().strip()
    assert SELECTOR.hex() in code
    assert TOPIC[2:] in code
    interface = json.loads((Path(deploy.BYTECODE).parent / "BatchAnchor.abi.json").read_text())
    kinds = Counter((each["type"], each["name"]) for each in interface)
    assert kinds[("function", "anchor")] == kinds[("event", "BatchAnchored")] == 1
    anchor = next(each for each in interface if each["name"] == "anchor")
    assert [each["type"] for each in anchor["inputs"]] == ["bytes32", "bytes32", "string", "bool"]
    source = (Path(deploy.BYTECODE).parent / "BatchAnchor.sol").read_text()
    assert "solc 0.8.37" in source


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("already known", Meaning.KNOWN),
        ("transaction already imported", Meaning.KNOWN),
        ("AlreadyKnown", Meaning.KNOWN),
        ("Known transaction", Meaning.KNOWN),
        ("nonce too low: next nonce 5, tx nonce 4", Meaning.NONCE_SPENT),
        ("Nonce too low", Meaning.NONCE_SPENT),
        ("OldNonce, Current nonce: 5, nonce of rejected tx: 4", Meaning.NONCE_SPENT),
        ("insufficient funds for gas * price + value: balance 0", Meaning.NO_FUNDS),
        ("Insufficient funds for gas * price + value", Meaning.NO_FUNDS),
        ("gas required exceeds allowance (0)", Meaning.NO_FUNDS),
        ("replacement transaction underpriced", Meaning.UNDERPRICED),
        ("transaction underpriced: gas tip cap 0, minimum needed 1", Meaning.UNDERPRICED),
        ("max fee per gas less than block base fee", Meaning.UNDERPRICED),
        ("FeeTooLow, EffectivePriorityFeePerGas too low", Meaning.UNDERPRICED),
        ("execution reverted: custom error 0x53ce4ece", Meaning.REVERTED),
        ("invalid sender", Meaning.NEVER),
        ("invalid chain id for signer: have 1 want 5", Meaning.NEVER),
        ("intrinsic gas too low: have 1, want 21000", Meaning.NEVER),
        ("transaction type not supported", Meaning.NEVER),
        ("transaction indexing is in progress", None),
        ("rate limit exceeded", None),
        ("header not found", None),
        ("", None),
    ],
)
def test_what_nodes_say(said: str, expected: Meaning | None) -> None:
    assert meaning(RpcError(-32000, said, "node")) is expected
