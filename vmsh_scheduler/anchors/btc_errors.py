"""bitcoind's own words: error numbers (its src/rpc/protocol.h), texts and names, as an operator understands them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vmsh_scheduler.anchors.chain import FeeAboveCap, NoFunds, Refused, Underpriced, Unreachable
from vmsh_scheduler.anchors.rpc import RpcError
from vmsh_scheduler.errors import ConfigError, Denied, Exit, SchedulerError

GENERAL, NO_SUCH, NO_FUNDS, BAD_PARAMETER, LOCKED = -4, -5, -6, -8, -13
NO_WALLET, WHICH_WALLET, UNDECODABLE = -18, -19, -22
MISSING, REJECTED, MINED, WARMING_UP = -25, -26, -27, -28
NETWORKS: Mapping[str, str] = {"main": "mainnet", "test": "testnet"}
"""Where getblockchaininfo says it otherwise than targets do."""
_NO_METHOD = -32601
_KNOWN = (
    "txn-already-known",
    "txn-already-in-mempool",
    "txn-same-nonwitness-data-in-mempool",
    "already in block chain",
)


class NotNow(Refused):
    """It can be signed anew, with other coins or after the next block."""

    code = "refused_for_now"
    exit = Exit.BUSY


_OTHER_SPENT = "a coin it spends was spent by another transaction"
_NO_CARRIER = "the node does not relay this OP_RETURN"
_CARRY = "raise bitcoind's -datacarriersize to 42"
_CHEAP, _DEAR = "its fee is below what the node relays now", "its fee is above what the node sends"
_PAY, _SAVE = "raise feeRate, or set confTarget", "lower feeRate, or raise bitcoind's -maxtxfee"
_REASONS: tuple[tuple[str, type[Refused], str, str], ...] = (
    ("missingorspent", NotNow, _OTHER_SPENT, ""),
    ("missing inputs", NotNow, _OTHER_SPENT, ""),
    ("txn-mempool-conflict", NotNow, "another transaction that waits to be mined spends its coin", ""),
    ("insufficient fee", Underpriced, "it does not pay enough more than the transaction that it would replace", ""),
    ("min fee not met", Underpriced, _CHEAP, _PAY),
    ("relay fee not met", Underpriced, _CHEAP, _PAY),
    ("fee exceeds maximum", FeeAboveCap, _DEAR, _SAVE),
    ("max-fee-exceeded", FeeAboveCap, _DEAR, _SAVE),
    (
        "too-long-mempool-chain",
        NotNow,
        "too many unconfirmed transactions hang together",
        "it can after the next block",
    ),
    ("datacarrier", Refused, _NO_CARRIER, _CARRY),
    ("scriptpubkey", Refused, _NO_CARRIER, _CARRY),
)
"""Part of bitcoind's text, what it is, what it means, what to do."""


def pending(error: RpcError, where: str) -> SchedulerError:
    """`error`, or in plainer words that nothing can be asked yet."""
    if error.number != WARMING_UP:
        return error
    return Unreachable(f"{where} is still starting: {error.said}")


def of_send(error: RpcError) -> SchedulerError | None:
    """What sendrawtransaction's error says of the transaction; None: the node has it."""
    said = error.said.lower()
    if error.number == MINED or any(text in said for text in _KNOWN):
        return None
    if error.number not in (MISSING, REJECTED, UNDECODABLE):
        return error
    for part, kind, meaning, hint in _REASONS:
        if part in said:
            return kind(f"the node refused the transaction: {meaning} ({error.said})", hint=hint)
    return Refused(f"the node refused the transaction: {error.said}")


@contextmanager
def of_wallet(where: str, wallet: str) -> Iterator[None]:
    """Errors of a wallet's work: nothing was sent."""
    try:
        yield
    except RpcError as error:
        raise _wallet_error(error, where, f"wallet {wallet!r}" if wallet else "the wallet") from None


def _wallet_error(error: RpcError, where: str, wallet: str) -> SchedulerError:
    said = error.said.lower()
    match error.number:
        case n if n == NO_WALLET:
            return ConfigError(
                f"{where}: {wallet} is not loaded", hint="bitcoin-cli loadwallet NAME true, set `wallet`"
            )
        case n if n == WHICH_WALLET:
            return ConfigError(f"{where}: several wallets are loaded", hint="set `wallet` in anchors.yaml")
        case n if n == LOCKED:
            return Denied(f"{where}: {wallet} is locked", hint="walletpassphrase, or a wallet without passphrase")
        case n if n == _NO_METHOD:
            return ConfigError(f"{where}: bitcoind has no wallet (-disablewallet)", hint="use one that has")
        case n if n in (GENERAL, NO_FUNDS) and ("insufficient funds" in said or n == NO_FUNDS):
            return NoFunds(f"{where}: {wallet} has too few coins for the fee ({error.said})", hint="send it some")
        case n if n == GENERAL and "fee estimation failed" in said:
            return NotNow(f"{where}: no fee estimate yet", hint="set feeRate, or bitcoind's -fallbackfee")
        case n if n == GENERAL and "private keys are disabled" in said:
            return ConfigError(f"{where}: {wallet} is watch-only, it cannot sign", hint="use one that has keys")
        case n if n in (GENERAL, BAD_PARAMETER):
            return Refused(f"{where}: {wallet} cannot pay for it: {error.said}")
    return error
