"""The threads beside the loop: all there from the start, because later there may be none to be had."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from vmsh_scheduler.errors import Unavailable

COUNT = 3
"""A snapshot, a scrape and a look into a directory at the same time."""


def start_threads() -> None:
    """For the running loop's `to_thread`, which would make one when it is first needed and fail if it cannot.
    Raises Unavailable."""
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
