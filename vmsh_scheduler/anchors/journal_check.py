"""Sealed heads of the journal against the journal that is there."""

from collections.abc import Iterator, Sequence

from vmsh_scheduler.anchors.evidence import Evidence, Loaded
from vmsh_scheduler.anchors.journal import PRUNED
from vmsh_scheduler.anchors.report import Row
from vmsh_scheduler.anchors.sealing import sealed_heads
from vmsh_scheduler.domain.batch import Document, chain_leaf, is_hash
from vmsh_scheduler.errors import SchedulerError

_NAMED = 5
_MOST = 2**63 - 1


def leaves_of(document: Document) -> list[str] | None:
    """What its `heads` give; None: they are no heads."""
    try:
        if not all(_is_head(head) for head in document["heads"]):
            return None
        return [chain_leaf(head["job"], head["seq"], head["head"]) for head in document["heads"]]
    except (KeyError, TypeError, ValueError):
        return None


def _is_head(head: Document) -> bool:
    job, seq = head["job"], head["seq"]
    return isinstance(job, str) and type(seq) is int and 0 <= seq <= _MOST and is_hash(head["head"]) and len(head) == 3


def check(evidence: Evidence, loaded: Loaded) -> Iterator[Row]:
    """One row for each chain that is another one now, one for all that retention shortened, one for the rest."""
    sealed, path = sealed_heads(loaded.document), str(loaded.document.get("journal"))
    if not sealed:
        return
    identity = loaded.batch.id
    try:
        verdicts = evidence.chains(path).judge(sealed)
    except (OSError, SchedulerError) as error:
        yield Row(identity, "journal", False, str(error))
        return
    for head, verdict in zip(sealed, verdicts, strict=True):
        if verdict not in ("", PRUNED):
            yield Row(_name(head), "journal", False, f"{verdict} (batch {identity})")
    if pruned := [_name(head) for head, verdict in zip(sealed, verdicts, strict=True) if verdict == PRUNED]:
        yield Row(identity, "pruned", True, _cannot(pruned, len(sealed)))
    same = verdicts.count("")
    yield Row(identity, "journal", True, f"{same} of {len(sealed)} heads are in {path} as sealed")


def _cannot(jobs: Sequence[str], total: int) -> str:
    more = f" and {len(jobs) - _NAMED} more" if len(jobs) > _NAMED else ""
    return f"{len(jobs)} of {total} heads cannot be compared, their rows were pruned: {', '.join(jobs[:_NAMED])}{more}"


def _name(head: Document) -> str:
    return str(head["job"]) or "the program's own notes"
