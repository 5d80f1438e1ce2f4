"""`eip155:<chainId>`: a contract call with its event, or calldata to oneself (spec vaultmesh section 7)."""

from collections.abc import Mapping
from dataclasses import dataclass

from vmsh_scheduler.anchors import rpc
from vmsh_scheduler.anchors.chain import Anchor, FeeAboveCap, NoFunds, Refused, Seen, Signed
from vmsh_scheduler.anchors.ethereum import Fees, Key, Transaction, checksummed, is_address, transaction_hash
from vmsh_scheduler.anchors.evm_call import Call
from vmsh_scheduler.anchors.evm_errors import Meaning, failure, meaning
from vmsh_scheduler.anchors.evm_node import GWEI, Caps, Node, gwei
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.rail_entry import EvmRail, evm_rail
from vmsh_scheduler.anchors.rails import Opened
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import ConfigError

DEFAULT_CAP_GWEI = 100.0
"""Where the entry sets none: no anchor spends without a limit."""
MOST_GAS = 3_000_000
"""An anchor takes about 50,000; rollups that count the first chain's fee as gas, up to a million."""
WAIT_S = 15.0
"""For the first block: a block or two of most chains."""
STUCK_AFTER_S = 600
KEYS = ("key", "keyFile", "keyCredential")
_SPARE = 6, 5
"""Gas beyond the node's estimate: the state may change until the block."""
_RISE = 9, 8
"""Nodes want 10 % more for a replacement, some 12.5 %."""
_STATE_BLOCKS = 64
"""As far back as every node knows the state of accounts, with room."""


@dataclass(frozen=True, slots=True)
class Evm:
    """A `Chain`: one node, one key."""

    chain_id: int
    node: Node
    key: Key
    need: int
    caps: Caps
    contract: str = ""
    memo: str = ""
    persist: bool = False

    @property
    def target(self) -> str:
        return f"eip155:{self.chain_id}"

    @property
    def account(self) -> str:
        return self.key.address

    def meet(self) -> None:
        self.node.meet(self.chain_id)

    def sign(self, anchor: Anchor) -> Signed:
        """With the next free nonce: the caller holds `Book.signing`."""
        call = Call(self.account, self.contract, self.memo if self.contract else "", self.persist)
        if call.contract and not self.node.has_code(call.contract):
            raise ConfigError(
                f"there is no contract at {call.contract} on {self.target}",
                hint="deploy one with `vmsh-scheduler deploy-contract`, or leave `contract` out",
            )
        fees, gas = self.node.fees(self.caps), self.gas(call.to, call.data(anchor))
        self.afford(gas * fees.most)
        return self._signed(call, anchor, self.node.nonce(self.account), gas, fees)

    def gas(self, to: str, data: bytes) -> int:
        """As the node estimates it, and some; Reverted when the call would fail."""
        asked = {"from": self.account, "data": "0x" + data.hex()} | ({"to": to} if to else {})
        try:
            gas = self.node.number("eth_estimateGas", asked)
        except rpc.RpcError as error:
            raise failure(error, self.account) from None
        if gas > MOST_GAS:
            raise Refused(f"{self.node.rpc.where} wants {gas} gas for an anchor, over {MOST_GAS}")
        return gas * _SPARE[0] // _SPARE[1]

    def afford(self, wei: int) -> None:
        """NoFunds unless the account has as much."""
        balance = self.node.balance(self.account)
        if balance < wei:
            told = f"{self.account} on {self.target} has {gwei(balance)} gwei and may need {gwei(wei)}"
            raise NoFunds(f"insufficient funds: {told}", hint="send it money")

    def _signed(self, call: Call, anchor: Anchor, nonce: int, gas: int, fees: Fees) -> Signed:
        raw = self.key.signed(Transaction(self.chain_id, nonce, fees, gas, call.to, call.data(anchor)))
        paid: Document = {"nonce": nonce, "gas": gas, "maxFeePerGas": fees.most}
        tip = {} if fees.tip is None else {"maxPriorityFeePerGas": fees.tip}
        return Signed(transaction_hash(raw), "0x" + raw.hex(), {**call.details(), **paid, **tip})

    def send(self, signed: Signed) -> None:
        if not signed.raw:
            raise Refused(f"the bytes of {signed.tx} are not kept")
        try:
            self.node.rpc.call("eth_sendRawTransaction", signed.raw)
        except rpc.RpcError as error:
            found = meaning(error)
            known = found is Meaning.KNOWN or (found is Meaning.NONCE_SPENT and self.knows(signed.tx))
            if not known:
                raise failure(error, self.account) from None

    def knows(self, tx: str) -> bool:
        """In a block or waiting for one."""
        return self.node.receipt(tx) is not None or self.node.transaction(tx) is not None

    def find(self, signed: Signed, anchor: Anchor) -> Seen | None:
        return self.node.seen(signed.tx, Call.of(signed.details), anchor)

    def lost(self, signed: Signed) -> bool:
        """Its nonce was spent `need` blocks ago: not even a reorg brings it back then."""
        nonce = signed.details.get("nonce")
        at = self.node.tip() + 1 - min(max(self.need, 1), _STATE_BLOCKS)
        if type(nonce) is not int or at < 0 or self.node.nonce(self.account, hex(at)) <= nonce:
            return False
        return not self.knows(signed.tx)

    def hurried(self, signed: Signed, anchor: Anchor) -> Signed | None:
        """The same nonce, at least 12.5 % dearer; None at the cap."""
        nonce, gas, most = (signed.details.get(name) for name in ("nonce", "gas", "maxFeePerGas"))
        if type(nonce) is not int or type(gas) is not int or type(most) is not int:
            return None
        fees = self._dearer(Fees(most, signed.details.get("maxPriorityFeePerGas")))
        return None if fees is None else self._signed(Call.of(signed.details), anchor, nonce, gas, fees)

    def _dearer(self, fees: Fees) -> Fees | None:
        try:
            now = self.node.fees(self.caps)
        except FeeAboveCap:
            return None
        most = max(_risen(fees.most), now.most)
        tip = None if fees.tip is None else max(_risen(fees.tip), now.tip or 0)
        return None if max(most, tip or 0) > self.caps.most else Fees(most, tip)


