"""EVM chains for tests: a real EVM (py-evm, by eth-tester) in this process, and anvil where one is found."""

import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Protocol

from tests.support.eth_library import library, unmeasured
from tests.support.rpc_door import Document, Door, door
from vmsh_scheduler.anchors.ethereum import Fees, Key, Transaction

ETHER = 10**18
RICH = bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80")
"""Anvil's published first account."""
GAS_PRICE = Fees(10 * 10**9, 10**9)


class Node(Protocol):
    """A chain that a test may mine on and turn back."""

    name: str
    chain_id: int

    def answer(self, method: str, params: list[Any]) -> Document: ...

    def mine(self, blocks: int = 1) -> None: ...

    def automine(self, on: bool) -> None: ...

    def mark(self) -> None:
        """`reorg` goes back to here."""

    def reorg(self) -> None:
        """What was mined since is in no block, and not waiting either; other blocks stand in their place."""

    def forget(self) -> None:
        """What waits to be mined."""

    def fund(self, address: str, wei: int) -> None: ...


def ask(node: Node, method: str, *params: Any) -> Any:
    answer = node.answer(method, list(params))
    assert "error" not in answer, answer
    return answer["result"]


class PyEvm:
    """py-evm executes; the pool before it, which eth-tester has not, speaks as geth does."""

    name = "py-evm"

    @unmeasured
    def __init__(self) -> None:
        tester = library("eth_tester")
        backend = tester.PyEVMBackend()
        self._backend, self._chain, self._tester = backend, backend.chain, tester.EthereumTester(backend)
        self.chain_id = int(self._chain.chain_id)
        self._pool: dict[tuple[str, int], Any] = {}
        self._auto, self._mark = True, ""
        self._lock = threading.RLock()
        self.legacy = False
        """As a chain without EIP-1559."""
        self.floor = 0
        """Least tip that the pool takes, wei."""
        self.sent: list[str] = []
        """Hashes of what the pool took."""

    @unmeasured
    def answer(self, method: str, params: list[Any]) -> Document:
        with self._lock:
            try:
                return {"result": getattr(self, method)(*params)}
            except _Refusal as error:
                return {"error": {"code": -32000, "message": str(error)}}
            except AttributeError:
                return {"error": {"code": -32601, "message": f"the method {method} does not exist"}}

    @unmeasured
    def mine(self, blocks: int = 1) -> None:
        with self._lock:
            self._take()
            self._tester.mine_blocks(blocks)

    def automine(self, on: bool) -> None:
        self._auto = on
        if on:
            self.mine()

    @unmeasured
    def mark(self) -> None:
        self._mark = self._tester.take_snapshot()

    @unmeasured
    def reorg(self) -> None:
        with self._lock:
            depth = self._tip()
            self._tester.revert_to_snapshot(self._mark)
            # Other blocks than those that were there: of another time.
            self._tester.time_travel(int(self._tester.get_block_by_number("latest")["timestamp"]) + 5_000)
            self._tester.mine_blocks(depth - self._tip() + 1)

    def forget(self) -> None:
        self._pool.clear()

    @unmeasured
    def fund(self, address: str, wei: int) -> None:
        with self._lock:
            rich = self._tester.get_accounts()[0]
            fees = {"max_fee_per_gas": 10**12, "max_priority_fee_per_gas": 10**9}
            self._tester.send_transaction({"from": rich, "to": address, "value": wei, "gas": 21_000, **fees})

    def eth_chainId(self) -> str:
        return hex(self.chain_id)

    def eth_blockNumber(self) -> str:
        return hex(self._tip())

    def eth_gasPrice(self) -> str:
        return hex(2 * 10**9)

    def eth_maxPriorityFeePerGas(self) -> str:
        if self.legacy:
            raise AttributeError
        return hex(10**9)

    def eth_getBalance(self, address: str, at: str) -> str:
        return hex(self._tester.get_balance(address))

    def eth_getCode(self, address: str, at: str) -> str:
        return str(self._tester.get_code(address))

    def eth_getTransactionCount(self, address: str, at: str) -> str:
        if at == "pending":
            nonce = self._nonce(address)
            while (address.lower(), nonce) in self._pool:
                nonce += 1
            return hex(nonce)
        return hex(self._nonce(address) if at == "latest" else self._tester.get_nonce(address, int(at, 16)))

    def eth_estimateGas(self, asked: Document) -> str:
        # py-evm wants the sender to afford it, which nodes do not unless a price is given
        try:
            return hex(self._tester.estimate_gas({**asked, "from": self._tester.get_accounts()[0]}))
        except library("eth_tester.exceptions").TransactionFailed:
            raise _Refusal("execution reverted") from None

    def eth_call(self, asked: Document, at: str) -> str:
        return str(self._tester.call({"from": self._tester.get_accounts()[0], **asked}))

    def eth_getBlockByNumber(self, at: str, full: bool) -> Document | None:
        try:
            block = self._tester.get_block_by_number("latest" if at == "latest" else int(at, 16))
        except library("eth_tester.exceptions").BlockNotFound:
            return None
        told = {"number": hex(block["number"]), "hash": block["hash"], "timestamp": hex(block["timestamp"])}
        return told if self.legacy else {**told, "baseFeePerGas": hex(block["base_fee_per_gas"])}

    def eth_getTransactionReceipt(self, tx: str) -> Document | None:
        try:
            found = self._tester.get_transaction_receipt(tx)
        except library("eth_tester.exceptions").TransactionNotFound:
            return None
        if found["block_number"] is None or found["block_number"] > self._tip():
            return None
        return {
            "transactionHash": tx,
            "status": hex(found["status"]),
            "blockNumber": hex(found["block_number"]),
            "blockHash": found["block_hash"],
            "gasUsed": hex(found["gas_used"]),
            "contractAddress": found["contract_address"],
            "logs": [
                {"address": log["address"], "topics": list(log["topics"]), "data": log["data"]} for log in found["logs"]
            ],
        }

    def eth_getTransactionByHash(self, tx: str) -> Document | None:
        if any("0x" + waiting.hash.hex() == tx for waiting in self._pool.values()):
            return {"hash": tx, "blockNumber": None}
        try:
            found = self._tester.get_transaction_by_hash(tx)
        except library("eth_tester.exceptions").TransactionNotFound:
            return None
        ends = {"from": found["from"], "to": found["to"], "input": found["data"]}
        return {"hash": tx, "blockNumber": hex(found["block_number"] or 0), **ends}

    def eth_sendRawTransaction(self, raw: str) -> str:
        builder = self._chain.get_vm().get_transaction_builder()
        try:
            tx = builder.decode(bytes.fromhex(raw[2:]))
            sender = "0x" + tx.sender.hex()
        except (library("eth_utils.exceptions").ValidationError, ValueError, TypeError):
            raise _Refusal("rlp: cannot decode transaction") from None
        self._check(tx, sender)
        self._pool[sender, tx.nonce] = tx
        name: str = "0x" + tx.hash.hex()
        self.sent.append(name)
        if self._auto:
            self.mine()
        return name

    def _check(self, tx: Any, sender: str) -> None:
        """In geth's order and words."""
        known = self._pool.get((sender, tx.nonce))
        if known is not None and known.hash == tx.hash:
            raise _Refusal("already known")
        if tx.chain_id not in (None, self.chain_id):
            raise _Refusal("invalid sender: invalid chain id for signer")
        if min(tx.max_priority_fee_per_gas, tx.max_fee_per_gas) < self.floor:
            raise _Refusal("transaction underpriced: gas tip cap below the minimum needed")
        if tx.nonce < self._nonce(sender):
            raise _Refusal(f"nonce too low: next nonce {self._nonce(sender)}, tx nonce {tx.nonce}")
        if self._tester.get_balance("0x" + tx.sender.hex()) < tx.gas * tx.max_fee_per_gas + tx.value:
            raise _Refusal("insufficient funds for gas * price + value: balance too small")
        if known is not None and not (
            _dearer(tx, known, "max_fee_per_gas") and _dearer(tx, known, "max_priority_fee_per_gas")
        ):
            raise _Refusal("replacement transaction underpriced")

    def _take(self) -> None:
        """What is executable goes into the next block."""
        base = self._tester.get_block_by_number("latest")["base_fee_per_gas"]
        due: dict[str, int] = {}
        for sender, nonce in sorted(self._pool):
            tx = self._pool[sender, nonce]
            if nonce == due.get(sender, self._nonce(sender)) and tx.max_fee_per_gas >= base:
                due[sender] = nonce + 1
                del self._pool[sender, nonce]
                # eth-tester's own door takes no legacy signature of a chain with so long an id
                self._backend.send_raw_transaction(tx.encode())

    def _tip(self) -> int:
        return int(self._tester.get_block_by_number("latest")["number"])

    def _nonce(self, address: str) -> int:
        return int(self._tester.get_nonce(address, "latest"))


