"""The batch directory as the daemon sees it: every file parsed once, however many jobs ask."""

import os
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from vmsh_scheduler.domain.batch import BadBatch, Batch, Covers, describe, head, parse
from vmsh_scheduler.domain.trigger import Millis

FILE_LIMIT = 256 << 20
"""Bytes; larger files are bad batches."""
_HEAD = 16 << 10
_COARSE_NS = 50_000_000
"""Two changes closer than this may carry the same time stamp (kernel tick)."""
_YOUNG_NS = 2_000_000_000
"""A file changed this shortly before it was read may still be in writing."""
_WATCHED = 256
"""Bad and young files that are looked at again although the directory did not change."""
_RECENT = 256

Signature = tuple[int, int, int, int]
"""inode, size, mtime ns, ctime ns."""


class Seen(NamedTuple):
    """One file and what was in it when its signature was this."""

    what: Batch | BadBatch
    signature: Signature

    @property
    def changed(self) -> int:
        """ctime, ns."""
        return self.signature[3]


class Group(NamedTuple):
    """Batches of one namespace tag (super-batches left out), by order and by arrival."""

    by_order: tuple[Seen, ...] = ()
    orders: tuple[str, ...] = ()
    by_change: tuple[Seen, ...] = ()
    changes: tuple[int, ...] = ()

    @classmethod
    def of(cls, files: Iterable[tuple[str, Seen]]) -> "Group":
        """Of (order, file)."""
        ordered = sorted(files, key=lambda pair: pair[0])
        arrived = sorted((seen for _, seen in ordered), key=lambda seen: seen.changed)
        return cls(
            tuple(seen for _, seen in ordered),
            tuple(order for order, _ in ordered),
            tuple(arrived),
            tuple(seen.changed for seen in arrived),
        )

    def newer(self, order: str) -> tuple[Seen, ...]:
        return self.by_order[bisect_right(self.orders, order) :]

    def arrived_after(self, horizon: int) -> tuple[Seen, ...]:
        return self.by_change[bisect_right(self.changes, horizon) :]


class Listing(NamedTuple):
    """One scan; everything asked of it costs O(log n)."""

    changed: int = -1
    """mtime of the directory, ns; -1 = it is not there."""
    racy: bool = False
    """The directory changed so shortly before the scan that a later change may look the same."""
    files: Mapping[str, Seen] = {}
    groups: Mapping[str, Group] = {}
    watched: Mapping[str, Signature] = {}

    def fresh(self, directory: Path) -> bool:
        """A few stats, no listing."""
        if self.racy or _changed(directory) != self.changed:
            return False
        return all(signature_of(f"{directory}/{name}") == was for name, was in self.watched.items())

    @property
    def bad(self) -> list[Seen]:
        return [seen for seen in self.files.values() if isinstance(seen.what, BadBatch)]

    def newest(self, tags: Iterable[str]) -> Seen | None:
        last = [group.by_order[-1] for group in self._of(tags) if group.by_order]
        return max(last, key=lambda seen: order_of(seen), default=None)

    def pending(self, tags: Iterable[str], covers: Covers) -> list[Seen]:
        """What `covers` leaves out, in order: newer batches, and older ones whose file came later."""
        found: dict[str, Seen] = {}
        for group in self._of(tags):
            late = group.arrived_after(covers.horizon) if covers.horizon is not None else ()
            unseen = (seen for seen in late if seen.what.name not in covers.recent)
            found.update((order_of(seen), seen) for seen in (*group.newer(covers.order), *unseen))
        return [found[order] for order in sorted(found)]

    def covered(self, tags: Iterable[str], before: Covers) -> Covers:
        """After a run over everything pending now."""
        groups = [group for group in self._of(tags) if group.by_order]
        order = max([before.order, *(group.orders[-1] for group in groups)])
        newest = max((group.changes[-1] for group in groups), default=0)
        horizon = max(0, newest - _COARSE_NS)
        recent = tuple(seen.what.name for group in groups for seen in group.arrived_after(horizon))
        return Covers(order, horizon, recent) if len(recent) <= _RECENT else Covers(order, newest)

    def _of(self, tags: Iterable[str]) -> list[Group]:
        return [self.groups[tag] for tag in tags if tag in self.groups]


def order_of(seen: Seen) -> str:
    return seen.what.order if isinstance(seen.what, Batch) else ""


def scan(directory: Path, before: Listing, now: Millis) -> Listing:
    """Reads only files whose signature is new; OSError when the directory cannot be listed."""
    changed = _changed(directory)
    if changed < 0:
        return Listing()
    now_ns = now * 1_000_000
    files = {name: _seen(directory / name, before.files.get(name)) for name in _names(directory)}
    there = {name: seen for name, seen in files.items() if seen is not None}
    watched = [name for name, seen in there.items() if _unsettled(seen, now_ns)]
    return Listing(
        changed=changed,
        racy=abs(now_ns - changed) < _COARSE_NS,
        files=there,
        groups=_grouped(there.values()),
        watched={name: there[name].signature for name in watched[:_WATCHED]},
    )


def _names(directory: Path) -> list[str]:
    with os.scandir(directory) as entries:
        return [entry.name for entry in entries if entry.name.endswith(".json") and entry.name[0] != "."]


def _unsettled(seen: Seen, now_ns: int) -> bool:
    return isinstance(seen.what, BadBatch) or abs(now_ns - seen.signature[2]) < _YOUNG_NS


def _grouped(files: Iterable[Seen]) -> dict[str, Group]:
    tagged: dict[str, list[tuple[str, Seen]]] = {}
    for seen in files:
        if isinstance(seen.what, Batch) and not seen.what.combined:
            tagged.setdefault(seen.what.namespace, []).append((seen.what.order, seen))
    return {tag: Group.of(members) for tag, members in tagged.items()}


def _seen(path: Path, before: Seen | None) -> Seen | None:
    """None: gone meanwhile."""
    signature = signature_of(path)
    if signature is None:
        return None
    if before is not None and before.signature == signature:
        return before
    try:
        return Seen(_read(path), signature)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Seen(BadBatch(path.stem, error.strerror or str(error)), signature)


def _read(path: Path) -> Batch | BadBatch:
    """Our own batches tell everything in their first fields; any other file is read whole."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        beginning = file.read(_HEAD)
        document = head(beginning)
        if document is not None and _ends_well(handle):
            return describe(document, path.stem)
        rest = file.read(FILE_LIMIT)
    if len(rest) == FILE_LIMIT:
        return BadBatch(path.stem, f"larger than {FILE_LIMIT} bytes")
    return parse(beginning + rest, path.stem)


def _ends_well(handle: int) -> bool:
    size = os.fstat(handle).st_size
    return os.pread(handle, 5, max(0, size - 5)) == b"\n]\n}\n"


def _changed(directory: Path) -> int:
    try:
        return os.stat(directory).st_mtime_ns  # noqa: PTH116 - before every run, at a third of the price
    except FileNotFoundError:
        return -1


def signature_of(path: Path | str) -> Signature | None:
    """None: there is no such file."""
    try:
        found = os.stat(path)  # noqa: PTH116 - before every run, at a third of the price
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
