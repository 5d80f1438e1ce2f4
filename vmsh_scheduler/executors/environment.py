"""What a command is told: its environment and the JSON object on its stdin."""

import json
import os
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quote

from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.remembered import Remembered
from vmsh_scheduler.domain.run import Found, Run
from vmsh_scheduler.domain.trigger import Millis

_USUAL = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TZ",
    "TMPDIR",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
KILL_SWITCH = "ANCHOR_WRITE_ENABLED"
"""While it is 0 nothing is started; but a probe still asks what became of a run, and must not pay either."""
ALLOWED = frozenset((*_USUAL, KILL_SWITCH))
"""Passed on from the daemon's environment, besides LC_* and a command's own `pass_env`."""

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC without saying so: formatting it is three times as fast
_encode = json.JSONEncoder(separators=(",", ":")).encode
_FACTS = {"job", "run_id", "idempotency_key", "slot", "slot_ms", "attempt", "cause", "fence", "deadline"}
_FACTS |= {"previous_outcome", "batch"}
"""Names that a payload cannot take."""
_LABELS = (("namespace", "VMSH_NAMESPACE"), ("cadence", "VMSH_CADENCE"), ("target", "VMSH_TARGET"))


def rfc3339(instant: Millis) -> str:
    """UTC, three decimals, Z; an instant no calendar has (a poisoned clock) stays a plain number."""
    seconds, millis = divmod(instant, 1000)
    second = _second(seconds)
    return f"{second}.{millis:03d}Z" if second else str(instant)


@lru_cache(64)
def _second(seconds: int) -> str:
    """A herd shares its slot and often its deadline. "" where no calendar goes."""
    try:
        return (_EPOCH + timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        return ""


def inherited(environ: Mapping[str, str]) -> dict[str, str]:
    """The allow-listed part; PATH is always there."""
    kept = {name: value for name, value in environ.items() if name in ALLOWED or name.startswith("LC_")}
    kept.setdefault("PATH", os.defpath)
    return kept


def lasting(base: Mapping[str, str], environ: Mapping[str, str], command: Command, job: Job) -> dict[str, str]:
    """What all runs of a job are told alike: `base` < pass_env < the job's labels < the command's env."""
    env = dict(base)
    for name in command.pass_env:
        if name in environ:
            env[name] = environ[name]
    for label, name in _LABELS:
        if label in job.labels:
            env[name] = job.labels[label]
    env.update(command.env)
    return env


def facts_of(run: Run) -> dict[str, str]:
    """What only this run is told; wins over everything."""
    facts = {
        "VMSH_RUN_ID": run.id,
        "VMSH_IDEMPOTENCY_KEY": run.key,
        "VMSH_SLOT": rfc3339(run.slot),
        "VMSH_ATTEMPT": str(run.attempt),
        "VMSH_FENCE_TOKEN": str(run.fence),
        "VMSH_DEADLINE": rfc3339(run.deadline),
        "VMSH_PREVIOUS_OUTCOME": run.previous,
    }
    if run.found is not None:
        facts["VMSH_BATCH_ID"] = run.found.id
        facts["VMSH_BATCH_ROOT"] = run.found.digest
        file = run.found.details.get("file")
        if isinstance(file, str):
            facts["VMSH_BATCH_FILE"] = file
    return facts


def stdin_json(command: Command, run: Run, facts: Mapping[str, str]) -> bytes:
    """One line of ASCII; the facts of the run (`facts_of`) win over the payload's keys."""
    own = {name: value for name, value in command.payload.items() if name not in _FACTS}
    head = _encode(own)[1:-1] + "," if own else ""
    batch = "" if run.found is None else f',"batch":{_batch_text(run.found)}'
    # by hand: every run passes here, and a dictionary made and encoded takes three times as long
    line = (
        f'{{{head}"job":{quote(run.job_id)},"run_id":{quote(run.id)},"idempotency_key":{quote(run.key)},'
        f'"slot":"{facts["VMSH_SLOT"]}","slot_ms":{run.slot},"attempt":{run.attempt},"cause":"{run.cause.value}",'
        f'"fence":{run.fence},"deadline":"{facts["VMSH_DEADLINE"]}","previous_outcome":{quote(run.previous)}{batch}}}\n'
    )
    return line.encode("ascii")


@Remembered
def _batch_text(found: Found) -> str:
    return _encode({**found.details, "id": found.id, "root": found.digest})
