"""What most tests start in place of the installed command is the same to whoever looks: see tests/support/warm.py."""

import os
import re
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.daemon import UNMEASURED, Daemon, Place, until
from tests.support.stubs import cadences
from tests.support.warm import Forked, source

HOURLY = cadences(fast="every: 1h")
SIGNALS = ("SigBlk", "SigIgn", "SigCgt", "Umask", "NoNewPrivs", "Threads")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--version"], 0),
        (["--help"], 0),
        (["nonsense"], 2),
        (["validate-config", "--json"], 0),
        (["why", "ns/other"], 1),
        (["pause", "ns/fast", "--note", "é"], 0),
    ],
)
def test_a_command_says_the_same(place: Place, words: list[str], code: int) -> None:
    place.configure(HOURLY)
    assert source().is_for(place.env(UNMEASURED))
    installed, forked = place.cli(*words), place.cli(*words)
    assert installed.code == code
    assert forked == installed


def test_a_daemon_is_in_the_same_surroundings(tmp_path: Path) -> None:
    with closing(Place(tmp_path / "installed")) as first, closing(Place(tmp_path / "forked")) as second:
        for place in (first, second):
            place.configure(HOURLY)
        installed, forked = first.daemon().ready(), second.daemon().ready()
        assert (type(installed.process), type(forked.process)) == (subprocess.Popen, Forked)
        until(lambda: surroundings(forked) == surroundings(installed), "the same surroundings, once both are at rest")
        installed.stop()
        forked.stop()


def surroundings(daemon: Daemon) -> dict[str, object]:
    proc = Path(f"/proc/{daemon.pid}")
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    root = str(daemon.place.root)
    opened = [str(fd.readlink()).removeprefix(root) for fd in (proc / "fd").iterdir()]
    return {
        "leads its session": os.getsid(daemon.pid) == os.getpgid(daemon.pid) == daemon.pid,
        "cwd": str((proc / "cwd").readlink()).removeprefix(root),
        "open": Counter(re.sub(r"\d+", "N", name) for name in opened if "/state" not in name),
        "limits": (proc / "limits").read_text(),
        **{name: status[name] for name in SIGNALS},
    }
