"""File systems that are made for a test: tiny ones, read-only ones, files that may not be changed."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def tmpfs(at: Path, options: str) -> Iterator[Path]:
    """Mounted at `at`, private to us; `options`: size=64k, nr_inodes=13."""
    at.mkdir(mode=0o700, parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"{options},mode=700", "none", str(at))
    try:
        yield at
    finally:
        _run("umount", "-l", str(at))


def remount(at: Path, options: str) -> None:
    _run("mount", "-o", f"remount,{options}", str(at))


@contextmanager
def immutable(*paths: Path) -> Iterator[None]:
    """chattr +i: not even root may write, rename or remove them."""
    try:
        for path in paths:
            _run("chattr", "+i", str(path))
        yield
    finally:
        for path in paths:
            _run("chattr", "-i", str(path))


def fill(directory: Path) -> Path:
    """A file that takes whatever room there is."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 512)
        except OSError:
            return filler


def cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def pass_time(seconds: float) -> None:
    """What is measured here is what does not happen in a minute; there is nothing to wait for."""
    time.sleep(seconds)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
