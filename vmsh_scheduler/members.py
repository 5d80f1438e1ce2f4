"""Who else is there, and what of it a person has to know."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from socket import gethostname

from vmsh_scheduler import __version__
from vmsh_scheduler.app import App
from vmsh_scheduler.domain.events import Trouble
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.engine.worker import Worker
from vmsh_scheduler.sources.agents import POOL as AGENTS
from vmsh_scheduler.stores.redis.instances import SILENT, Instance
from vmsh_scheduler.stores.redis.store import RedisStore

SLOW: Millis = 100
"""A round trip above it costs so much throughput that somebody should know: a cycle waits for about ten of them."""
SLOW_BEATS = 3

Document = Mapping[str, object]


class Members:
    """As the last beat saw them; one a second."""

    def __init__(self, app: App, store: RedisStore, worker: Worker) -> None:
        self.instances: Sequence[Instance] = ()
        self.depths = (0, 0)
        """Of the agents' queue: ready and claimed."""
        self.commands = (0, 0)
        """Of the commands' queue."""
        self._app = app
        self._store = store
        self._worker = worker
        self._round_trips: deque[Millis] = deque([0] * SLOW_BEATS, maxlen=SLOW_BEATS)
        self._seen_at: Millis = 0
        self._told: frozenset[str] = frozenset()
        self._hashed: tuple[object, str] = (None, "")
        """Of which jobs, and their hash."""

    async def beat(self) -> None:
        """Says that we are there, and sees who else is. Raises StoreDown."""
        asked = self._app.clock.elapsed()
        self.instances = await self._store.instances.beat(self._me())
        self._seen_at = asked
        self._round_trips.append(self._app.clock.elapsed() - asked)
        depths = self._store.dispatch.depths
        self.depths, self.commands = await asyncio.gather(depths(AGENTS), depths(""))
        self._compare()

    @property
    def round_trip(self) -> Millis:
        """How long the newest beat waited for its answer."""
        return self._round_trips[-1]

    @property
    def slow(self) -> bool:
        """Not one late answer, which a busy machine gives too."""
        return min(self._round_trips) > SLOW

    def resize(self) -> None:
        """As the leader: as many runs are handed out as all instances together have permits for."""
        permits = {instance.id: instance.permits for instance in self.instances}
        permits[self._app.cycles.instance] = self._worker.offers
        engine = self._app.engine
        total = {pool: sum(each.get(pool, 0) for each in permits.values()) for pool in engine.bounds.permits()}
        pools = {name: replace(pool, concurrency=total[name]) for name, pool in engine.bounds.pools.items()}
        wanted = replace(engine.bounds, concurrency=total[""], pools=pools)
        if wanted != engine.bounds:
            engine.resize(wanted)

    def condition(self, problems: Sequence[str]) -> Document:
        """For everybody: no addresses, no texts of errors."""
        return {
            "ok": not problems,
            "problems": list(problems),
            "instance": self._app.cycles.instance,
            "role": "leader" if self._app.fence else "follower",
            "leader": self.leader(),
            "fence": max(self._app.fence, self._store.leases.highest, *(each.fence for each in self.instances)),
            "instances": len(self.instances),
        }

    def rows(self) -> list[Document]:
        """For the owner."""
        return [self._row(instance) for instance in self.instances]

    def queues(self) -> Document:
        """As `redis check` shows them."""
        depths = {"agents": self.depths, "commands": self.commands}
        return {name: {"ready": ready, "running": claimed} for name, (ready, claimed) in depths.items()}

    def leader(self) -> str | None:
        """As far as is known: the newest fence is right. What was said longer ago than anybody is counted says nothing,
        and of ourselves we know better than our last words."""
        me = self._app.cycles.instance
        if self._app.fence:
            return me
        fresh = self._app.clock.elapsed() - self._seen_at <= SILENT
        leading = [each for each in self.instances if fresh and each.fence and each.id != me]
        return max(leading, key=lambda each: each.fence).id if leading else None

    def others(self) -> list[str]:
        """Instances whose files, or what they mean there, are others."""
        mine = self._config()
        return [instance.id for instance in self.instances if instance.config != mine]

    def _row(self, instance: Instance) -> Document:
        role = "leader" if instance.id == self.leader() else "follower"
        same = instance.config == self._config()
        words = {"id": instance.id, "host": instance.host, "role": role, "version": instance.version}
        return {**words, "running": instance.running, "same_config": same}

    def _me(self) -> Instance:
        return Instance(
            id=self._app.cycles.instance,
            host=gethostname(),
            config=self._config(),
            permits=self._worker.offers,
            running=self._worker.running,
            fence=self._app.fence,
            version=__version__,
            started_at=self._app.started_at,
        )

    def _config(self) -> str:
        """Of what the files became: equal files under two roots are two job sets, each with directories of its own."""
        jobs = self._app.jobs
        if jobs is not self._hashed[0]:
            rows = "" if jobs is None else "\n".join(f"{id} {job.revision}" for id, job in sorted(jobs.jobs.items()))
            digest = hashlib.sha256(f"{self._app.config.config_hash}\n{rows}".encode(errors="backslashreplace"))
            self._hashed = jobs, digest.hexdigest()
        return self._hashed[1]

    def _compare(self) -> None:
        """Told once for every change of who differs."""
        others = frozenset(self.others())
        if others - self._told:
            why = ", ".join(sorted(others))
            self._app.observers(Trouble(self._app.clock.now(), "config_differs", {"why": why}))
        self._told = others
