"""A child that records an anchor and is killed at one of its writes."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.daemon import UNMEASURED
from vmsh_scheduler.anchors import disk, receipts
from vmsh_scheduler.domain.batch import Batch, hash_text

WRITES = ("the intent", "the receipt of the batch", "the .receipt", "the row", "the root")
"""In this order, by `record` of one batch."""


def batch(number: int) -> Batch:
    return Batch(f"170000000{number}", hash_text(bytes([number]) * 32), 0, f"170000000{number}", namespace="demo:files")


def attestation(number: int, chain: str = "rfc3161:tsa") -> dict[str, Any]:
    return {"chain": chain, "tx": f"tx{number}", "block": 0, "ts": 1_700_000_000 + number, "memo": ""}


def record(root: Path, number: int, *, cadence: str = "cold", **more: object) -> list[str]:
    """In this process; the warnings."""
    told = {**attestation(number), **more}
    return receipts.record(
        root / "out", [receipts.Covered(batch(number))], told, namespace="demo:files", cadence=cadence
    )


def killed(root: Path, number: int, write: int, *, after: bool) -> None:
    """Of batch `number`, before or after one of WRITES."""
    words = [str(root), str(number), str(write), "after" if after else "before"]
    argv = [sys.executable, "-m", "tests.support.remembering", *words]
    done = subprocess.run(argv, env={**os.environ, **UNMEASURED}, check=False)
    assert done.returncode == -signal.SIGKILL, done.returncode


def _deadly(write: int, *, after: bool) -> None:
    seen = 0

    def deadly(act: Callable[..., None]) -> Callable[..., None]:
        def acted(*arguments: Any, **named: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == write + 1 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            act(*arguments, **named)
            if seen == write + 1:
                os.kill(os.getpid(), signal.SIGKILL)

        return acted

    class Deadly(sqlite3.Connection):
        """Dies at its commit."""

        commit = deadly(sqlite3.Connection.commit)

    vars(sqlite3)["connect"] = partial(sqlite3.connect, factory=Deadly)
    vars(disk)["replace"] = deadly(disk.replace)


if __name__ == "__main__":
    _deadly(int(sys.argv[3]), after=sys.argv[4] == "after")
    record(Path(sys.argv[1]), int(sys.argv[2]))
