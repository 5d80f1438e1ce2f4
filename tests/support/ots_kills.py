"""`python -m tests.support.ots_kills`: an anchor verb that is killed at every one of its steps, and comes again.

stdin: {verb, request}. Forks, so that imports are paid for once; each child dies at its own step: before and after each
file that is replaced, before and after each answer of a calendar. One JSON line on stdout for each step: what had been
done when it died, and what the verb said when it came again. Requests are told apart by `batch`: {"step": n} is filled
in by the caller, one request per step."""

import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from vmsh_scheduler.anchors import disk, fetch, ots, ots_confirm, ots_proof, pays
from vmsh_scheduler.anchors.__main__ import main

IMPORTED = (ots, ots_confirm, pays, ots_proof.commitment(b"", b""))
"""Once, before the first fork: every child would spend most of its time on it."""


class Steps:
    """Counts, and kills this process at the one step that is asked for."""

    def __init__(self, deadly: int) -> None:
        self.deadly = deadly
        self.count = 0
        self.alone = threading.Lock()

    def at(self, name: str) -> None:
        with self.alone:
            if self.count == self.deadly:
                os.write(1, f"{json.dumps({'died': name})}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            self.count += 1

    def around(self, name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def outer(*positional: Any, **named: Any) -> Any:
            self.at(f"before {name}")
            result = inner(*positional, **named)
            self.at(f"after {name}")
            return result

        return outer


def once(verb: str, request: object, deadly: int) -> None:
    """In a child of its own; says nothing when it lives through."""
    steps = Steps(deadly)
    disk.replace = steps.around("a file", disk.replace)
    fetch.fetch = steps.around("an answer", fetch.fetch)
    main([verb], {}, io.BytesIO(json.dumps(request).encode()), io.StringIO())


def again(verb: str, request: object) -> None:
    out = io.StringIO()
    code = main([verb], {}, io.BytesIO(json.dumps(request).encode()), out)
    sys.stdout.write(json.dumps({"code": code, **json.loads(out.getvalue().splitlines()[-1])}) + "\n")
    sys.stdout.flush()


def forked(work: Callable[[], None]) -> bool:
    """Was it killed?"""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


if __name__ == "__main__":
    told = json.load(sys.stdin)
    for deadly, request in enumerate(told["requests"]):
        if not forked(lambda request=request, deadly=deadly: once(told["verb"], request, deadly)):  # type: ignore[misc]  # mypy cannot infer a lambda's defaults
            break
        forked(lambda request=request: again(told["verb"], request))  # type: ignore[misc]  # as above
