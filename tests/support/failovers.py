"""Leaders that go without a word, and how long it takes until another one leads."""

import random
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.support.daemon import UNMEASURED, until
from tests.support.forge import stub
from tests.support.instances import TIMES, Instances
from tests.support.redis_server import RedisServer
from vmsh_scheduler.stores.redis.keys import Keys

NAMES = ("a", "b", "c")
TTL_S = int(TIMES["SCHEDULER_LEADER_LOCK_TTL_MS"]) / 1000
LOOK_S = 0.002

Way = Literal["kill", "freeze"]


@dataclass
class Failovers:
    """`took`: seconds from the leader's end until the lock was another one's."""

    cluster: Instances
    redis: RedisServer
    dice: random.Random
    took: dict[Way, list[float]] = field(default_factory=lambda: {"kill": [], "freeze": []})
    fences: list[int] = field(default_factory=list)

    def play(self, way: Way) -> None:
        leader, fence = until(self.lock, "a leader")
        until(self.all_there, "all instances")
        time.sleep(self.dice.uniform(0, TTL_S / 2))  # the random moment is the fault itself
        daemon, began = self.cluster[leader].daemon, time.monotonic()
        daemon.process.send_signal(signal.SIGKILL if way == "kill" else signal.SIGSTOP)
        while (found := self.lock()) is None or found[0] == leader:
            assert time.monotonic() < began + 30, f"nobody leads after {leader}"
            time.sleep(LOOK_S)
        self.took[way].append(time.monotonic() - began)
        self.fences += [fence, found[1]]
        if way == "freeze":
            daemon.signal(signal.SIGCONT)
        else:
            daemon.wait()
            self.cluster.start(leader)

    def lock(self) -> tuple[str, int] | None:
        """Whose it is, and the fence."""
        with self.redis.client() as client:
            held = client.get(Keys("forgeos:scheduler").leader_lock)
        if held is None:
            return None
        _, fence, instance = held.split("|")
        return instance, int(fence)

    def all_there(self) -> bool:
        """Each has said so within the last seconds, and sees the leader."""
        return all(self.cluster.condition(name)["problems"] == [] for name in NAMES)

    def figure(self) -> str:
        return "; ".join(f"{len(took)} x {way}: {_spread(took)}" for way, took in self.took.items() if took)


def _spread(took: list[float]) -> str:
    ordered = sorted(took)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    spread = ", ".join(f"{name} {ordered[int(share * len(ordered))]:.2f}" for name, share in shares.items())
    return f"min {ordered[0]:.2f}, {spread}, max {ordered[-1]:.2f} s"


def failovers(root: Path, server: RedisServer, ways: dict[Way, int], seed: int) -> Failovers:
    """Three instances over an empty server; so many leaders go each way, mixed."""
    with server.client() as client:
        client.flushall()
    order = [way for way, times in ways.items() for _ in range(times)]
    dice = random.Random(seed)
    dice.shuffle(order)
    with stub() as upstream:
        cluster = Instances(root, server, upstream, env=UNMEASURED)
        try:
            played = Failovers(cluster.start(*NAMES), server, dice)
            for way in order:
                played.play(way)
        finally:
            cluster.close()
    return played
