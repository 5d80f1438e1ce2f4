"""What a rail that pays must be able to do; transact.py and confirm.py drive it, whatever the chain."""

from dataclasses import dataclass, field
from typing import Protocol

from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import Busy, Exit


class Refused(Invalid):
    """The node will never take these bytes (no funds, reverts, too cheap to relay): nothing was paid."""

    code = "refused"


class NoFunds(Refused):
    """The account cannot pay; it can once somebody sends it money."""

    code = "no_funds"
    exit = Exit.BUSY


class FeeAboveCap(Refused):
    """The chain asks for more than the operator allows; fees fall again."""

    code = "fee_above_cap"
    exit = Exit.BUSY


class Underpriced(Refused):
    """Too cheap for this node now, or to take the place of another transaction."""

    code = "underpriced"
    exit = Exit.BUSY


class Unreachable(Busy):
    """No answer, or none that says what became of the request."""

    code = "unreachable"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What is to be written: the 32 bytes of `root`, for the batch `batch`."""

    batch: str
    root: bytes


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction before it is sent: its name on the chain is known already."""

    tx: str
    raw: str
    """Hex, as it is sent, now or again after a crash: always the same bytes."""
    details: Document = field(default_factory=dict)
    """What a reader of the attestation needs beside: contract, memo, sender, nonce, fee."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A transaction as the node has it now."""

    depth: int = 0
    """Blocks on top, its own counted; 0 = not in a block of the active chain."""
    block: int = 0
    block_hash: str = ""
    ts: int = 0
    """Seconds, the block's."""
    fault: str = ""
    """Why it does not say what it should (reverted, another root); "" = sound."""


class Chain(Protocol):
    """One chain through one node, with one account. Raises Refused, Unreachable, Denied, ConfigError, Invalid."""

    @property
    def target(self) -> str:
        """CAIP-like: `eip155:8453`, `btc:mainnet`."""
        ...

    @property
    def account(self) -> str:
        """Whose money; its nonces or coins are asked for by who holds `Book.signing`."""
        ...

    @property
    def need(self) -> int:
        """Depth at which an attestation is final."""
        ...

    def meet(self) -> None:
        """ConfigError unless the node is on the target's chain."""
        ...

    def sign(self, anchor: Anchor) -> Signed:
        """Nothing is sent."""
        ...

    def send(self, signed: Signed) -> None:
        """A node that knows it already, or has mined it, is content. Refused: it never will be taken."""
        ...

    def find(self, signed: Signed, anchor: Anchor) -> Seen | None:
        """None: the node knows nothing of it."""
        ...

    def lost(self, signed: Signed) -> bool:
        """What it spends (nonce, coins) was spent by another transaction, as deep as `need`: it never can be mined.

        Not so deep, a reorganisation could still mine it, beside the one that would be signed in its stead."""
        ...

    def hurried(self, signed: Signed, anchor: Anchor) -> Signed | None:
        """The same anchor at a higher fee, spending the same, so that one of both is mined; None: the fee is at its
        cap, or this chain's node does it by itself."""
        ...


class Looker(Protocol):
    """One chain through one node, without an account: what a verification needs."""

    def meet(self) -> None:
        """ConfigError unless the node is on the target's chain."""
        ...

    def look(self, attestation: Document, anchor: Anchor) -> Seen | None:
        """As `Chain.find`, by what a receipt says; `anchor.batch` "" = of whatever batch."""
        ...
