"""Instances over one Redis that are killed, stopped and started again at random, and Redis with them."""

import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count
from pathlib import Path

import redis

from tests.support.daemon import COMMAND, UNMEASURED, Daemon, Place, until
from tests.support.faults import Cadence, Site, document, site
from tests.support.forge import stub
from tests.support.instances import Instances
from tests.support.judging import Judge, judging
from tests.support.ledger import Entry, read
from tests.support.redis_server import RedisServer
from tests.support.shared_books import (
    Gathering,
    acknowledged_twice,
    against_consumer,
    against_ledger,
    misbooked,
    undecided,
    unexplained,
)
from vmsh_scheduler.domain.trigger import SECOND, Millis

ROOT = Path(__file__).parents[2]
NAMES = ("a", "b", "c")
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
GATHER_S = 5.0
CALM_S = 60.0
"""Far above what it takes until everything goes on after the last fault."""
WEIGHTS: Mapping[str, int] = {"kill": 4, "freeze": 4, "kill redis": 1, "restart redis": 1, "freeze redis": 1}
STRIKE_S = (0.5, 4.0)
"""Between two faults."""
LASTS_S = (0.2, 5.0)
"""Until what was hit goes on: on either side of a lock's and a claim's life."""
REDIS_LASTS_S = (0.1, 3.0)

Repair = tuple[float, int, str, Callable[[], None]]


@dataclass
class Crew(Instances):
    """As on machines that look alike: one root, state of their own. Under another root a job is another one."""

    program: Sequence[str | Path] = (COMMAND,)

    def place(self, name: str) -> Place:
        place = super().place(name)
        place.command = self.program
        return place

    def environ(self, name: str, **more: str) -> dict[str, str]:
        own = {"VMSH_ROOT": str(self.root), "VMSH_STATE": str(self.root / name / "state" / "scheduler.json")}
        own |= {"VMSH_NAMESPACES": str(self.root / "config" / "namespaces.yaml")}
        return super().environ(name, **own, **more)


@dataclass
class Havoc:
    """One run of it. `said` is what was done when, for whoever has to understand a failure."""

    cluster: Instances
    server: RedisServer
    seed: int
    said: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    broken: set[str] = field(default_factory=set)
    _repairs: list[Repair] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=count)

    def play(self, seconds: float, meanwhile: Callable[[], None]) -> None:
        """`meanwhile` is called every few seconds while Redis is there. At the end everything goes on again."""
        dice, began = random.Random(self.seed), time.monotonic()
        strike, look = began + dice.uniform(*STRIKE_S), began + GATHER_S
        while (now := time.monotonic()) < began + seconds:
            self._repair(now)
            if now >= strike:
                self._strike(dice, now)
                strike = now + dice.uniform(*STRIKE_S)
            if now >= look and "redis" not in self.broken:
                meanwhile()
                look = now + GATHER_S
            time.sleep(0.02)
        self._repair(float("inf"))

    def _strike(self, dice: random.Random, now: float) -> None:
        what = dice.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        whom = "redis" if "redis" in what else dice.choice(NAMES)
        lasts = dice.uniform(*(REDIS_LASTS_S if whom == "redis" else LASTS_S))
        if whom in self.broken:
            return
        strokes = {"kill": self._kill, "freeze": self._freeze, "kill redis": self._kill_redis}
        strokes |= {"restart redis": self._restart_redis, "freeze redis": self._freeze_redis}
        self._say(f"{what} {whom} for {lasts:.1f} s")
        self.done[what] += 1
        self.broken.add(whom)
        heappush(self._repairs, (now + lasts, next(self._numbers), whom, strokes[what](whom)))

    def _repair(self, now: float) -> None:
        while self._repairs and self._repairs[0][0] <= now:
            _, _, whom, repair = heappop(self._repairs)
            repair()
            self.broken.discard(whom)
            self._say(f"{whom} goes on")

    def _kill(self, name: str) -> Callable[[], None]:
        """The daemon alone: its commands live on."""
        daemon = self.daemon(name)
        daemon.process.send_signal(signal.SIGKILL)
        daemon.wait()
        return lambda: self.boot(name)

    def boot(self, name: str) -> None:
        """Nobody waits for it."""
        environ = {"PORT": "0", "KAS_API_BASE": self.cluster.upstream.url, **self.cluster.environ(name)}
        self.cluster.place(name).daemon(env=environ)

    def daemon(self, name: str) -> Daemon:
        return self.cluster.place(name).started[-1]

    def _freeze(self, name: str) -> Callable[[], None]:
        daemon = self.daemon(name)
        daemon.signal(signal.SIGSTOP)
        return lambda: daemon.signal(signal.SIGCONT)

    def _kill_redis(self, _: str) -> Callable[[], None]:
        self.server.kill()
        return self._start_redis

    def _restart_redis(self, _: str) -> Callable[[], None]:
        self.server.stop()
        return self._start_redis

    def _freeze_redis(self, _: str) -> Callable[[], None]:
        self.server.pause()
        return self.server.resume

    def _start_redis(self) -> None:
        self.server.start(wait=False)

    def _say(self, what: str) -> None:
        self.said.append(f"{time.time():.3f} {what}")


