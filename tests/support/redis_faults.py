"""What a receiver makes of the calls of several instances, and how long they let others wait meanwhile."""

import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.support.forge import Received

KEY, FENCE = "X-ForgeOS-Idempotency-Key", "X-ForgeOS-Leader-Fence-Token"
OFTEN_S = 0.02


@dataclass
class Judged:
    """By who checks key and fence, in the order of arrival; who checks nothing takes all of it."""

    accepted: list[str] = field(default_factory=list)
    fences: list[int] = field(default_factory=list)
    """Of what was accepted."""
    stale: int = 0
    repeated: int = 0

    @property
    def all(self) -> int:
        return len(self.accepted) + self.stale + self.repeated


def judge(calls: Sequence[Received]) -> Judged:
    found, highest = Judged(), 0
    for call in list(calls):
        key, fence = call.headers[KEY], int(call.headers[FENCE])
        if fence < highest:
            found.stale += 1
        elif key in found.accepted:
            found.repeated += 1
        else:
            found.accepted.append(key)
            found.fences.append(fence)
        highest = max(highest, fence)
    return found


@dataclass
class Waits:
    """In ms, by URL; `failed`: no answer at all."""

    ms: list[float] = field(default_factory=list)
    failed: int = 0

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.ms, n=100)[98]


@contextmanager
def asking(*urls: str) -> Iterator[Waits]:
    """Each URL again and again while the block runs."""
    found, over = Waits(), threading.Event()
    threads = [threading.Thread(target=_ask_on, args=(url, found, over)) for url in urls]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _ask_on(url: str, found: Waits, over: threading.Event) -> None:
    while not over.wait(OFTEN_S):
        began = time.perf_counter()
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310  our own
                reply.read()
        except urllib.error.HTTPError as error:  # degraded is an answer
            error.close()
        except OSError:
            found.failed += 1
            continue
        found.ms.append((time.perf_counter() - began) * 1_000)
