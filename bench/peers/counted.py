"""Our own daemon with its syncs counted: appends a byte per fsync or fdatasync to argv[1]. argv: file arguments...

SQLite's own are not seen: they belong to the journal, which may be late (decision 17 counts the log's)."""

import os
import sys
from collections.abc import Callable
from typing import Any

Sync = Callable[[Any], None]


def main() -> None:
    handle = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def counted(sync: Sync) -> Sync:
        def call(fd: Any) -> None:
            os.write(handle, b".")
            sync(fd)

        return call

    os.fsync, os.fdatasync = counted(os.fsync), counted(os.fdatasync)
    del sys.argv[1]
    from vmsh_scheduler.__main__ import main as daemon  # only now: it takes the two functions when it is loaded

    daemon()


if __name__ == "__main__":
    main()
