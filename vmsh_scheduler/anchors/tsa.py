"""`tsa`: time-stamping authorities stamp the batch's root; what they reply is checked before anything is recorded."""

import base64
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vmsh_scheduler.anchors import receipts, timestamp, token_check, tsa_http
from vmsh_scheduler.anchors.facts import Facts, now_s
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.rail_entry import Authority, tsa_rail
from vmsh_scheduler.anchors.subject import Subject, read_subject
from vmsh_scheduler.anchors.timestamp import Stamp
from vmsh_scheduler.anchors.trust import bundle
from vmsh_scheduler.domain.batch import Document, hash_bytes
from vmsh_scheduler.errors import SchedulerError

CLOCK_TOLERANCE_S = 300


@dataclass(frozen=True, slots=True)
class Stamped:
    """A token that was found sound, as it is recorded."""

    attestation: Document
    stamp: Stamp
    fresh: bool = True


class TooFew(SchedulerError):
    """Less authorities stamped than are needed; its exit code is that of the failure that may pass soonest."""

    code = "too_few_stamps"


def run(facts: Facts) -> Document:
    """The verb. A batch whose receipt holds a sound token of an authority already is not stamped by it again."""
    rail, subject = tsa_rail(facts), read_subject(facts)
    timestamp.library()
    stamped, failures = _ask_all(facts, rail.authorities, subject)
    _judge(stamped, failures, rail.need)
    covered = receipts.covered_by(subject.batch, subject.document, subject.members)
    warnings = [*subject.warnings, *(f"{name}: {error}" for name, error in failures)]
    whose = {"namespace": facts.namespace, "cadence": facts.cadence}
    for each in stamped:
        warnings += receipts.record(facts.root / "out", covered, each.attestation, **whose)
    return _result(stamped, [*warnings, *_clock_doubts(stamped)])


def _ask_all(
    facts: Facts, authorities: Sequence[Authority], subject: Subject
) -> tuple[list[Stamped], list[tuple[str, SchedulerError]]]:
    """Beside each other: a slow one costs its own time limit only."""
    known = _recorded(facts, subject)
    with ThreadPoolExecutor(len(authorities)) as pool:
        asked = [pool.submit(_stamped, authority, subject.batch.root, known) for authority in authorities]
        stamped, failures = [], []
        for authority, answer in zip(authorities, asked, strict=True):
            try:
                stamped.append(answer.result())
            except SchedulerError as error:
                failures.append((authority.name, error))
    return stamped, failures


def _recorded(facts: Facts, subject: Subject) -> dict[str, Document]:
    """By chain; a receipt that cannot be used is for `record` to put aside."""
    try:
        document = receipts.read(receipts.path_of(facts.root / "out", subject.batch.id))
    except (OSError, Invalid):
        return {}
    same = document["batchRoot"] == subject.batch.root
    return {each["chain"]: each for each in document["anchors"] if same and "via" not in each}


def _stamped(authority: Authority, root: str, known: dict[str, Document]) -> Stamped:
    trusted, chain = bundle(authority.trust_bundle), f"rfc3161:{authority.name}"
    if chain in known:
        try:
            return Stamped(known[chain], token_check.stamp_of(known[chain], root, trusted), fresh=False)
        except Invalid:
            pass  # `record` keeps what is there, and `verify` says what is wrong with it
    asked = timestamp.question(hash_bytes(root), authority.policy_oid)
    reply = tsa_http.post(authority, asked.body)
    stamp = timestamp.checked(reply, asked, trusted)
    return Stamped(_attestation(chain, authority, stamp, reply), stamp)


def _attestation(chain: str, authority: Authority, stamp: Stamp, reply: bytes) -> Document:
    """Spec vaultmesh section 6, but `tx` names the reply, so that a flipped bit anywhere in it shows."""
    return {
        "chain": chain,
        "tx": token_check.name_of(reply),
        "block": 0,
        "ts": stamp.gen_time,
        "sig": base64.b64encode(reply).decode(),
        "memo": f"tsaPolicyOID={authority.policy_oid}" if authority.policy_oid else "",
        "serial": f"{stamp.serial:x}",
    }


def _judge(stamped: Sequence[Stamped], failures: Sequence[tuple[str, SchedulerError]], need: int) -> None:
    """Raises unless `need` authorities that do not depend on each other stamped: neither key nor root in common."""
    apart = min(len({each.stamp.signer for each in stamped}), len({each.stamp.anchor for each in stamped}))
    if apart >= need:
        return
    if len(stamped) + len(failures) == 1:
        raise failures[0][1]
    said = "; ".join(f"{name}: {error}" for name, error in failures)
    if len(stamped) >= need:
        said = f"{len(stamped)} stamped, but they share a key or a root; {said}".rstrip("; ")
    error = TooFew(f"{apart} of {need} authorities: {said}")
    error.exit = max((failure.exit for _, failure in failures), key=_hope, default=Invalid.exit)
    raise error


def _hope(code: int) -> int:
    """What may pass by itself counts before what somebody has to mend."""
    return 1 if code in (69, 75) else 0


def _result(stamped: Sequence[Stamped], warnings: Sequence[str]) -> Document:
    """Without the tokens, which the receipts hold: the scheduler keeps this line in its state."""
    told = [{name: value for name, value in each.attestation.items() if name != "sig"} for each in stamped]
    result: Document = {"status": "ok", "attestation": told[0], "added": sum(each.fresh for each in stamped)}
    return {
        **result,
        **({"attestations": told} if len(told) > 1 else {}),
        **({"warnings": list(warnings)} if warnings else {}),
    }


def _clock_doubts(stamped: Sequence[Stamped]) -> list[str]:
    now = now_s()
    return [
        f"{each.attestation['chain']}: its clock and ours differ by {abs(now - each.stamp.gen_time)} s"
        for each in stamped
        if each.fresh and abs(now - each.stamp.gen_time) > CLOCK_TOLERANCE_S
    ]
