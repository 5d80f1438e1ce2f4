"""Finds what an anchor run is about: the batches of its namespace that no successful run of the job covered yet."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vmsh_scheduler.domain.batch import OPEN_MARKS, Batch, Covers, is_hash, is_id
from vmsh_scheduler.domain.events import Trouble
from vmsh_scheduler.domain.job import Job, Subject
from vmsh_scheduler.domain.run import Found, Nothing
from vmsh_scheduler.domain.state import JobState
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Clock, Observer
from vmsh_scheduler.sources.batch_files import Listing, Seen, Signature, scan

Document = dict[str, object]
Tool = Callable[[str, Document], Awaitable[Mapping[str, object]]]
"""Runs `python -m vmsh_scheduler.anchors VERB` with a document on stdin; its last line of stdout."""

Choice = tuple[Subject, str]
"""What decides what is found in a listing: the subject, and what the job's last success covered."""

_NAMED = 20
"""Batch ids listed in a run's details."""
_TOLD = 10_000
_CHOSEN = 20_000
"""Remembered choices of one listing."""


class ToolFailed(Exception):
    """A verb said no; the message is for people."""


@dataclass(slots=True)
class _Directory:
    """One batch directory; all jobs that look into it share its listing."""

    path: Path
    listing: Listing = field(default_factory=Listing)
    begun: int = 0
    """Scans begun; `done` = number of the last one that succeeded."""
    done: int = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    told: dict[str, Signature] = field(default_factory=dict)
    """Bad files that were reported, in the state they were in."""
    chosen: dict[Choice, Found] = field(default_factory=dict)
    """What was found in the present listing."""


