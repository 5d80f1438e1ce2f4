"""What an anchor looks like on an EVM chain: a call of the contract with its event, or plain calldata to oneself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmsh_scheduler.anchors.chain import Anchor
from vmsh_scheduler.anchors.ethereum import keccak
from vmsh_scheduler.domain.batch import Document

SELECTOR = bytes.fromhex("131b5b07")
"""`anchor(bytes32,bytes32,string,bool)` (spec vaultmesh section 7)."""
TOPIC = "0x422475c780472c369a714f8b6a226f0d5545429886a44c599148ec3b2e408fe2"
"""`BatchAnchored(bytes32,bytes32,string)`."""
MARK = b"RV"
"""Before the root in plain calldata, as in Bitcoin's OP_RETURN."""
_WORD = 32


@dataclass(frozen=True, slots=True)
class Call:
    """How one anchor is written; what an attestation says of it is enough to know it again."""

    sender: str
    contract: str = ""
    """"" = plain calldata from the sender to itself."""
    memo: str = ""
    persist: bool = False

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> "Call":
        """From a submission's details or an attestation."""
        told = {name: str(details.get(name, "")) for name in ("sender", "contract", "memo")}
        return cls(**told, persist=details.get("persist") is True)

    @property
    def to(self) -> str:
        return self.contract or self.sender

    def data(self, anchor: Anchor) -> bytes:
        if not self.contract:
            return MARK + anchor.root
        memo = self.memo.encode()
        words = [anchor.root, batch_word(anchor.batch), _number(4 * _WORD), _number(self.persist), _number(len(memo))]
        return SELECTOR + b"".join(words) + memo + bytes(-len(memo) % _WORD)

    def details(self) -> Document:
        told: Document = {"sender": self.sender}
        more = {"contract": self.contract, "memo": self.memo, "persist": self.persist}
        return told | ({key: value for key, value in more.items() if value} if self.contract else {})

    def fault_in_logs(self, logs: Any, anchor: Anchor) -> str:
        """ "" = the contract said that it anchored this root for this batch (for any, if that is not known)."""
        found = [log for log in logs if isinstance(log, dict)] if isinstance(logs, list) else []
        ours = [log for log in found if same_address(log.get("address"), self.contract)]
        wanted = [TOPIC, "0x" + anchor.root.hex(), "0x" + batch_word(anchor.batch).hex()]
        if any(_topics(log) == wanted or (not anchor.batch and _topics(log)[:2] == wanted[:2]) for log in ours):
            return ""
        if any(_topics(log)[:2] == wanted[:2] for log in ours):
            return "anchors the root for another batch"
        return "has no BatchAnchored event of this root" if ours else f"has no event of the contract {self.contract}"

    def fault_in_calldata(self, transaction: Mapping[str, Any], anchor: Anchor) -> str:
        if str(transaction.get("input", "")).lower() != "0x" + (MARK + anchor.root).hex():
            return "carries another root"
        ends = (transaction.get("from"), transaction.get("to"))
        return "" if all(same_address(end, self.sender) for end in ends) else f"is not from {self.sender} to itself"


def batch_word(batch: str) -> bytes:
    return keccak(batch.encode())


def same_address(one: object, other: str) -> bool:
    return isinstance(one, str) and one.lower() == other.lower()


def _number(value: int) -> bytes:
    return value.to_bytes(_WORD, "big")


def _topics(log: Mapping[str, Any]) -> list[str]:
    topics = log.get("topics")
    return [str(topic).lower() for topic in topics] if isinstance(topics, list) else []
