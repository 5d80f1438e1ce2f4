"""Targets whose anchors take their time to be final: one job each that looks again at all that is not."""

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.batch import slug
from vmsh_scheduler.domain.job import Job, Policy, Subject
from vmsh_scheduler.domain.retry import PhiBackoff
from vmsh_scheduler.domain.trigger import MINUTE, SECOND, Interval, stable_phase
from vmsh_scheduler.sources.compiled import ANCHORS, Rail, Wanted, directory, revision, text_of, with_python

TWO_PHASED = ("eip155", "btc", "ots")
PREFIX = "_anchors/"
EVERY = MINUTE
TIMEOUT = 300 * SECOND


def confirming(target: str, rail: Rail, wanted: Wanted) -> Job:
    """Runs while something is open at the target; the book says (spec vaultmesh section 19: a pass of its own)."""
    identity = PREFIX + target
    trigger = Interval(EVERY, phase=stable_phase(identity, EVERY))
    root = str(wanted.root)
    action = Command(
        argv=with_python((*ANCHORS, "confirm")),
        payload={"root": root, "target": target, **rail.told},
        env={"VMSH_ROOT": root},
        pass_env=tuple(dict.fromkeys((*wanted.pass_env, *rail.variables))),
        cwd=directory(wanted.root),
    )
    retry = PhiBackoff(base_s=float(wanted.base_backoff), cap=wanted.max_backoff)
    policy = Policy(retry=retry, timeout=TIMEOUT, misfire_grace=EVERY)
    subject = Subject("open", "", str(wanted.root / "out" / "submissions" / slug(target)), target=target, reanchor=True)
    return Job(
        id=identity,
        name=identity,
        lane=identity,
        trigger=trigger,
        action=action,
        policy=policy,
        revision=revision(text_of(trigger), text_of(action), text_of(policy), text_of(subject)),
        subject=subject,
        labels={"confirms": target},
    )
