"""Power cuts for real: ext4 on a file. Its writer is stopped, the file is copied (what had reached the disk by then)
and the copy is mounted, as the machine would do it after the power came back."""

import filecmp
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.daemon import until

ROOT = Path(__file__).parents[2]
SIZE = 64 << 20
PER_LIFE = 12
"""Cuts before the writer is killed and started again: a start is worth cutting too."""
PAUSE_S = (0.02, 0.2)
Reader = Callable[[Path], int]


@dataclass
class Cuts:
    """What was found in the images; all but `images` and `changes` should stay empty."""

    images: int = 0
    changes: int = 0
    unreadable: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """How many acknowledged changes an image had lost."""

    @property
    def harm(self) -> int:
        return len(self.unreadable) + len(self.lost)

    def __str__(self) -> str:
        lost = f"{len(self.lost)} images lost up to {max(self.lost, default=0)} acknowledged changes"
        return f"{self.images} images, {self.changes:,} changes: {len(self.unreadable)} unreadable, {lost}"


@dataclass(frozen=True)
class Image:
    """A mounted file system in a file."""

    file: Path
    at: Path

    @contextmanager
    def cut(self) -> Iterator[Path]:
        """The power goes now: the mounted copy."""
        copy, at = self.file.with_suffix(".copy"), self.file.with_suffix(".cut")
        at.mkdir(exist_ok=True)
        shutil.copyfile(self.file, copy)
        while not filecmp.cmp(self.file, copy, shallow=False):
            shutil.copyfile(self.file, copy)  # the kernel wrote something back meanwhile: that is no moment
        with mounted(copy, at):
            yield at


@contextmanager
def mounted(file: Path, at: Path, options: str = "") -> Iterator[None]:
    subprocess.run(["mount", "-o", ",".join(filter(None, ("loop", options))), file, at], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", at], check=True)


@contextmanager
def image(root: Path, options: str) -> Iterator[Image]:
    made = Image(root / "image", root / "at")
    made.at.mkdir()
    with made.file.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", made.file], check=True)
    with mounted(made.file, made.at, options):
        yield made


@dataclass
class Writer:
    """A process of tests/support/writers.py, in the image, that tells beside it what was acknowledged."""

    process: "subprocess.Popen[bytes]"
    told: Path

    def acked(self) -> int:
        text = self.told.read_bytes() if self.told.exists() else b""
        return int(text or b"0")

    def stop(self) -> None:
        """Returns once no thread of it runs any more, the one in a system call included."""
        self.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{self.process.pid}/task")
        until(lambda: all(_state(task) == "T" for task in tasks.iterdir()), "every thread stopped")

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def _state(task: Path) -> str:
    return (task / "stat").read_text().rpartition(")")[2].split()[0]


@contextmanager
def writer(kind: str, made: Image) -> Iterator[Writer]:
    told = made.file.with_suffix(".acked")
    state = made.at / "state" / "scheduler.json"
    argv = [sys.executable, "-m", "tests.support.writers", kind, str(state), str(told)]
    started = Writer(subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL), told)
    before = started.acked()
    try:
        until(lambda: started.acked() > before or started.process.poll() is not None, "a first change")
        assert started.process.poll() is None, "the writer ended by itself"
        yield started
    finally:
        started.end()


def cut(root: Path, kind: str, images: int, options: str, reader: Reader) -> Cuts:
    """So many cuts of a writer at work, at random moments."""
    seen, dice = Cuts(), random.Random(options)
    with image(root, options) as made:
        while seen.images < images:
            with writer(kind, made) as working:
                for _ in range(min(PER_LIFE, images - seen.images)):
                    # The random moment is the fault itself.
                    time.sleep(dice.uniform(*PAUSE_S))
                    working.stop()
                    _look(made, working.acked(), reader, seen)
                    working.go_on()
    return seen


def _look(made: Image, acked: int, reader: Reader, seen: Cuts) -> None:
    seen.images += 1
    seen.changes = acked
    with made.cut() as at:
        try:
            (at / "state").stat()
            number = reader(at / "state")
        except (AssertionError, ValueError, OSError) as error:
            seen.unreadable.append(str(error))
            return
    if number < acked:
        seen.lost.append(acked - number)
