"""`python -m vmsh_scheduler.anchors VERB`: JSON on stdin, one JSON line on stdout, exit code by kind of failure."""

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import BinaryIO, TextIO

from vmsh_scheduler.anchors.facts import Facts, read_facts
from vmsh_scheduler.anchors.failures import of_os
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import Exit, SchedulerError

VERBS: Mapping[str, str] = {
    "seal": "vmsh_scheduler.anchors.sealing",
    "combine": "vmsh_scheduler.anchors.combine",
    "local": "vmsh_scheduler.anchors.local",
    "deploy": "vmsh_scheduler.anchors.pays:deploy",
    "evm": "vmsh_scheduler.anchors.pays:anchor",
    "btc": "vmsh_scheduler.anchors.pays:anchor",
    "ots": "vmsh_scheduler.anchors.ots",
    "probe": "vmsh_scheduler.anchors.pays:probe",
    "confirm": "vmsh_scheduler.anchors.pays:confirm",
    "tsa": "vmsh_scheduler.anchors.tsa",
    "verify": "vmsh_scheduler.anchors.verify",
    "proof": "vmsh_scheduler.anchors.proof",
}
"""Loaded by name (`module:function`, else its `run`), so that a verb pays only for its own imports."""


def main(argv: Sequence[str], environ: Mapping[str, str], stdin: BinaryIO, out: TextIO) -> int:
    """Exit code; the last line of `out` is the result, also of a failure."""
    if len(argv) != 1 or argv[0] not in VERBS:
        sys.stderr.write(f"usage: python -m vmsh_scheduler.anchors {'|'.join(VERBS)}\n")
        return Exit.USAGE
    try:
        facts = read_facts(stdin, environ)
        module, _, function = VERBS[argv[0]].partition(":")
        result = getattr(importlib.import_module(module), function or "run")(facts)
        if facts.document.get("on_anchor"):
            result = _told(facts, result)
    except SchedulerError as error:
        return _failed(error, out)
    except OSError as error:
        return _failed(of_os(error), out)
    if result.get("status") == "failed":  # words for people: all that is left of it in a log line
        sys.stderr.write(f"{result.get('message', '')}\n")
    out.write(json.dumps(result) + "\n")
    return int(result.pop("exit", Exit.OK))


def _told(facts: Facts, result: Document) -> Document:
    from vmsh_scheduler.anchors import hook

    told = hook.after(facts, result)
    return {**result, "warnings": [*result.get("warnings", ()), *told]} if told else result


def _failed(error: SchedulerError, out: TextIO) -> int:
    sys.stderr.write(f"{error}\n")
    told = {**error.details, "status": "failed", "code": error.code, "message": str(error)}
    out.write(json.dumps(told) + "\n")
    return error.exit


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stdin.buffer, sys.stdout))
