"""The verbs of the rails that pay: `evm` and `btc` anchor, `probe` asks whether a run did, `confirm` deepens."""

from vmsh_scheduler.anchors import confirm as deepening
from vmsh_scheduler.anchors import transact
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.rails import opened, unpaid
from vmsh_scheduler.domain.batch import Document


def anchor(facts: Facts) -> Document:
    """The target's scheme says which rail, whatever name the verb was called by."""
    rail = opened(facts)
    return transact.anchor(facts, rail.chain, rail.patience(facts))


def probe(facts: Facts) -> Document:
    own = unpaid(facts)
    if own is not None:
        told: Document = own.probe(facts)
        return told
    rail = opened(facts)
    return transact.probe(facts, rail.chain, rail.patience(facts))


def confirm(facts: Facts) -> Document:
    own = unpaid(facts)
    if own is not None:
        told: Document = own.confirm(facts)
        return told
    rail = opened(facts)
    return deepening.confirm(facts, rail.chain, deepening.Limits(rail.stuck_after_s, rail.alarm_after_s))
