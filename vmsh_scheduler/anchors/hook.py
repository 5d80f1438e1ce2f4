"""`on_anchor`: a namespace's own command, told of every anchor of ours that succeeded.

It runs inside the run that anchored: once more when that run is repeated, and never in place of its result."""

import json
import os
import subprocess
from collections.abc import Mapping

from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.domain.batch import Document

PATIENCE_S = 30.0
_STDERR = 2
_TOLD = ("namespace", "cadence", "target", "idempotency_key", "batch", "root")
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR")
"""Never the keys and credentials that a rail was given."""


def after(facts: Facts, result: Document) -> list[str]:
    """Runs it if there is one and `result` is an anchor; what went wrong is a warning, the anchor stands."""
    argv = facts.texts("on_anchor")
    if not argv or "attestation" not in result:
        return []
    about = {name: facts.document[name] for name in _TOLD if name in facts.document}
    return [said for one in (*result.get("also", ()), result) for said in _told(facts, argv, {**about, **_news(one)})]


def _news(result: Document) -> Document:
    """`batch` where it is another one than was asked for."""
    return {name: result[name] for name in ("batch", "attestation", "attestations", "phase") if name in result}


def _told(facts: Facts, argv: list[str], told: Document) -> list[str]:
    try:
        # its output goes to our stderr: the last line of stdout is the result
        done = subprocess.run(
            argv,
            input=json.dumps(told).encode() + b"\n",
            stdout=_STDERR,
            env=_environment(facts),
            timeout=PATIENCE_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [f"on_anchor: {argv[0]} was not done within {PATIENCE_S:g} s"]
    except OSError as error:
        return [f"on_anchor: {argv[0]}: {error.strerror or error}"]
    return [f"on_anchor: {argv[0]} ended with {done.returncode}"] if done.returncode else []


def _environment(facts: Facts) -> Mapping[str, str]:
    given = facts.environ or os.environ
    kept = {name: given[name] for name in _PASSED if name in given}
    return {"PATH": os.defpath, **kept, **{f"VMSH_{name.upper()}": facts.text(name) for name in _TOLD[:3]}}
