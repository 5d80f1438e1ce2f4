"""Questions to the store that do not wait for each other's answers: it may be far away."""

import asyncio
from collections.abc import Coroutine


async def at_once(*questions: Coroutine[object, object, None]) -> None:
    """All are over afterwards, whatever one of them raises; then that is raised."""
    for failed in await asyncio.gather(*questions, return_exceptions=True):
        if failed is not None:
            raise failed
