"""Agents by the hundred and by the thousand, and what the daemon that wakes them costs."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from tests.support.daemon import Daemon, Place

NONE = "namespaces: {}\n"


def agents(count: int, every_ms: int, command: Sequence[str] = ("/bin/true",)) -> str:
    """agents.yaml; commands are started without a run record."""
    callback = json.dumps({"command": list(command)})
    rows = (
        f"  - {{agentId: a{number}, userId: u, walletAddress: 'kaspa:q{number}', cycleIntervalMs: {every_ms}, "
        f"callback: {callback}}}\n"
        for number in range(count)
    )
    return "agents:\n" + "".join(rows) if count else "agents: []\n"


def wake(place: Place, count: int, every_ms: int, command: Sequence[str] = ("/bin/true",), scheduler: str = "") -> None:
    """Configured: nothing but these agents."""
    place.configure(NONE, agents=agents(count, every_ms, command), scheduler=scheduler)


def runs(daemon: Daemon) -> int:
    """Ended so far, however they ended."""
    return int(sum(value for (name, _), value in daemon.samples().items() if name == "vmsh_runs_total"))


def cpu_s(pid: int) -> float:
    """Of the process so far, its children left out."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
