"""The few calls that a full or dying disk makes fail; the tests of those faults put their own in."""

import os
from collections.abc import Callable
from dataclasses import dataclass


def _rename(old: str, new: str, directory: int) -> None:
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)


@dataclass(frozen=True, slots=True)
class Disk:
    """The system calls that can fail on a bad disk, so that tests can make them."""

    write: Callable[[int, memoryview], int] = os.write
    truncate: Callable[[int, int], None] = os.ftruncate
    sync_data: Callable[[int], None] = os.fdatasync
    sync: Callable[[int], None] = os.fsync
    """Files and directories."""
    rename: Callable[[str, str, int], None] = _rename
    """Within the directory of a descriptor."""

    def write_all(self, fd: int, data: bytes) -> None:
        """A short write is no error to the kernel (a full disk begins with one), so only a loop is safe."""
        rest = memoryview(data)
        while rest:
            rest = rest[self.write(fd, rest) :]
