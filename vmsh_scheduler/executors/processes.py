"""Looking through /proc: who belongs to a session, who escaped from one, and whose zombies are left to us."""

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

from vmsh_scheduler.domain.trigger import SECOND, Millis

_STARTED = 19
"""Where `stat_fields` has the start."""


def processes() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def stat_fields(pid: int) -> list[bytes]:
    """/proc/<pid>/stat from the state on: state, ppid, pgrp, session, ...; [] when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read(1024).rpartition(b")")[2].split()
    except OSError:
        return []


def age(pid: int, elapsed: Millis) -> Millis | None:
    """How long the process has lived, times of sleep of the machine included; `elapsed`: since boot (CLOCK_BOOTTIME).

    None: it is gone. The start is field 22 of proc_pid_stat(5), in clock ticks."""
    found = stat_fields(pid)
    if len(found) <= _STARTED:
        return None
    return max(0, elapsed - int(found[_STARTED]) * SECOND // os.sysconf("SC_CLK_TCK"))


def members(session: int) -> list[int]:
    """Living processes whose group and session are `session`."""
    wanted = [str(session).encode()] * 2
    return [pid for pid in processes() if (found := stat_fields(pid)) and found[2:4] == wanted and found[0] != b"Z"]


def marked(run_id: str, key: str) -> list[int]:
    """Living processes that carry the run in their environment: escapees from its session."""
    marks = {b"VMSH_RUN_ID=" + os.fsencode(run_id), b"VMSH_IDEMPOTENCY_KEY=" + os.fsencode(key)}
    return [pid for pid in processes() if marks <= _environ(pid)]


def _environ(pid: int) -> set[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return set(file.read(1 << 20).split(b"\0"))
    except OSError:
        return set()


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def reap_orphans(live: frozenset[int]) -> int:
    """As pid 1: collect zombies that were handed to us, never those somebody here waits for; how many.

    Ours (`live`) are waited for by their own watchers; other parts' children share our session."""
    me = os.getpid()
    session = str(os.getsid(0)).encode()
    reaped = 0
    for pid in processes():
        found = stat_fields(pid)
        if pid in live or not found or found[0] != b"Z" or int(found[1]) != me or found[3] == session:
            continue
        with contextlib.suppress(ChildProcessError):
            reaped += os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG) is not None
    return reaped
