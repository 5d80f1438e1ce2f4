"""Processes that prepare themselves, name their threads, and wait for a word before the part that is to be traced.

`python -m tests.support.gated KIND ...`: one line of JSON on stdout, thread name -> id, then a line on stdin."""

import asyncio
import json
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from tests.support.writers import NAIVE, PAD, Acked, change, opened, teller
from vmsh_scheduler.stores.local.disk import Disk
from vmsh_scheduler.stores.local.store import LocalStore

FEW = 3
NEARLY_FULL = (4 << 20) - 2 * PAD
"""A log of this size is followed by another one soon."""


def gate() -> None:
    threads = {thread.name: thread.native_id for thread in threading.enumerate()}
    print(json.dumps(threads), flush=True)  # noqa: T201 - the answer to whoever traces us
    sys.stdin.readline()


async def store(state: Path, tell: Acked) -> None:
    """Changes, snapshots, a log that is full, the journal, an end and a start."""
    living = opened(state)
    await living.leases.acquire("scheduler")
    await change(living, FEW, tell)
    while _log_size(state) < NEARLY_FULL:
        await change(living, 1, tell, PAD)
    await living.states.save()
    await _journaled(living)
    await asyncio.to_thread(lambda: None)
    gate()
    for _ in range(2):
        await change(living, FEW, tell, PAD)
        await living.states.save()
        await _journaled(living)
    await living.close()
    living = opened(state)
    await living.leases.acquire("scheduler")
    await change(living, FEW, tell)
    await living.close()


def _log_size(state: Path) -> int:
    newest = max(state.parent.glob("*.wal"), key=lambda path: int(path.suffixes[-2][1:]))
    return newest.stat().st_size


async def _journaled(living: LocalStore) -> None:
    """The journal's thread has taken what there is."""
    while living.journal.taken != living.states.synced:  # noqa: ASYNC110 - another thread, and SQLite, decide it
        await asyncio.sleep(0.01)


def naive(kind: str, state: Path, tell: Acked) -> None:
    NAIVE[kind](state, FEW, tell, Disk())
    gate()
    NAIVE[kind](state, FEW, tell, Disk())


def tick() -> None:
    """One tick, so that everything is loaded; another one, when the next slot is due, behind the gate."""
    from vmsh_scheduler.cli import start

    for wait in (False, True):
        if wait:
            gate()
        sys.argv = ["vmsh-scheduler", "tick"]
        code = _ended(start)
        if not wait and code:
            sys.exit(code)
    sys.exit(code)


def _ended(start: Callable[[], int]) -> int:
    try:
        return start()
    except SystemExit as end:
        return int(end.code or 0)


def main(kind: str, *rest: str) -> None:
    if kind == "tick":
        tick()
    elif kind == "store":
        asyncio.run(store(Path(rest[0]), teller(rest[1])))
    else:
        naive(kind, Path(rest[0]), teller(rest[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
