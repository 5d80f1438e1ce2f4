"""`python -m vmsh_scheduler.anchors VERB`: JSON on stdin, one JSON line on stdout, exit code by kind of failure."""

import importlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, TextIO

from vmsh_scheduler.anchors.facts import Facts, read_facts
from vmsh_scheduler.anchors.failures import for_verb
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
        return _failed(for_verb(error), out)
    if result.get("status") == "failed":  # words for people: all that is left of it in a log line
        _say(sys.stderr, str(result.get("message", "")))
    if (unsaid := _say(out, json.dumps(result))) is not None:
        _say(sys.stderr, f"the result cannot be said: {unsaid}")
        return unsaid.exit
    return int(result.pop("exit", Exit.OK))


def _told(facts: Facts, result: Document) -> Document:
    from vmsh_scheduler.anchors import hook

    told = hook.after(facts, result)
    return {**result, "warnings": [*result.get("warnings", ()), *told]} if told else result


def _failed(error: SchedulerError, out: TextIO) -> int:
    _say(sys.stderr, str(error))
    _say(out, json.dumps({**error.details, "status": "failed", "code": error.code, "message": str(error)}))
    return error.exit


def _say(stream: TextIO, line: str) -> SchedulerError | None:
    """Why it could not. Flushed here: of what is left to the interpreter's end a full disk makes exit code 120."""
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except OSError as error:
        _close(stream)
        return for_verb(error)
    return None


def _close(stream: TextIO) -> None:
    """What it still holds goes nowhere, or the interpreter would try once more."""
    with suppress(OSError, ValueError):
        ours, nowhere = stream.fileno(), os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, ours)
        os.close(nowhere)
        stream.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ, sys.stdin.buffer, sys.stdout))
