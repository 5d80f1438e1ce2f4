"""The verbs of the rails that pay: `evm` and `btc` anchor, `probe` asks whether a run did, `confirm` deepens,
`deploy` puts a contract there."""

from vmsh_scheduler.anchors import confirm as deepening
from vmsh_scheduler.anchors import transact
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.rails import deployer, opened, unpaid
from vmsh_scheduler.domain.batch import Document


def anchor(facts: Facts) -> Document:
    """The target's scheme says which rail, whatever name the verb was called by."""
    rail = opened(facts)
    return transact.anchor(facts, rail.chain, rail.patience(facts))


def probe(facts: Facts) -> Document:
    if (own := unpaid(facts)) is not None:
        return own.probe(facts)
    rail = opened(facts)
    return transact.probe(facts, rail.chain, rail.patience(facts))


def confirm(facts: Facts) -> Document:
    if (own := unpaid(facts)) is not None:
        return own.confirm(facts)
    rail = opened(facts)
    return deepening.confirm(facts, rail.chain, deepening.Limits(rail.stuck_after_s))


def deploy(facts: Facts) -> Document:
    return deployer(facts).run(facts)