class BatchSubjects:
    """ports.Subjects over a directory of batch files."""

    def __init__(self, clock: Clock, tool: Tool, observer: Observer) -> None:
        self._clock = clock
        self._tool = tool
        self._observer = observer
        self._directories: dict[str, _Directory] = {}
        self._since = clock.now()

    async def find(self, job: Job, state: JobState) -> Found | Nothing:
        """Never raises; `Nothing(failed=True)` when sealing, looking or combining failed."""
        subject = job.subject
        if subject is None:
            return Nothing("no_batch", "the job has no subject")
        if subject.kind == "open":
            return await self._open(subject, state)
        step = "seal_failed" if subject.seals else "batches_unreadable"
        try:
            if subject.seals:
                await self._seal(subject)
            step = "batches_unreadable"
            place = await self._place(subject.directory)
            known = place.chosen.get((subject, state.covers))
            if known is not None:
                return known
            step = "combine_failed"
            return await self._choose(subject, state, place)
        except Exception as error:  # a seam that must not raise: whatever it was becomes the run's reason
            return Nothing(step, _said(error), failed=True)

    async def _open(self, subject: Subject, state: JobState) -> Found | Nothing:
        """Whatever is not final at a target is one subject: the marks of its book say that there is some.

        What became final in the run that paid leaves no mark, and this process knows nothing of what was before it:
        so a book that was written since the last good pass, or has had none since the start, is read too."""
        try:
            worth = await asyncio.to_thread(_worth, Path(subject.directory), state.last_success, self._since)
        except OSError as error:
            return Nothing("batches_unreadable", _said(error), failed=True)
        return Found("open", "", target=subject.target) if worth else Nothing("unchanged", "nothing is open there")

    async def _seal(self, subject: Subject) -> None:
        what: Document = {"files": list(subject.files), "base": subject.base}
        if subject.kind == "journal":
            what = {"journal": subject.base}
        await self._ask("seal", {"namespace": subject.namespace, "directory": subject.directory, **what})

    async def _ask(self, verb: str, document: Document) -> Mapping[str, object]:
        result = await self._tool(verb, document)
        if result.get("status") not in ("ok", "unchanged"):
            raise ToolFailed(str(result.get("message") or f"{verb} gave no result"))
        return result

    async def _choose(self, subject: Subject, state: JobState, place: _Directory) -> Found | Nothing:
        listing = place.listing
        tags = (subject.namespace,) if subject.seals else (subject.namespace, "")
        newest = listing.newest(tags)
        if newest is None:
            return Nothing("no_batch", f"no batch of {subject.namespace} in {subject.directory}")
        done = _covers(state)
        pending = listing.pending(tags, done)
        if not pending and not subject.reanchor:
            return Nothing("unchanged", f"{newest.what.name} is anchored already")
        covers = str(listing.covered(tags, done))
        if len(pending) > 1:
            return await self._combined(subject, pending, covers)
        found = _found(subject, pending[0] if pending else newest, covers)
        if done.horizon is not None and len(place.chosen) < _CHOSEN:
            place.chosen[subject, state.covers] = found
        return found

    async def _combined(self, subject: Subject, pending: list[Seen], covers: str) -> Found:
        batches = [seen.what for seen in pending if isinstance(seen.what, Batch)]
        document: Document = {
            "directory": subject.directory,
            "namespace": subject.namespace,
            "batches": [{"id": batch.id, "root": batch.root} for batch in batches],
        }
        result = await self._ask("combine", document)
        identity, root, file = result.get("id"), result.get("root"), result.get("file")
        if not is_id(identity) or not is_hash(root) or not isinstance(file, str):
            raise ToolFailed("combine gave no batch")
        named = [batch.id for batch in batches[-_NAMED:]]
        details = {"file": file, "count": sum(batch.count for batch in batches), "batches": named}
        return Found(str(identity), str(root), covers, {**details, "pending": len(batches)}, subject.target)

    async def _place(self, directory: str) -> _Directory:
        """With its shared listing if nothing changed (a few stats), else one scan in a thread for all who wait."""
        place = self._directories.get(directory)
        if place is None:
            place = self._directories[directory] = _Directory(Path(directory))
        if place.listing.fresh(place.path):
            return place
        seen = place.begun
        async with place.lock:
            # a scan that began after this call saw whatever we were to see
            if place.done > seen or place.listing.fresh(place.path):
                return place
            place.begun += 1
            now = self._clock.now()
            place.listing = await asyncio.to_thread(scan, place.path, place.listing, now)
            place.chosen.clear()
            place.done = place.begun
            self._tell(place)
            return place

    def _tell(self, place: _Directory) -> None:
        """Each bad file once for each state it is in."""
        bad = {seen.what.name: seen for seen in place.listing.bad}
        place.told = {name: was for name, was in place.told.items() if name in bad}
        for name, seen in bad.items():
            if place.told.get(name) != seen.signature and len(place.told) < _TOLD:
                place.told[name] = seen.signature
                details: Document = {
                    "file": str(place.path / f"{name}.json"),
                    "reason": getattr(seen.what, "reason", ""),
                }
                self._observer(Trouble(self._clock.now(), "bad_batch", details))


def _worth(book: Path, passed: Millis | None, since: Millis) -> bool:
    """May a pass over it find anything?"""
    if _has_entries(book / OPEN_MARKS):
        return True
    try:
        written = book.stat().st_mtime_ns // 1_000_000
    except FileNotFoundError:
        return False
    return passed is None or passed < max(written, since)


def _has_entries(directory: Path) -> bool:
    try:
        with os.scandir(directory) as entries:
            return next(entries, None) is not None
    except FileNotFoundError:
        return False


def _found(subject: Subject, seen: Seen, covers: str) -> Found:
    batch = seen.what
    if not isinstance(batch, Batch):
        raise ToolFailed(f"{batch.name} is no batch")
    file = str(Path(subject.directory) / f"{batch.id}.json")
    details = {"file": file, "count": batch.count, "batches": [batch.id]}
    return Found(batch.id, batch.root, covers, details, subject.target)


def _covers(state: JobState) -> Covers:
    """A state without a horizon (made by another version) goes by the time of the last success."""
    covers = Covers.read(state.covers)
    if covers.horizon is None and covers.order and state.last_success is not None:
        end_of_that_ms = (state.last_success + 1) * 1_000_000 - 1
        return Covers(covers.order, end_of_that_ms)
    return covers


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
