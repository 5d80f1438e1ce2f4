"""The threads beside the loop: all there from the start, because later there may be none to be had."""

import asyncio
import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

from vmsh_scheduler.errors import Unavailable

_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""Of mallopt(3)."""
_LARGE = 128 << 10
"""Bytes: what is as large gets pages of its own, which go back when it is freed."""
COUNT = 3
"""A snapshot, a scrape and a look into a directory at the same time."""


def start_threads() -> None:
    """For the running loop's `to_thread`, which would make one when it is first needed and fail if it cannot.
    Raises Unavailable."""
    _share_one_heap()
    pool, started = ThreadPoolExecutor(COUNT, "beside"), threading.Barrier(COUNT + 1)
    try:
        for _ in range(COUNT):
            pool.submit(started.wait)
    except RuntimeError as error:
        started.abort()
        raise Unavailable(f"the machine has no threads left: {error}", hint="see ulimit -u and TasksMax") from error
    started.wait()

    async def end(*_: float | None) -> None:
        pool.shutdown()

    loop = asyncio.get_running_loop()
    loop.set_default_executor(pool)
    loop.shutdown_default_executor = end  # type: ignore[method-assign] # asyncio's own starts a thread that waits


def _share_one_heap() -> None:
    """glibc gives each thread a heap, and what one frees no other uses: 3 MB more after 40,000 runs. The interpreter's
    lock lets one thread allocate at a time anyway. And once a snapshot was freed, the next ones would come out of the
    heap: the holes that they leave fill up with small things, 1.5 MB of them over 100,000 runs."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none, or one heap
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
