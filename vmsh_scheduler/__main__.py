"""Entry point. `--version` answers without loading anything else."""

import gc
import os
import sys

from vmsh_scheduler import __version__


def main() -> None:
    """Ends the process with the exit code of docs/exit-codes.md."""
    if sys.argv[1:] == ["--version"]:
        print(f"vmsh-scheduler {__version__}")  # noqa: T201  the whole job of this branch
        return
    # looking for garbage takes a tenth of the time that loading takes; the daemon turns it on when it has loaded
    gc.disable()
    if os.getpid() == 1:
        import signal

        # process 1 ignores signals without a handler: a container must be stoppable while it still loads
        signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
    from vmsh_scheduler.cli import leave, start

    leave(start())


if __name__ == "__main__":
    main()
