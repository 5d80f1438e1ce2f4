"""Instances of one cluster over either twin of the dispatch queue, and time that passes for their leases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

from tests.support.redis_keys import SharedRedis
from tests.support.world import ToldClock
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.domain.trigger import Millis
from vmsh_scheduler.ports import Claim, Clock, Dispatch, Task
from vmsh_scheduler.stores.memory_dispatch import MemoryDispatch, Table
from vmsh_scheduler.stores.redis.connect import Client
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch

LEASE = 300
AGENTS = "agents"


class Instance(Dispatch, Protocol):
    """One that may lead."""

    def lead(self, lock_value: str) -> None: ...

    def follow(self) -> None: ...


class Cluster(Protocol):
    """Instances over one store."""

    clock: Clock

    def instance(self, name: str) -> Instance: ...

    async def leader(self, name: str, fence: int = 7) -> Instance:
        """A new instance, which has the lock from now on."""
        ...

    async def wait(self, ms: Millis) -> None: ...


class MemoryCluster:
    def __init__(self) -> None:
        self.told = ToldClock()
        self.clock: Clock = self.told
        self.table = Table()

    def instance(self, name: str) -> Instance:
        return MemoryDispatch(self.told, self.table)

    async def leader(self, name: str, fence: int = 7) -> Instance:
        new = self.instance(name)
        new.lead(lock_value(name, fence))
        return new

    async def wait(self, ms: Millis) -> None:
        self.told.move(ms)


class RedisCluster:
    def __init__(self, shared: SharedRedis, stack: AsyncExitStack) -> None:
        self.shared = shared
        self.clock: Clock = SystemClock()
        stack.callback(self.clock.close)
        self._stack = stack

    def client(self) -> Client:
        client = self.shared.client()
        self._stack.push_async_callback(client.aclose)
        return client

    def instance(self, name: str) -> RedisDispatch:
        return RedisDispatch(self.client(), self.shared.keys, self.clock, name)

    async def leader(self, name: str, fence: int = 7) -> RedisDispatch:
        new = self.instance(name)
        await take_lock(self.client(), self.shared, name, fence)
        new.lead(lock_value(name, fence))
        return new

    async def wait(self, ms: Millis) -> None:
        until = self.clock.elapsed() + ms
        while self.clock.elapsed() < until:  # noqa: ASYNC110 - the server's time is waited for, which sets no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def redis_cluster(shared: SharedRedis) -> AsyncIterator[RedisCluster]:
    async with AsyncExitStack() as stack:
        yield RedisCluster(shared, stack)


async def take_lock(client: Client, shared: SharedRedis, name: str, fence: int) -> None:
    await client.set(shared.keys.leader_lock, lock_value(name, fence), px=600_000)
    await client.set(shared.keys.leader_fence, fence)


def lock_value(name: str, fence: int) -> str:
    return f"{name}:uuid|{fence}|{name}"


def task(number: int, *, pool: str = AGENTS, owner: str = "u:a") -> Task:
    return Task(f"t{number}", pool, owner, {"n": number})


def ids(claims: list[Claim] | tuple[Claim, ...]) -> list[str]:
    return [claim.task.id for claim in claims]
