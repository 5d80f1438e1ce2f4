"""The Redis stores as one."""

from collections.abc import Mapping
from dataclasses import dataclass

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Clock, Lease
from vmsh_scheduler.stores.redis.batch import Mirroring
from vmsh_scheduler.stores.redis.connect import Client, RedisOptions, connect, connect_sync
from vmsh_scheduler.stores.redis.counters import RedisCounters
from vmsh_scheduler.stores.redis.dedupe import RedisDedupe
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch
from vmsh_scheduler.stores.redis.identity import Identity
from vmsh_scheduler.stores.redis.instances import Instances
from vmsh_scheduler.stores.redis.journal import RedisJournal
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.leases import RedisLeases
from vmsh_scheduler.stores.redis.refusals import Refusals, watch
from vmsh_scheduler.stores.redis.requests import Requests
from vmsh_scheduler.stores.redis.specs import RedisSpecs, check_agent
from vmsh_scheduler.stores.redis.states import RedisStates
from vmsh_scheduler.stores.redis.values import Junk
from vmsh_scheduler.stores.redis.wakes import Wakes


@dataclass(frozen=True, slots=True)
class Shape:
    """What one instance is called, and how long its claims to things last, in ms."""

    instance: str
    lock_ttl: Millis
    job_lease: Millis
    doubted: Millis
    """What the store may have forgotten counts as claimed for so long: its worker notices meanwhile."""
    callback_lease: Millis
    done_ttl: Millis
    rows: int
    """Of the journal, per job."""


@dataclass(slots=True)
class RedisStore:
    """One instance's ends of everything. `lead` and `follow` go for all that only the leader writes."""

    options: RedisOptions
    client: Client
    keys: Keys
    states: RedisStates
    journal: RedisJournal
    specs: RedisSpecs
    leases: RedisLeases
    dispatch: RedisDispatch
    dedupe: RedisDedupe
    counters: RedisCounters
    identity: Identity
    instances: Instances
    requests: Requests
    wakes: Wakes
    junk: Junk
    refusals: Refusals

    @property
    def harmed(self) -> Mapping[str, str]:
        """By job what of it cannot be read."""
        return {**self.specs.harmed, **self.states.harmed}

    @property
    def held_back(self) -> Mapping[str, str]:
        """Those that have a document or a file, and must not start without what cannot be read."""
        return self.states.harmed

    def lead(self, lease: Lease) -> str:
        """Returns the lock that proves it."""
        lock = self.leases.lock_value(lease)
        self.states.lead(lock)
        self.specs.lead(lock)
        self.dispatch.lead(lock)
        return lock

    def follow(self) -> None:
        self.states.follow()
        self.specs.follow()
        self.dispatch.follow()

    async def refresh(self) -> bool:
        """For a follower: whether anything changed; never what an emptied store shows. Raises StoreDown."""
        stands = self.identity.stands
        states, specs = await self.states.refresh(stands), await self.specs.refresh(stands)
        return states or bool(specs)

    async def close(self) -> None:
        await self.states.close()
        await self.client.aclose()


def open_redis(options: RedisOptions, shape: Shape, clock: Clock, mirror: Mirroring) -> RedisStore:
    """Nothing is asked of the server yet. Raises ConfigError."""
    client, keys, junk = connect(options), Keys(options.prefix), Junk()
    refusals = Refusals(clock.elapsed, calm=2 * shape.lock_ttl)
    watch(client, refusals)
    states = RedisStates(client, keys, clock, mirror, rows=shape.rows)

    def bar(id: str) -> str:
        return states.harmed[id] if id in states.barred else ""

    return RedisStore(
        options,
        client,
        keys,
        states,
        RedisJournal(connect_sync(options), keys),
        RedisSpecs(client, keys, check=check_agent, bar=bar),
        RedisLeases(client, keys, clock, instance=shape.instance, ttl_ms=shape.lock_ttl),
        RedisDispatch(client, keys, clock, shape.instance, job_lease=shape.job_lease, doubted=shape.doubted, junk=junk),
        RedisDedupe(client, keys, lease_ms=shape.callback_lease, done_ms=shape.done_ttl),
        RedisCounters(client, keys),
        Identity(client, keys),
        Instances(client, keys, junk),
        Requests(client, keys, junk),
        Wakes(client, keys),
        junk,
        refusals,
    )
