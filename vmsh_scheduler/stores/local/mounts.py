"""What file system a directory lies on, and whether what is kept there is as safe as on a local disk."""

import os
from pathlib import Path
from typing import NamedTuple

MOUNTS = Path("/proc/self/mountinfo")
_REMOTE = ("nfs", "fuse", "cifs", "smb", "9p", "virtiofs", "ceph", "vboxsf")
_PASSING = ("overlay",)


class Doubt(NamedTuple):
    """`text`: "" on a local disk, and where nothing can be found out; `grave`: promises may not hold there."""

    text: str = ""
    grave: bool = False


def doubt(fd: int) -> Doubt:
    """Of the directory `fd`."""
    try:
        table = MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Doubt()
    kind = file_system(os.fstat(fd).st_dev, table)
    if kind.startswith(_REMOTE):
        return Doubt(f"state directory is on {kind}: renames and locks are only sure on a local disk", grave=True)
    if kind.startswith(_PASSING):
        return Doubt(f"state directory is on {kind}: it mostly goes away with its container, keep it on a volume")
    return Doubt()


def file_system(device: int, table: str) -> str:
    """Type of the mount with this st_dev in a mountinfo table; "": it is not listed."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in table.splitlines():
        mount, _, kind = line.partition(" - ")
        if mount.split()[2:3] == [wanted]:
            return kind.partition(" ")[0]
    return ""
