"""A daemon of a user of its own, who may have no more processes and threads than a test allows. Needs root."""

import os
import subprocess
from dataclasses import dataclass

from tests.support.daemon import COMMAND, Daemon
from tests.support.faults import Site

PLENTY = 1_000
FIRST_UID = 61_000
READS_ALL = "-all,+dac_read_search"
"""The one right that is left: the interpreter may lie in somebody's home."""


@dataclass(frozen=True, slots=True)
class User:
    """Nobody else has this uid, so all processes that the kernel counts are the daemon's."""

    uid: int

    @property
    def become(self) -> tuple[str, ...]:
        rights = (f"--{kind}={READS_ALL}" for kind in ("inh-caps", "ambient-caps", "bounding-set"))
        return ("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", *rights)

    def limit(self, daemon: Daemon, processes: int) -> None:
        """From now on; what runs already is not touched."""
        subprocess.run([*self.become, "prlimit", f"--pid={daemon.pid}", f"--nproc={processes}:"], check=True)


def owned(site: Site) -> User:
    """The place is this user's, and so are its daemons from now on."""
    user = User(FIRST_UID + os.getpid() % 4_000)
    root = site.place.root
    for path in (root, *root.rglob("*")):
        os.chown(path, user.uid, user.uid)
    site.place.command = (*user.become, COMMAND)
    return user
