"""ports.Leases over one key with a TTL (forge-os section 9) and a fence that outlives a wiped Redis (decision 33)."""

import uuid

from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Clock, Lease
from vmsh_scheduler.stores.redis.connect import Client, guarded
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.scripts import Argument, Script

BEYOND = 10**15
"""Milliseconds of 31,000 years: somebody wrote such a fence by hand, and believing it would leave none above it."""

ACQUIRE, RENEW, RELEASE = Script("lease_acquire"), Script("lease_renew"), Script("lease_release")


class RedisLeases:
    """One lock, whatever the lease's name. `highest`: the newest fence seen here, which a wiped Redis cannot undo."""

    def __init__(self, client: Client, keys: Keys, clock: Clock, *, instance: str, ttl_ms: Millis) -> None:
        self.highest = 0
        self._client = client
        self._keys = keys
        self._clock = clock
        self._instance = instance.replace("|", "_")
        self._ttl_ms = ttl_ms
        self._mine = self._new_name()
        self._held: Lease | None = None

    async def acquire(self, name: str) -> Lease | None:
        """Raises StoreDown; asked again it takes what the lost answer had given, under the same fence."""
        if self._held is not None:
            return None
        asked = self._clock.elapsed()
        keys = [self._keys.leader_lock, self._keys.leader_fence]
        args: list[Argument] = [self._mine, self._instance, self.highest, self._ttl_ms, "1"]
        won, value = await ACQUIRE.run(self._client, keys, args)
        fence = _fence_in(value)
        self.saw(fence)
        if not won:
            return None
        self._held = Lease(name, fence, asked + self._ttl_ms)
        return self._held

    async def renew(self, lease: Lease) -> bool:
        """From the moment of asking it lasts the whole TTL again. False: it is over. Raises StoreDown."""
        if not self._holds(lease):
            return False
        renewed = await RENEW.run(self._client, [self._keys.leader_lock], [self.lock_value(lease), self._ttl_ms])
        if not renewed:
            self._forget()
        return bool(renewed)

    async def release(self, lease: Lease) -> None:
        """Over in any case; raises StoreDown when the lock has to run out by itself."""
        if not self._holds(lease):
            return
        value = self.lock_value(lease)
        self._forget()
        await RELEASE.run(self._client, [self._keys.leader_lock], [value])

    def lock_value(self, lease: Lease) -> str:
        """What the lock's key holds while the lease lasts: the proof that other scripts check."""
        return f"{self._mine}|{lease.fence}|{self._instance}"

    async def pttl(self) -> Millis | None:
        """When the lock is free if nobody renews it, in ms from now; None: nobody has it. Raises StoreDown."""
        left = int(await guarded(self._client.pttl(self._keys.leader_lock)))
        return {-2: None, -1: self._ttl_ms}.get(left, left)

    def saw(self, fence: int) -> None:
        """Wherever a fence comes by: none that is given here will be as low, unless nobody can have been given it."""
        if fence < BEYOND:
            self.highest = max(self.highest, fence)

    def _holds(self, lease: Lease) -> bool:
        """By fence: holders elsewhere have others."""
        return self._held is not None and (self._held.name, self._held.fence) == (lease.name, lease.fence)

    def _forget(self) -> None:
        """A request of the old name that is still on its way can give nothing to the new one."""
        self._held = None
        self._mine = self._new_name()

    def _new_name(self) -> str:
        return f"{self._instance}:{uuid.uuid4()}"


def _fence_in(value: str) -> int:
    """Of `<instance>:<uuid>|<fence>|<instance>`; 0 for anything else."""
    parts = value.split("|")
    return _number(parts[1]) if len(parts) == 3 else 0


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 17 else 0
