"""What the errors of EVM nodes mean: every client has its own words (geth, erigon, nethermind, besu, reth, anvil)."""

import re
from enum import Enum

from vmsh_scheduler.anchors.chain import NoFunds, Refused, Underpriced, Unreachable
from vmsh_scheduler.anchors.rpc import RpcError
from vmsh_scheduler.errors import Exit


class Reverted(Refused):
    """The contract refuses the call."""

    code = "reverted"


class NonceSpent(Refused):
    """Another transaction of the account was mined with this nonce."""

    code = "nonce_spent"
    exit = Exit.BUSY


class Meaning(Enum):
    """Of one error, first match wins."""

    KNOWN = r"already (known|imported|exists|in (the )?pool)|known transaction|alreadyknown"
    NONCE_SPENT = r"nonce (is )?too low|nonce.{0,40}(lower than|already (been )?used)|oldnonce|nonce has already"
    NO_FUNDS = (
        r"insufficient (funds|balance)|not enough (funds|balance)|does ?n.t have enough (funds|balance)"
        r"|does not have enough (funds|balance)|outoffund|gas required exceeds allowance"
    )
    UNDERPRICED = (
        r"underpriced|(fee|gas ?price|tip|feecap|fee cap)\b.{0,40}(too low|less than|below|lower than)"
        r"|feetoolow|gas price below"
    )
    REVERTED = r"revert"
    NEVER = (
        r"(invalid|wrong|incorrect) (sender|signature|chain.?id|signer)|chain.?id.{0,40}(mismatch|does not match)"
        r"|signed for another chain|intrinsic gas|exceeds (the )?block gas limit|gas limit.{0,20}(exceeded|too high)"
        r"|type not supported|unsupported transaction type|oversized|exceeds the configured cap|rlp"
        r"|replay.protected"
    )


_PATTERNS = {meaning: re.compile(meaning.value, re.IGNORECASE) for meaning in Meaning}


def meaning(error: RpcError) -> Meaning | None:
    """None: not said, so that it counts as no answer."""
    return next((each for each, pattern in _PATTERNS.items() if pattern.search(error.said)), None)


def failure(error: RpcError, account: str) -> Refused | Unreachable:
    """As this program raises it. KNOWN and NONCE_SPENT may be success: who sends looks at them first."""
    match meaning(error):
        case Meaning.NO_FUNDS:
            return NoFunds(f"{error.message}", hint=f"send money to {account}")
        case Meaning.UNDERPRICED:
            return Underpriced(f"{error.message}", hint="it is tried again; raise the cap if it stays so")
        case Meaning.REVERTED:
            return Reverted(f"{error.message}", hint="is `contract` a BatchAnchor on this chain?")
        case Meaning.NONCE_SPENT:
            return NonceSpent(f"{error.message}", hint="does another program use this key? give each its own")
        case Meaning.NEVER:
            return Refused(error.message)
        case _:
            return error
