"""T4b: callbacks per second of instances that share a Redis beside one alone, what a claim costs with many tasks
waiting, and how long nobody leads when a leader dies. Instances, Redis and consumer share the cores of one machine."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from bench.consumers import Api, Sink, daemon, percentile, sink
from bench.lab import Lab, Measure
from bench.processes import Usage
from bench.redis_server import Server, redis_server
from bench.report import Row, Values
from vmsh_scheduler.clock import SystemClock
from vmsh_scheduler.ports import Task
from vmsh_scheduler.stores.redis.connect import RedisOptions, connect
from vmsh_scheduler.stores.redis.dispatch import RedisDispatch
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.leases import RedisLeases

CONNECTIONS = 64
"""SCHEDULER_CYCLE_CONCURRENCY of each."""
LOCAL, PREFIX, AGENTS = "one alone, local state", "forgeos:scheduler", "agents"
FEW, MANY = 100, 100_000
CLAIMS, LEASE_MS = 2_000, 30_000
STATE = json.dumps({"filler": "x" * 500})
"""As long as an agent's."""
FAILOVERS, INSTANCES = 20, 3
PART = 1_000
NAME = "instance"


def run(lab: Lab) -> list[Row]:
    agents, many, failovers = (200, 2_000, 3) if lab.small else (1_200, MANY, FAILOVERS)
    rates: dict[str, Measure] = {LOCAL: partial(_alone, lab, agents)}
    rates |= {f"Redis, {n} of them": partial(_together, lab, agents, n) for n in (1, 2, 3)}
    rows = lab.compare("redis", f"{agents} agents at 1 s, {CONNECTIONS} connections each", rates, (LOCAL,))
    claims: dict[str, Measure] = {f"{n} ready": partial(_claims, lab, n) for n in (FEW, many)}
    rows += lab.compare("redis", "a claim of 4, beside a PING", claims, (f"{FEW} ready",))
    once = replace(lab, rounds=1)
    return [*rows, *once.compare("redis", f"{failovers} leaders killed", {"ours": partial(_gone, lab, failovers)}, ())]


def _alone(lab: Lab, agents: int) -> Values:
    path = lab.site()[0].path
    with sink(path) as consumer, daemon(path, consumer, **_sizes(agents)) as api:
        return _sustained(lab, agents, consumer, [api])


def _together(lab: Lab, agents: int, count: int) -> Values:
    path = lab.site()[0].path
    with sink(path) as consumer, redis_server(path) as server, contextlib.ExitStack() as stack:
        shared = Shared(path, consumer, server, agents)
        apis = [shared.start(n, stack) for n in range(count)]
        before, began = server.running.usage(), time.monotonic()
        values = dict(_sustained(lab, agents, consumer, apis))
        spent = server.running.usage().cpu_s - before.cpu_s
    return values | {"Redis CPU %": 100 * spent / (time.monotonic() - began)}


@dataclass(frozen=True, slots=True)
class Shared:
    """What instances have in common."""

    path: Path
    consumer: Sink
    server: Server
    agents: int

    def start(self, number: int, stack: contextlib.ExitStack) -> Api:
        """It lives as long as the stack, and follows a leader or leads."""
        own = self.path / f"{NAME}{number}"
        own.mkdir(exist_ok=True)
        env = {"SCHEDULER_REDIS_URL": self.server.url, "SCHEDULER_INSTANCE_ID": own.name, **_sizes(self.agents)}
        api = stack.enter_context(daemon(own, self.consumer, **env))
        api.running.until(lambda: json.loads(api.get("/health"))["cluster"]["problems"] == [], "a leader")
        return api


def _sizes(agents: int) -> dict[str, str]:
    return {"SCHEDULER_CYCLE_CONCURRENCY": str(CONNECTIONS), "SCHEDULER_MAX_AGENTS": str(agents + 1)}


