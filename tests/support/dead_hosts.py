"""Callbacks to hosts that are dead, and how late everything else starts meanwhile."""

import math
import signal
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.support.daemon import until
from tests.support.faults import Site
from tests.support.forge import Forge, forge, stub
from vmsh_scheduler.domain.trigger import SECOND

FILLED = 8


@contextmanager
def refusing() -> Iterator[str]:
    """URL of a port that is nobody's: every connection is refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"


@contextmanager
def silent() -> Iterator[str]:
    """URL of a port whose queue is full and which accepts nothing: connections are never made, nor refused."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        fill = [socket.socket() for _ in range(FILLED)]
        for each in fill:
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect(sock.getsockname())
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/"
        for each in fill:
            each.close()


DEAD = {"refusing": refusing, "silent": silent}


@dataclass(frozen=True, slots=True)
class Delays:
    """Milliseconds from each slot to the start of its run."""

    seen: Sequence[int]

    @property
    def p99(self) -> float:
        """Infinite where nothing started."""
        if not self.seen:
            return math.inf
        return sorted(self.seen)[math.ceil(len(self.seen) * 0.99) - 1]


@dataclass(frozen=True, slots=True)
class Storm:
    """How late cadences were in a storm of callbacks, and at the same time those of a daemon that has no agents; how
    many calls failed meanwhile."""

    quiet: Sequence[Delays]
    stormy: Sequence[Delays]
    failed: int

    @property
    def p99(self) -> tuple[float, float]:
        """Of the window in the middle: without agents, in the storm."""
        pairs = [(quiet.p99, stormy.p99) for quiet, stormy in zip(self.quiet, self.stormy, strict=True)]
        return sorted(pairs, key=lambda pair: pair[1] - pair[0])[len(pairs) // 2]

    @property
    def later(self) -> float:
        quiet, stormy = self.p99
        return stormy - quiet

    @property
    def starts(self) -> tuple[int, int]:
        return sum(len(window.seen) for window in self.quiet), sum(len(window.seen) for window in self.stormy)


@dataclass(frozen=True, slots=True)
class Plan:
    """`seconds`: of each window."""

    agents: int
    cadences: int = 10
    windows: int = 3
    seconds: float = 20
    environ: Mapping[str, str] = field(default_factory=dict)


def storm(here: Site, beside: Site, kind: str, plan: Plan) -> Storm:
    """The agents of `here` call a host that is dead in this `kind` of way. SIGUSR1 is sent as it begins (`lag`)."""
    jobs = _configured(here, plan.cadences)
    _configured(beside, plan.cadences)
    with stub() as upstream, DEAD[kind]() as url:
        control = beside.place.daemon()
        api = forge(here.place, upstream, **plan.environ)
        for number in range(plan.agents):
            api.register(id=f"dead{number}", callbackUrl=f"{url}{number}")
        until(lambda: _failed(api) > 1, "failures")
        until(lambda: all(each.entries() for each in (here, beside)), "first runs")
        api.daemon.signal(signal.SIGUSR1)
        before = _failed(api)
        windows = [_watched((beside, here), jobs, plan.seconds) for _ in range(plan.windows)]
        failed = _failed(api) - before
        api.daemon.stop()
        control.stop()
        return Storm([quiet for quiet, _ in windows], [stormy for _, stormy in windows], failed)


def _configured(site: Site, cadences: int) -> Sequence[str]:
    every = [site.work(f"n{number}") for number in range(cadences)]
    site.configure(*every)
    return [cadence.job for cadence in every]


def _watched(sites: tuple[Site, Site], jobs: Sequence[str], seconds: float) -> tuple[Delays, Delays]:
    """Of the runs of these jobs whose slots lie in the next `seconds`."""
    since = time.time() * SECOND
    last = since + (seconds - 1) * SECOND  # what came due at the very end may be on its way
    until(lambda: time.time() * SECOND > since + seconds * SECOND, "the time to pass", seconds + 60)
    every = [site.books().executions for site in sites]
    quiet, stormy = [
        Delays([one.start_delay for one in runs if one.run.job_id in jobs and since < one.run.slot < last])
        for runs in every
    ]
    return quiet, stormy


def _failed(api: Forge) -> int:
    text = api.ask("GET", "/metrics").body.decode()
    return int(text.partition("\nforgeos_scheduler_callback_error_total ")[2].partition("\n")[0])
