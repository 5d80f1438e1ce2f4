"""ports.Agenda in memory: two heaps with lazy deletion, every operation O(log n)."""

import heapq
from collections.abc import Sequence

from vmsh_scheduler.domain.trigger import Millis

_SLACK = 64
"""Dead entries are swept out when they outnumber the living by this much."""

DueKey = tuple[Millis, int, str]
ReadyKey = tuple[int, Millis, int, str]


class HeapAgenda:
    """The states say what is due; this is rebuilt from them at every start. No method yields to the loop."""

    def __init__(self) -> None:
        self._due: dict[str, DueKey] = {}
        self._due_heap: list[DueKey] = []
        self._ready: dict[str, ReadyKey] = {}
        self._ready_heap: list[ReadyKey] = []
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
        self._ready.pop(job_id, None)

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

    async def release(self, job_id: str, slot: Millis, priority: int) -> None:
        key = (priority, slot, self._next(), job_id)
        self._ready[job_id] = key
        heapq.heappush(self._ready_heap, key)
        if len(self._ready_heap) > 2 * len(self._ready) + _SLACK:
            self._ready_heap = sorted(self._ready.values())

    async def claim(self, limit: int) -> Sequence[str]:
        taken: list[str] = []
        while len(taken) < limit and self._ready_heap:
            key = heapq.heappop(self._ready_heap)
            if self._ready.get(key[3]) == key:
                del self._ready[key[3]]
                taken.append(key[3])
        return taken

    async def ack(self, job_id: str) -> None:
        """One engine, one memory: a claim cannot get lost, so there is nothing to give back."""

    async def depth(self) -> int:
        return len(self._ready)

    def _next(self) -> int:
        """First come, first served among equals."""
        self._count += 1
        return self._count
