"""`verify --online`: asks a node of its chain whether an attestation's transaction stands where the receipt says."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from vmsh_scheduler.anchors import rails
from vmsh_scheduler.anchors.chain import Anchor, Looker, Seen, Unreachable
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.rpc import NotRpc, RpcError
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import SchedulerError

Asked = Callable[[str], Facts | None]
"""Target -> facts with its entry of anchors.yaml; None: there is no entry."""


@dataclass
class Online:
    """One look per attestation; a node that was down once is not waited for again."""

    asked: Asked
    _lookers: dict[str, Looker | str] = field(default_factory=dict)

    def speaks_of(self, chain: str) -> bool:
        return chain.partition(":")[0] in rails.LOOKERS

    def fault(self, attestation: Document, anchor: Anchor) -> str:
        """ "" = it is in that block, deep enough, and says what it should."""
        chain = attestation["chain"]
        looker = self._looker(chain)
        if isinstance(looker, str):
            return f"{chain}: {looker}" if looker else ""
        try:
            fault = _fault(attestation, looker.look(attestation, anchor))
        except (RpcError, NotRpc) as error:  # it did answer: that says nothing of other attestations
            fault = str(error)
        except Unreachable as error:
            self._lookers[chain] = fault = str(error)
        except SchedulerError as error:
            fault = str(error)
        return f"{chain}: {attestation['tx']} {fault}" if fault else ""

    def _looker(self, chain: str) -> Looker | str:
        """Or why there is none; "" = the rail has no node that could be asked, which its row says."""
        if chain not in self._lookers:
            try:
                self._lookers[chain] = self._opened(chain)
            except SchedulerError as error:
                self._lookers[chain] = str(error)
        return self._lookers[chain]

    def _opened(self, chain: str) -> Looker | str:
        facts = self.asked(chain)
        if facts is None:
            return "not checked: anchors.yaml has no entry that names a node of it"
        looker = rails.looker(facts)
        if looker is None:
            return ""
        looker.meet()
        return looker


def of_facts(facts: Facts) -> Online | None:
    """For the verb: `online` true, and `rails` with {rail, railName} by target; None = not asked for."""
    if facts.document.get("online") is not True:
        return None
    listed = facts.document.get("rails")
    entries = listed if isinstance(listed, Mapping) else {}

    def asked(target: str) -> Facts | None:
        entry = entries.get(target)
        return Facts({**facts.document, **entry, "target": target}, facts.environ) if entry else None

    return Online(asked)


def _fault(attestation: Document, seen: Seen | None) -> str:
    if seen is None:
        return "is not known to the node"
    if seen.depth == 0:
        return "is in no block"
    if seen.fault:
        return f"is in block {seen.block}, and {seen.fault}"
    return _elsewhere(attestation, seen) or _shallow(attestation, seen)


def _elsewhere(attestation: Document, seen: Seen) -> str:
    """A receipt from before its first block says 0."""
    told = (("block", attestation["block"], seen.block), ("block hash", attestation.get("blockHash"), seen.block_hash))
    for name, said, found in told:
        if said and said != found:
            return f"is in another block than the receipt says: {name} {found}, not {said}"
    if attestation["block"] and attestation["ts"] != seen.ts:
        return f"is of {seen.ts}, not {attestation['ts']}"
    return ""


def _shallow(attestation: Document, seen: Seen) -> str:
    need = attestation.get("need")
    wanted = need if type(need) is int else 1
    return f"has {seen.depth} of {wanted} confirmations" if seen.depth < wanted else ""