def _risen(wei: int) -> int:
    return -(-wei * _RISE[0] // _RISE[1]) + 1


def opened(facts: Facts) -> Opened:
    """ConfigError naming the field that is wrong."""
    rail = evm_rail(facts)
    stuck = STUCK_AFTER_S if rail.replace_after_s is None else int(rail.replace_after_s)
    return Opened(chain_of(facts, rail), WAIT_S, stuck)


def chain_of(facts: Facts, rail: EvmRail) -> Evm:
    key = Key.read(rail.key)
    if key is None:
        raise ConfigError("anchors.yaml: eip155: key: is no private key", hint="64 hex digits, with or without 0x")
    return Evm(
        chain_id=rail.chain_id,
        node=node_of(rail),
        key=key,
        need=max(1, rail.confirmations),
        caps=_caps(rail),
        contract=_address(rail.contract),
        memo=facts.text("memo"),
        persist=rail.persist,
    )


def node_of(rail: EvmRail) -> Node:
    return Node(rpc.Rpc(rail.rpc.http()))


@dataclass(frozen=True, slots=True)
class Reader:
    """A `Looker`."""

    chain_id: int
    node: Node

    def meet(self) -> None:
        self.node.meet(self.chain_id)

    def look(self, attestation: Document, anchor: Anchor) -> Seen | None:
        """The attestation's own contract and sender are looked for: what stands there stands there."""
        return self.node.seen(attestation["tx"], Call.of(attestation), anchor)


def looker(facts: Facts) -> Reader:
    """The entry's key is neither needed nor read."""
    entry = facts.document.get("rail")
    bare = {name: value for name, value in entry.items() if name not in KEYS} if isinstance(entry, Mapping) else {}
    rail = evm_rail(Facts({**facts.document, "rail": {**bare, "key": "none"}}, facts.environ))
    return Reader(rail.chain_id, node_of(rail))


def _caps(rail: EvmRail) -> Caps:
    tip = None if rail.priority_fee_gwei is None else int(rail.priority_fee_gwei * GWEI)
    return Caps(int((rail.max_fee_gwei or DEFAULT_CAP_GWEI) * GWEI), tip)


def _address(text: str) -> str:
    if text and not is_address(text):
        raise ConfigError(f"anchors.yaml: eip155: contract: {text} has a wrong checksum", hint="a digit is mistyped")
    return checksummed(text) if text else ""
