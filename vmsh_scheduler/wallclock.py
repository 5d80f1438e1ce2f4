"""Now, for programs that need the time once: clock.py brings asyncio."""

import time

from vmsh_scheduler.domain.trigger import Millis


def wall_clock() -> Millis:
    return time.time_ns() // 1_000_000
