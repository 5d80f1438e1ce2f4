"""ports.Agenda in memory: two heaps with lazy deletion, every operation O(log n)."""

import heapq
from collections import deque
from collections.abc import Sequence

from vmsh_scheduler.domain.trigger import Millis

_SLACK = 64
"""Dead entries are swept out when they outnumber the living by this much."""

DueKey = tuple[Millis, int, str]
ReadyKey = tuple[int, Millis, int, str]
"""Priority, slot, arrival, job."""


class _Line:
    """Those who wait for the permits of one pool: a heap per share, and the shares in turn."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[str, ReadyKey]] = {}
        self._heaps: dict[str, list[ReadyKey]] = {}
        self._turns: deque[str] = deque()
        self._entries = 0

    def add(self, share: str, key: ReadyKey) -> None:
        self.waiting[key[3]] = (share, key)
        if share not in self._heaps:
            self._heaps[share] = []
            self._turns.append(share)
        heapq.heappush(self._heaps[share], key)
        self._entries += 1
        if self._entries > 2 * len(self.waiting) + _SLACK:
            self._sweep()

    def take(self) -> str | None:
        """The first of the share whose turn it is."""
        while self._turns:
            share = self._turns[0]
            key = self._pop(share)
            if key is None:
                del self._heaps[share]
                self._turns.popleft()
                continue
            self._turns.rotate(-1)
            del self.waiting[key[3]]
            return key[3]
        return None

    def _pop(self, share: str) -> ReadyKey | None:
        heap = self._heaps[share]
        while heap:
            key = heapq.heappop(heap)
            self._entries -= 1
            if self.waiting.get(key[3]) == (share, key):
                return key
        return None

    def _sweep(self) -> None:
        for heap in self._heaps.values():
            heap.clear()
        for share, key in sorted(self.waiting.values()):
            self._heaps[share].append(key)
        self._entries = len(self.waiting)


class HeapAgenda:
    """The states say what is due; this is rebuilt from them at every start. No method yields to the loop."""

    def __init__(self) -> None:
        self._due: dict[str, DueKey] = {}
        self._due_heap: list[DueKey] = []
        self._lines: dict[str, _Line] = {}
        self._count = 0

    async def schedule(self, job_id: str, due: Millis) -> None:
        known = self._due.get(job_id)
        if known is not None and known[0] == due:
            return
        key = (due, self._next(), job_id)
        self._due[job_id] = key
        heapq.heappush(self._due_heap, key)
        if len(self._due_heap) > 2 * len(self._due) + _SLACK:
            self._due_heap = sorted(self._due.values())

    async def cancel(self, job_id: str) -> None:
        self._due.pop(job_id, None)
        self._leave(job_id)

    async def next_due(self) -> Millis | None:
        heap = self._due_heap
        while heap and self._due.get(heap[0][2]) != heap[0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    async def due(self, now: Millis, limit: int) -> Sequence[str]:
        taken: list[str] = []
        while len(taken) < limit and (when := await self.next_due()) is not None and when <= now:
            _, _, job_id = heapq.heappop(self._due_heap)
            del self._due[job_id]
            taken.append(job_id)
        return taken

    async def release(self, job_id: str, slot: Millis, priority: int, *, pool: str = "", share: str = "") -> None:
        self._leave(job_id)
        line = self._lines.get(pool)
        if line is None:
            line = self._lines[pool] = _Line()
        line.add(share, (priority, slot, self._next(), job_id))

    async def claim(self, limit: int, pool: str = "") -> Sequence[str]:
        taken: list[str] = []
        line = self._lines.get(pool)
        while line is not None and len(taken) < limit and (job_id := line.take()) is not None:
            taken.append(job_id)
        return taken

    async def ack(self, job_id: str) -> None:
        """One engine, one memory: a claim cannot get lost, so there is nothing to give back."""

    async def depth(self, pool: str = "") -> int:
        line = self._lines.get(pool)
        return 0 if line is None else len(line.waiting)

    def _leave(self, job_id: str) -> None:
        for line in self._lines.values():
            line.waiting.pop(job_id, None)

    def _next(self) -> int:
        """First come, first served among equals."""
        self._count += 1
        return self._count