def _sustained(lab: Lab, agents: int, consumer: Sink, apis: Sequence[Api]) -> Values:
    """More agents than can be served: each is always due."""
    apis[0].crowd(agents, f"{consumer.url}/hook", 1_000)
    time.sleep(2)
    start, before = time.time() * 1000, [api.running.usage() for api in apis]
    time.sleep(lab.secs)
    end, after = time.time() * 1000, [api.running.usage() for api in apis]
    marks = consumer.marks(start, end)
    cpu = [_cpu_s(*pair) for pair in zip(before, after, strict=True)]
    return {
        "cycles/s": 1000 * len(marks) / (end - start),
        "us/cycle": 1e6 * sum(cpu) / max(1, len(marks)),
        "leader CPU %": 100 * cpu[0] / lab.secs,
    }


def _cpu_s(before: Usage, after: Usage) -> float:
    return after.cpu_s - before.cpu_s


def _claims(lab: Lab, ready: int) -> Values:
    """So many tasks wait, and as many states and due times are kept."""
    path = lab.site()[0].path
    with redis_server(path) as server:
        return asyncio.run(_claim(server, ready))


async def _claim(server: Server, ready: int) -> Values:
    clock, keys = SystemClock(), Keys(PREFIX)
    client = connect(RedisOptions(server.url))
    leases = RedisLeases(client, keys, clock, instance="bench", ttl_ms=600_000)
    lease = await leases.acquire("scheduler")
    assert lease is not None
    dispatch = RedisDispatch(client, keys, clock, "bench")
    dispatch.lead(leases.lock_value(lease))
    _fill(server, keys, ready)
    await dispatch.push([_task(n) for n in range(ready + 4 * CLAIMS)])
    claims, pings = [], []
    for _ in range(CLAIMS):
        pings.append(await _ms(client.ping))
        began = time.perf_counter()
        claimed = await dispatch.claim(AGENTS, 4, LEASE_MS)
        claims.append(1000 * (time.perf_counter() - began))
        await asyncio.gather(*(dispatch.finish(claim, {"status": "ok"}) for claim in claimed))
    await client.aclose()
    spread = {f"p{share} ms": percentile(claims, share / 100) for share in (50, 99)}
    return spread | {f"PING p{share} ms": percentile(pings, share / 100) for share in (50, 99)}


def _fill(server: Server, keys: Keys, count: int) -> None:
    with server.client() as client:
        for start in range(0, count, PART):
            some = range(start, min(start + PART, count))
            client.hset(keys.states, mapping={f"job{n}": STATE for n in some})
            client.zadd(keys.agent_schedule, {f"job{n}": n for n in some})


def _task(number: int) -> Task:
    return Task(f"run{number}", AGENTS, f"user:agent{number}", {"job": f"job{number}", "run": {"filler": "x" * 300}})


async def _ms(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    await action()  # type: ignore[misc]  # the library's types say that an answer may be there at once
    return 1000 * (time.perf_counter() - began)


def _gone(lab: Lab, times: int) -> Values:
    """From SIGKILL to the lock being another one's, with the default times."""
    path = lab.site()[0].path
    took: list[float] = []
    with sink(path) as consumer, redis_server(path) as server, contextlib.ExitStack() as stack:
        stacks = [stack.enter_context(contextlib.ExitStack()) for _ in range(INSTANCES)]
        shared = Shared(path, consumer, server, 1)
        apis = [shared.start(n, own) for n, own in enumerate(stacks)]
        for _ in range(times):
            gone = int(_leader(server).removeprefix(NAME))
            took.append(_replaced(server, apis[gone]))
            stacks[gone].close()
            apis[gone] = shared.start(gone, stacks[gone])
    return {f"p{share} s": percentile(took, share / 100) for share in (0, 50, 90, 99)} | {"max s": max(took)}


def _replaced(server: Server, leader: Api) -> float:
    name = _leader(server)
    began = time.monotonic()
    os.kill(leader.running.pid, signal.SIGKILL)
    while _leader(server) in ("", name):
        time.sleep(0.002)
    return time.monotonic() - began


def _leader(server: Server) -> str:
    with server.client() as client:
        return str(client.get(Keys(PREFIX).leader_lock) or "").rpartition("|")[2]
