"""One EVM node: what is read of it, typed; an answer of another shape is no answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmsh_scheduler.anchors.chain import Anchor, FeeAboveCap, Seen
from vmsh_scheduler.anchors.ethereum import Fees
from vmsh_scheduler.anchors.evm_call import Call
from vmsh_scheduler.anchors.rpc import NotRpc, Rpc, RpcError, block_time
from vmsh_scheduler.errors import ConfigError

GWEI = 10**9
TIP = GWEI
"""Wei; for nodes that do not name one."""
_NUMBER = re.compile(r"0x[0-9a-fA-F]{1,64}")
_HASH = re.compile(r"0x[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that a unit of gas may cost, and what goes to the block's maker; wei."""

    most: int
    tip: int | None = None
    """None = what the node proposes."""


@dataclass(frozen=True, slots=True)
class Node:
    """Reads only; Unreachable and its kinds when it cannot be read."""

    rpc: Rpc

    def meet(self, chain_id: int) -> None:
        """ConfigError unless it is on this chain."""
        found = self.number("eth_chainId")
        if found != chain_id:
            raise ConfigError(
                f"{self.rpc.where} is a node of eip155:{found}, and the target is eip155:{chain_id}",
                hint="set rpcUrl to a node of that chain; nothing was sent",
            )

    def number(self, method: str, *params: Any) -> int:
        return self._number(method, self.rpc.call(method, *params))

    def nonce(self, account: str, at: str = "pending") -> int:
        return self.number("eth_getTransactionCount", account, at)

    def balance(self, account: str) -> int:
        return self.number("eth_getBalance", account, "latest")

    def has_code(self, address: str) -> bool:
        code = self.rpc.call("eth_getCode", address, "latest")
        if not isinstance(code, str):
            raise NotRpc(f"{self.rpc.where}: eth_getCode gave no code")
        return len(code) > 2

    def tip(self) -> int:
        """Number of the newest block."""
        return self.number("eth_blockNumber")

    def receipt(self, tx: str) -> Mapping[str, Any] | None:
        return self._object("eth_getTransactionReceipt", tx)

    def transaction(self, tx: str) -> Mapping[str, Any] | None:
        return self._object("eth_getTransactionByHash", tx)

    def block(self, at: str) -> Mapping[str, Any] | None:
        return self._object("eth_getBlockByNumber", at, False)

    def seen(self, tx: str, call: Call, anchor: Anchor) -> Seen | None:
        """Where `tx` is, and whether it says what it should; None = the node knows nothing of it."""
        receipt = self.receipt(tx)
        if receipt is None or receipt.get("blockNumber") is None:
            return None if receipt is None and self.transaction(tx) is None else Seen()
        number = self._number("blockNumber", receipt["blockNumber"])
        block = self.block(hex(number))
        # A node may still answer with the receipt of a block that is off its chain.
        if block is None or not _hash(block.get("hash")) or block["hash"] != receipt.get("blockHash"):
            return Seen()
        depth = max(1, self.tip() - number + 1)
        ts = block_time(self.rpc.where, self._number("timestamp", block.get("timestamp")))
        return Seen(depth, number, block["hash"], ts, self._fault(tx, receipt, call, anchor))

    def fees(self, caps: Caps) -> Fees:
        """Twice the base fee and a tip, so that it stays good for several full blocks; never above the cap."""
        block = self.block("latest") or {}
        if block.get("baseFeePerGas") is None:
            return self._legacy(caps)
        base, tip = self._number("baseFeePerGas", block["baseFeePerGas"]), self._tip(caps)
        if base + tip > caps.most:
            raise _above(base + tip, caps)
        return Fees(min(2 * base + tip, caps.most), tip)

    def _legacy(self, caps: Caps) -> Fees:
        price = self.number("eth_gasPrice")
        if price > caps.most:
            raise _above(price, caps)
        return Fees(price)

    def _tip(self, caps: Caps) -> int:
        if caps.tip is not None:
            return caps.tip
        try:
            return self.number("eth_maxPriorityFeePerGas")
        except RpcError:
            return TIP

    def _fault(self, tx: str, receipt: Mapping[str, Any], call: Call, anchor: Anchor) -> str:
        if receipt.get("status") != "0x1":
            return "was reverted"
        if call.contract:
            return call.fault_in_logs(receipt.get("logs"), anchor)
        transaction = self.transaction(tx)
        if transaction is None:  # nodes that differ behind one address: no reason to call it faulty, for ever
            raise NotRpc(f"{self.rpc.where} has the receipt of {tx}, and not the transaction")
        return call.fault_in_calldata(transaction, anchor)

    def _number(self, about: str, value: Any) -> int:
        if not isinstance(value, str) or not _NUMBER.fullmatch(value):
            raise NotRpc(f"{self.rpc.where}: {about} is no number")
        return int(value, 16)

    def _object(self, method: str, *params: Any) -> Mapping[str, Any] | None:
        value = self.rpc.call(method, *params)
        if value is not None and not isinstance(value, dict):
            raise NotRpc(f"{self.rpc.where}: {method} gave no object")
        return value


def _hash(value: object) -> bool:
    return isinstance(value, str) and _HASH.fullmatch(value) is not None


def _above(wei: int, caps: Caps) -> FeeAboveCap:
    return FeeAboveCap(
        f"fee above the cap: a unit of gas costs {gwei(wei)} gwei now, the cap is {gwei(caps.most)}",
        hint="it is tried again; raise maxFeeGwei if the fee stays",
    )


def gwei(wei: int) -> str:
    return f"{wei / GWEI:.9f}".rstrip("0").rstrip(".")
