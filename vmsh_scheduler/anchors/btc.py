"""`btc:<network>` over bitcoind's JSON-RPC and its wallet: OP_RETURN `RV` + root (spec vaultmesh sections 7 and 18).

Coins are not locked (lockUnspents): whoever signs for this wallet below this root holds `Book.signing` until the bytes
are sent, and a lock left by a crash would keep the money away until bitcoind restarts. If somebody else spends the
coin first, ours is refused or lost, never paid twice."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import Any
from urllib.parse import quote, urlsplit

from vmsh_scheduler.anchors import rail_entry
from vmsh_scheduler.anchors.bitcoin_tx import Coin, parse, payload, script
from vmsh_scheduler.anchors.btc_errors import NETWORKS, NO_SUCH, of_send, of_wallet, pending
from vmsh_scheduler.anchors.chain import Anchor, FeeAboveCap, Refused, Seen, Signed
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.rails import Opened
from vmsh_scheduler.anchors.rpc import NotRpc, Rpc, RpcError, block_time
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import ConfigError

SATS = 100_000_000
MOST_BTC = 21_000_000
STEP = Decimal("0.001")
"""sat/vB: bitcoind takes no finer ones."""
DEFAULT_CAP_SATS = 100_000
"""Of an anchor whose entry has no maxFeeSats: no fee estimate gone wrong costs more."""
MEMO = "OP_RETURN:RV+sha256"
STUCK_AFTER_S = 6 * 3600
REPLACEABLE = 0xFFFFFFFD
"""Sequence number of inputs that may be replaced (BIP 125)."""


@dataclass(frozen=True, slots=True)
class Fees:
    """How much to pay: a rate, else a target, else what the node thinks right."""

    target: int | None = None
    rate: Decimal | None = None
    """sat/vB."""
    cap: int = DEFAULT_CAP_SATS

    def options(self) -> Document:
        """For fundrawtransaction, which wants one of the two at most."""
        if self.rate is not None:
            return {"fee_rate": str(self.rate)}
        return {"conf_target": self.target} if self.target else {}


def opened(facts: Facts) -> Opened:
    """The entry `btc.<network>` of anchors.yaml."""
    entry = rail_entry.btc_rail(facts)
    return Opened(_bitcoin(entry), stuck_after_s=STUCK_AFTER_S)


def looker(facts: Facts) -> "Bitcoin":
    """For `verify --online`; the wallet is not asked where the receipt names a block."""
    return _bitcoin(rail_entry.btc_rail(facts))


def _bitcoin(entry: rail_entry.BtcRail) -> "Bitcoin":
    url = entry.rpc.url
    if entry.wallet:
        if urlsplit(url).path not in ("", "/"):
            raise ConfigError("rpcUrl has a path, and wallet is set", hint="leave one of both out")
        url = f"{url.rstrip('/')}/wallet/{quote(entry.wallet, safe='')}"
    rate = None if entry.fee_rate is None else Decimal(str(entry.fee_rate)).quantize(STEP, ROUND_UP)
    fees = Fees(entry.conf_target, rate, entry.max_fee_sats or DEFAULT_CAP_SATS)
    node = Rpc(replace(entry.rpc, url=url).http())
    return Bitcoin(node, entry.network, wallet=entry.wallet, need=entry.confirmations, fees=fees)


class Bitcoin:
    """`Chain` over one bitcoind (Core or Knots) and one of its wallets."""

    def __init__(self, node: Rpc, network: str, *, wallet: str = "", need: int = 6, fees: Fees = Fees()) -> None:
        self._node = node
        self._network = network
        self._wallet = wallet
        self._need = need
        self._fees = fees

    @property
    def target(self) -> str:
        return f"btc:{self._network}"

    @property
    def account(self) -> str:
        return self._wallet or "default"

    @property
    def need(self) -> int:
        return max(1, self._need)

    def meet(self) -> None:
        told = _text(self._object("getblockchaininfo"), "chain")
        there = NETWORKS.get(told, told)
        if there != self._network:
            raise ConfigError(
                f"{self._node.where} is on btc:{there}, not on {self.target}", hint="correct rpcUrl, or the target"
            )

    def sign(self, anchor: Anchor) -> Signed:
        with of_wallet(self._node.where, self._wallet):
            empty = self._call("createrawtransaction", [], [{"data": payload(anchor.root)}])
            return self._signed(anchor, empty, self._fees.options())

    def _signed(self, anchor: Anchor, unsigned: Any, options: Document) -> Signed:
        funded = self._object("fundrawtransaction", unsigned, {"replaceable": True, "lockUnspents": False, **options})
        fee = _sats(funded.get("fee"))
        if fee > self._fees.cap:
            raise FeeAboveCap(
                f"the fee would be {fee} sat, above the cap of {self._fees.cap}", hint="raise maxFeeSats, or wait"
            )
        signed = self._object("signrawtransactionwithwallet", _text(funded, "hex"))
        if signed.get("complete") is not True:
            raise ConfigError(f"{self._node.where}: the wallet cannot sign: it lacks keys", hint="no watch-only wallet")
        raw = _text(signed, "hex")
        tx = parse(raw)
        if tx.scripts.count(script(anchor.root)) != 1:
            raise NotRpc(f"{self._node.where} signed something else than was asked for")
        return Signed(tx.id, raw, {"memo": MEMO, "fee": fee, "vsize": tx.vsize})

    def send(self, signed: Signed) -> None:
        try:
            self._call("sendrawtransaction", signed.raw)
        except RpcError as error:
            refusal = of_send(error)
            if refusal is None or self._depth(signed.tx) > 0:
                return
            raise refusal from None

    def find(self, signed: Signed, anchor: Anchor) -> Seen | None:
        """From the wallet, which needs no index; what another wallet sent, in the block where it was seen."""
        found, digest = self._kept(signed.tx), signed.details.get("blockHash")
        if found is None and digest:
            found = self._in_block(signed.tx, digest)
        return self._seen(found, anchor)

    def look(self, attestation: Document, anchor: Anchor) -> Seen | None:
        """In the block that the receipt names, which needs neither index nor wallet."""
        digest, block = attestation.get("blockHash"), attestation["block"]
        if digest is None and block:
            digest = self._call("getblockhash", block)
        if digest is None:
            return self._seen(self._kept(attestation["tx"]), anchor)
        return self._seen(self._in_block(attestation["tx"], digest), anchor)

    def _seen(self, found: Document | None, anchor: Anchor) -> Seen | None:
        if found is None:
            return None
        depth = _number(found, "confirmations", 0)
        if depth <= 0 or found.get("in_active_chain") is False:
            return Seen()
        digest = _text(found, "blockhash")
        header = self._object("getblockheader", digest)
        if _number(header, "confirmations", -1) < 1:
            return Seen()
        wrong = script(anchor.root) not in parse(_text(found, "hex")).scripts
        return Seen(
            min(depth, _number(header, "confirmations", 0)),
            _number(header, "height", 0),
            digest,
            block_time(self._node.where, _number(header, "time", 0)),
            fault="no output of it says this root" if wrong else "",
        )

    def _kept(self, tx: str) -> Document | None:
        """As the wallet has it; confirmations below 0: another took its place that deep."""
        with of_wallet(self._node.where, self._wallet):
            return self._unless_unknown("gettransaction", tx)

    def _in_block(self, tx: str, digest: str) -> Document | None:
        return self._unless_unknown("getrawtransaction", tx, True, digest)

    def _unless_unknown(self, method: str, *params: Any) -> Document | None:
        try:
            return self._object(method, *params)
        except RpcError as error:
            if error.number == NO_SUCH:
                return None
            raise

    def _depth(self, tx: str) -> int:
        return _number(self._kept(tx) or {}, "confirmations", 0)

    def lost(self, signed: Signed) -> bool:
        kept = self._kept(signed.tx)
        if kept is not None and (depth := _number(kept, "confirmations", 0)) != 0:
            return depth <= -self.need
        return any(self._gone(coin) for coin in parse(signed.raw).spends)

    def _gone(self, coin: Coin) -> bool:
        """Spent in a block that has `need` - 1 others on top, or made by a transaction that is lost itself.

        The wallet may never have heard of ours, so that it cannot tell of a conflict. gettxout comes first: what is
        spent between it and the list is in the list."""
        made = self._depth(coin.tx)
        if made <= 0:
            return made <= -self.need
        deep = self._call("getblockhash", max(0, self._height() - self.need + 1))
        if self._call("gettxout", coin.tx, coin.index, False) is not None:
            return False
        return all(coin not in spends for spends in self._spent_since(deep))

    def _height(self) -> int:
        return int(self._call("getblockcount"))

    def _spent_since(self, block: str) -> Iterator[tuple[Coin, ...]]:
        listed = self._object("listsinceblock", block).get("transactions")
        for tx in sorted({one["txid"] for one in listed or [] if one.get("confirmations", 0) > 0}):
            kept = self._kept(tx)
            if kept is not None:
                yield parse(_text(kept, "hex")).spends

    def hurried(self, signed: Signed, anchor: Anchor) -> Signed | None:
        """Not bumpfee, which sends by itself, before anything is written down."""
        coins = [{"txid": coin.tx, "vout": coin.index, "sequence": REPLACEABLE} for coin in parse(signed.raw).spends]
        vsize = _number(signed.details, "vsize", 0) or parse(signed.raw).vsize
        rate = self._faster(Decimal(_number(signed.details, "fee", 0)) / vsize, Decimal(self._fees.cap) / vsize)
        if rate is None:
            return None
        with of_wallet(self._node.where, self._wallet):
            empty = self._call("createrawtransaction", coins, [{"data": payload(anchor.root)}])
            try:
                fresh = self._signed(anchor, empty, {"fee_rate": str(rate), "add_inputs": False})
            except Refused:
                return None
        if {*parse(fresh.raw).spends} != {*parse(signed.raw).spends}:
            raise NotRpc(f"{self._node.where} put other coins into a replacement")
        return fresh

    def _faster(self, rate: Decimal, cap: Decimal) -> Decimal | None:
        """Half as much again, a whole sat/vB at least (BIP 125 asks for its relay fee on top), or the estimate."""
        least = max(rate * Decimal("1.5"), rate + 1).quantize(STEP, ROUND_UP)
        return None if least > cap else max(least, min(self._estimate(), cap)).quantize(STEP, ROUND_DOWN)

    def _estimate(self) -> Decimal:
        """sat/vB; 0 = the node has none."""
        try:
            told = self._object("estimatesmartfee", self._fees.target or 6).get("feerate", 0)
        except RpcError:
            return Decimal(0)
        return Decimal(_sats(told)) / 1000

    def _call(self, method: str, *params: Any) -> Any:
        try:
            return self._node.call(method, *params)
        except RpcError as error:
            raise pending(error, self._node.where) from None

    def _object(self, method: str, *params: Any) -> Document:
        answer = self._call(method, *params)
        if not isinstance(answer, dict):
            raise NotRpc(f"{self._node.where} answered {method} with something else")
        return answer


def _text(document: Document, name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise NotRpc(f"the node's answer lacks {name}")
    return value


def _number(document: Document, name: str, otherwise: int) -> int:
    value = document.get(name, otherwise)
    if type(value) is not int:
        raise NotRpc(f"the node's answer has no whole number as {name}")
    return value


def _sats(btc: object) -> int:
    """Of bitcoind's amounts, which are JSON numbers with eight digits at most."""
    if isinstance(btc, bool) or not isinstance(btc, int | float) or not 0 <= btc <= MOST_BTC:
        raise NotRpc("the node's answer has no fee")
    return round(Decimal(repr(btc)) * SATS)
