"""Files that change while they are read: rewritten in place, or swapped as a kubelet does."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.sources.config_files import Watched, look
from vmsh_scheduler.sources.watch import SETTLE, ConfigWatch, Reading, Trouble


class Writer(threading.Thread):
    """Rewrites a file in place, over and over: truncated first, then in pieces of 512 bytes. Every so often it rests
    long enough for the file to be believed."""

    def __init__(self, path: Path, whole: Sequence[bytes], rewrites: int, rest_every: int = 25) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.whole = whole
        self.rewrites = rewrites
        self.rest_every = rest_every
        self.longest_s = 0.0
        """That the file was less than whole: how fast this thread really was on this machine."""

    def run(self) -> None:
        for number in range(self.rewrites):
            began = time.monotonic()
            self._rewrite(self.whole[number % len(self.whole)])
            self.longest_s = max(self.longest_s, time.monotonic() - began)
            if number % self.rest_every == self.rest_every - 1:
                time.sleep(2 * SETTLE / SECOND)

    def _rewrite(self, content: bytes) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
        for start in range(0, len(content), 512):
            os.write(fd, content[start : start + 512])
        os.close(fd)


@dataclass
class Polled:
    """What a watch handed out, and what a reader that believes every look would have."""

    looks: int = 0
    empty: int = 0
    partial: int = 0
    readings: int = 0
    wrong: list[int] = field(default_factory=list)
    """Sizes of readings that were not whole."""
    longest_s: float = 0.0

    def __str__(self) -> str:
        return (
            f"{self.looks} looks, {self.empty} of them empty and {self.partial} partial; "
            f"{self.readings} reloads, {len(self.wrong)} of them partial"
        )


def poll_half_written(directory: Path, rewrites: int) -> Polled:
    """Polls at up to 1 kHz while a file is rewritten in place."""
    path = directory / "namespaces.yaml"
    whole = [b"# %d\n" % number * 8_000 for number in (1, 2)]
    path.write_bytes(whole[1])
    watch = ConfigWatch([Watched("namespaces", path)])
    watch.read_now()
    seen, writer = Polled(), Writer(path, whole, rewrites)
    writer.start()
    while writer.is_alive():
        raw = look(watch.files).raw.get("namespaces", b"")
        seen.looks += 1
        seen.empty += not raw
        seen.partial += raw not in (b"", *whole)
        found = watch.poll(time.monotonic_ns() // 1_000_000)
        assert not isinstance(found, Trouble)
        if isinstance(found, Reading):
            seen.readings += 1
            seen.wrong += [len(found.raw["namespaces"])] if found.raw["namespaces"] not in whole else []
        time.sleep(0.001)
    seen.longest_s = writer.longest_s
    return seen


class ConfigMap:
    """Two files as a kubelet mounts them: links into `..data`, itself a link that is swapped by rename."""

    def __init__(self, directory: Path, write: Callable[[Path, int], None]) -> None:
        """`write` puts both files of a generation into a directory."""
        self.directory = directory
        self.generation = -1
        self._write = write
        self.swap()
        for name in ("namespaces.yaml", "agents.yaml"):
            (directory / name).symlink_to(f"..data/{name}")

    def swap(self) -> None:
        """To the next generation; the files of the last one are gone."""
        self.generation += 1
        fresh = self.directory / f"..gen{self.generation}"
        fresh.mkdir(parents=True)
        self._write(fresh, self.generation)
        link = self.directory / "..data_tmp"
        link.symlink_to(fresh.name)
        link.replace(self.directory / "..data")
        shutil.rmtree(self.directory / f"..gen{self.generation - 1}", ignore_errors=True)

    def files(self) -> list[Watched]:
        return [Watched(role, self.directory / f"{role}.yaml") for role in ("namespaces", "agents")]

    def texts(self) -> list[str]:
        """By path, one after the other: what a reader does that does not know of `..data`."""
        return [file.path.read_text() if file.path.exists() else "" for file in self.files()]


def numbered(directory: Path, generation: int) -> None:
    for name in ("namespaces.yaml", "agents.yaml"):
        (directory / name).write_text(f"generation: {generation}\n")


@dataclass
class Mixes:
    """Whole reads of two files, and how many of them were of two generations."""

    whole: int = 0
    mixed: int = 0
    naive: int = 0
    naive_mixed: int = 0

    def __str__(self) -> str:
        return f"{self.whole} reads: {self.mixed} mixed; by path {self.naive_mixed} of {self.naive} mixed"


def read_while_swapped(mount: ConfigMap, reads: int, patience_s: float) -> Mixes:
    """The map is swapped all the time; ends after `reads` whole ones."""
    stop, seen = threading.Event(), Mixes()

    def swap() -> None:
        while not stop.is_set():
            mount.swap()

    thread = threading.Thread(target=swap, daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + patience_s
        while (seen.whole < reads or seen.naive_mixed < 5) and time.monotonic() < deadline:
            _read_once(mount, seen)
    finally:
        stop.set()
        thread.join()
    return seen


def _read_once(mount: ConfigMap, seen: Mixes) -> None:
    found = look(mount.files()).raw
    if len(found) == 2:
        seen.whole += 1
        seen.mixed += found["namespaces"] != found["agents"]
    try:
        texts = mount.texts()
    except OSError:  # gone between a look and a read
        return
    if "" not in texts:
        seen.naive += 1
        seen.naive_mixed += texts[0] != texts[1]