class _Refusal(Exception):
    """What the node says."""


def _dearer(new: Any, old: Any, name: str) -> bool:
    return bool(getattr(new, name) * 10 >= getattr(old, name) * 11)


class Anvil:
    """Foundry's node, as a process."""

    name = "anvil"
    chain_id = 31_337

    def __init__(self, program: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        argv = [program, "--port", str(self._port), "--silent", "--order", "fifo"]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._mark = 0
        until = time.monotonic() + 60
        while not self._up():
            assert time.monotonic() < until, "anvil does not start"
            time.sleep(0.02)

    def _up(self) -> bool:
        with suppress(OSError):
            return "result" in self.answer("eth_chainId", [])
        return False

    def answer(self, method: str, params: list[Any]) -> Document:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=20)) as connection:
            connection.request("POST", "/", body, {"Content-Type": "application/json"})
            answer: Document = json.load(connection.getresponse())
        return {name: answer[name] for name in ("result", "error") if name in answer}

    def mine(self, blocks: int = 1) -> None:
        ask(self, "anvil_mine", hex(blocks))

    def automine(self, on: bool) -> None:
        ask(self, "evm_setAutomine", on)
        if on:
            self.mine()

    def mark(self) -> None:
        self._mark = int(ask(self, "eth_blockNumber"), 16)

    def reorg(self) -> None:
        ask(self, "anvil_reorg", int(ask(self, "eth_blockNumber"), 16) - self._mark, [])

    def forget(self) -> None:
        ask(self, "anvil_dropAllTransactions")

    def fund(self, address: str, wei: int) -> None:
        ask(self, "anvil_setBalance", address, hex(wei))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def find_anvil() -> str | None:
    """On PATH, or where npm put it."""
    found = shutil.which("anvil")
    modules = Path(__file__).parents[2] / "node_modules" / "@foundry-rs"
    inside = [str(path) for path in modules.glob("anvil-*/bin/anvil") if os.access(path, os.X_OK)]
    return next(iter([*inside, *([found] if found else [])]), None)


@contextmanager
def node(name: str) -> Iterator[tuple[Node, Door]]:
    """The chain, and the door before it."""
    made: PyEvm | Anvil
    if name == "py-evm":
        made = PyEvm()
    else:
        program = find_anvil()
        assert program
        made = Anvil(program)
    try:
        with door(made.answer) as opened:
            yield made, opened
    finally:
        if isinstance(made, Anvil):
            made.close()


def send(node: Node, key: Key, to: str, data: bytes, *, nonce: int | None = None, fees: Fees = GAS_PRICE) -> str:
    """Somebody's transaction, beside the program's."""
    if nonce is None:
        nonce = int(ask(node, "eth_getTransactionCount", key.address, "pending"), 16)
    raw = key.signed(Transaction(node.chain_id, nonce, fees, 1_000_000, to, data))
    return str(ask(node, "eth_sendRawTransaction", "0x" + raw.hex()))


def transactions(node: Node, address: str) -> int:
    """How many of the account's are in the chain."""
    return int(ask(node, "eth_getTransactionCount", address, "latest"), 16)