@dataclass
class Arena:
    """Three instances, a durable Redis, cadences that keep a ledger, agents whose consumer judges."""

    root: Path
    cluster: Instances
    server: RedisServer
    judge: Judge
    books: Gathering
    jobs: int

    @property
    def ledger(self) -> list[Entry]:
        return read(self.root / "ledger")

    def gather(self) -> None:
        """A server that is away is asked again a few seconds later."""
        try:
            self.books.gather()
        except redis.RedisError:
            return

    def calm(self) -> Millis:
        """Every job goes on: each has succeeded with a slot after this moment. Returns it."""
        at = time.time_ns() // 10**6

        def all_go_on() -> bool:
            self.gather()
            going = [story for story in self.books.stories.values() if story.newest > at]
            return len(going) == self.jobs

        until(all_go_on, "a success of every job after the faults", CALM_S)
        return at

    def problems(self, calm: Millis) -> list[str]:
        """Whatever must not be, of a run that is over."""
        stories, entries = self.books.stories, self.ledger
        return [
            *self.books.findings,
            *unexplained(stories, calm),
            *acknowledged_twice(stories),
            *misbooked(stories),
            *undecided(stories, SECOND),
            *against_ledger(stories, entries),
            *against_consumer(stories, self.judge.calls),
            *(f"still open: {run}" for run in self.books.open_runs()),
        ]

    def figure(self) -> str:
        stories, ends = self.books.stories.values(), [entry for entry in self.ledger if entry.kind == "end"]
        runs = [each for story in stories for each in story.ended]
        statuses = Counter(each.status.value for each in runs)
        twice = len(ends) - len({entry.key for entry in ends})
        return (
            f"{sum(len(story.decided) for story in stories):,} slots decided, {statuses.total():,} runs "
            f"({', '.join(f'{n:,} {name}' for name, n in statuses.items())}), "
            f"{sum(len(story.never) for story in stories):,} never began, {len({each.fence for each in runs})} terms; "
            f"consumer: {self.judge.counted()}; {len(ends):,} commands ended, {twice} of a slot that another one ended"
        )


@contextmanager
def arena(root: Path, commands: int, agents: int, program: Sequence[str | Path]) -> Iterator[Arena]:
    """All up, all agents registered."""
    server = RedisServer(root / "redis", *DURABLE).start()
    try:
        with stub() as upstream, judging() as judge:
            env = {"SCHEDULER_MAX_AGENTS": str(agents + 1), "PYTHONPATH": str(ROOT), **UNMEASURED}
            cluster = Crew(root, server, upstream, env=env, program=program)
            try:
                _settle_in(cluster, site(root), commands)
                _register(cluster, judge, agents)
                yield Arena(root, cluster, server, judge, Gathering(server), commands + agents)
            finally:
                cluster.close()
    finally:
        server.stop()


def _settle_in(cluster: Instances, shared: Site, commands: int) -> None:
    jobs: Sequence[Cadence] = [shared.work(f"job{number}", "splay: 1s") for number in range(commands)]
    # not `local:`, whose keys lie beside the state: under another path that is another job
    shared.place.configure(document(*jobs).replace("target: local:", "target: rfc3161:"))
    cluster.start(*NAMES)


def _register(cluster: Instances, judge: Judge, agents: int) -> None:
    leader = cluster[cluster.leader()]
    for number in range(agents):
        leader.register(id=f"agent-{number}", cycleIntervalMs=SECOND, callbackUrl=judge.url)


def havoc(
    root: Path,
    seconds: float,
    seed: int,
    *,
    commands: int,
    agents: int,
    program: Sequence[str | Path] = (COMMAND,),
) -> str:
    """So many seconds of it, every check of the books, and a line about what was seen."""
    with arena(root, commands, agents, program) as it:
        played = Havoc(it.cluster, it.server, seed)
        played.play(seconds, it.gather)
        it.server.wait()
        calm = it.calm()
        for name in NAMES:
            played.daemon(name).stop()
        it.books.finish()
        problems = it.problems(calm)
        crashed = [daemon.log for name in NAMES for daemon in it.cluster.place(name).started if _cried(daemon)]
        assert not problems, _report(problems, played)
        assert not crashed, f"seed {seed}: a traceback in {crashed}"
        done = ", ".join(f"{n} x {what}" for what, n in sorted(played.done.items()))
        return f"seed {seed}, {seconds:.0f} s, {commands} commands and {agents} agents at 1 s: {done}; {it.figure()}"


def _cried(daemon: Daemon) -> bool:
    return "Traceback" in daemon.text()


def _report(problems: Sequence[str], played: Havoc) -> str:
    lines = [f"seed {played.seed}: {len(problems)} unexplained", *problems[:50], "what was done:", *played.said]
    return "\n".join(lines)
