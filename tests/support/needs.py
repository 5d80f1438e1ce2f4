"""What a test needs beyond Python: a machine without it skips the test, and says so in words that are counted."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path


def _root() -> bool:
    return os.geteuid() == 0


def _mounts() -> bool:
    """Root of a container is often not allowed to mount: only trying tells."""
    if not _root() or not shutil.which("mount"):
        return False
    with tempfile.TemporaryDirectory() as directory:
        mounted = _quiet("mount", "-t", "tmpfs", "-o", "size=64k", "none", directory)
        return mounted and _quiet("umount", directory)


def _loop_images() -> bool:
    """A file as a disk: ext4 on a loop device."""
    if not _mounts() or not shutil.which("mkfs.ext4"):
        return False
    with tempfile.TemporaryDirectory() as directory:
        image, at = Path(directory, "image"), Path(directory, "at")
        at.mkdir()
        with image.open("wb") as file:
            file.truncate(8 << 20)
        made = _quiet("mkfs.ext4", "-q", "-F", str(image)) and _quiet("mount", "-o", "loop", str(image), str(at))
        return made and _quiet("umount", str(at))


def _immutable_files() -> bool:
    with tempfile.TemporaryDirectory() as directory:
        return _root() and _quiet("chattr", "+i", directory) and _quiet("chattr", "-i", directory)


def _strace() -> bool:
    return bool(shutil.which("strace")) and _quiet("strace", "-e", "inject=fsync:error=EIO", "true")


def _quiet(*argv: str) -> bool:
    return bool(shutil.which(argv[0])) and subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _anvil() -> bool:
    from tests.support.evm import find_anvil

    found = find_anvil()
    return found is not None and _quiet(found, "--version")


CAPABILITIES: Mapping[str, Callable[[], bool]] = {
    "root": _root,
    "another user than root": lambda: not _root(),
    "mounts": _mounts,
    "loop images": _loop_images,
    "immutable files": _immutable_files,
    "strace": _strace,
    "bitcoind": lambda: bool(os.environ.get("VMSH_TEST_BITCOIND") or shutil.which("bitcoind")),
    "gcc": lambda: bool(shutil.which("gcc")),
    "pid namespaces": lambda: _root() and _quiet("unshare", "-p", "-f", "true"),
    "setpriv": lambda: _root() and bool(shutil.which("setpriv")),
    "systemd-analyze": lambda: bool(shutil.which("systemd-analyze")),
    "openssl": lambda: _quiet("openssl", "ts", "-help"),
    "linux": lambda: sys.platform == "linux",
    "anvil": _anvil,
}


@cache
def has(capability: str) -> bool:
    """Tried once a process. `capability`: a key of CAPABILITIES."""
    return CAPABILITIES[capability]()


def missing(needs: tuple[str, ...]) -> list[str]:
    return [need for need in needs if not has(need)]
