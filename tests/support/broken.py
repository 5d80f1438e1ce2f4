"""The program with a defect planted: `python -m tests.support.broken KIND WORD...` is `vmsh-scheduler WORD...`."""

import asyncio
import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from vmsh_scheduler.cli import start

ROOT = Path(__file__).parents[2]
PLANTED = "a defect that a test planted"
STUCK = "stuck"
"""Log line of a loop or an engine that goes on no more, from SIGUSR1 on."""
BEAT_S = 0.2
GOOD_CALLS = 1
LEAK_BYTES = 16_384
STUTTER_S = 0.3


def raising(module: str, name: str) -> Callable[[], None]:
    """`module.name` works once and then never again."""

    def plant() -> None:
        owner = importlib.import_module(module)
        real = getattr(owner, name)
        calls = 0

        def broken(*args: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            if calls > GOOD_CALLS:
                raise RuntimeError(PLANTED)
            return real(*args, **options)

        setattr(owner, name, broken)

    return plant


def loop_blocks() -> None:
    def block(*_: object) -> None:
        _say_stuck()
        time.sleep(3600)

    signal.signal(signal.SIGUSR1, block)


def thread_beats() -> None:
    """The loop blocks, and a healthy thread tells the service manager that all is well."""
    from vmsh_scheduler.observe.systemd import Notifier

    def beat() -> None:
        while True:
            Notifier.from_environ(os.environ).watchdog()
            time.sleep(BEAT_S)

    loop_blocks()
    threading.Thread(target=beat, daemon=True).start()


def engine_hangs() -> None:
    """The loop goes on, the engine does not."""
    from vmsh_scheduler.engine.engine import Engine

    real, hangs = Engine.tick, False

    def hang(*_: object) -> None:
        nonlocal hangs
        hangs = True

    async def tick(engine: Engine) -> int:
        if hangs:
            _say_stuck()
            await asyncio.Event().wait()
        return await real(engine)

    Engine.tick = tick  # type: ignore[method-assign, assignment] # the defect
    signal.signal(signal.SIGUSR1, hang)


def leaks() -> None:
    """Keeps a little of every run that ended."""
    from vmsh_scheduler.engine.carry import Carrier

    real, kept = Carrier._settle, []

    async def settle(*args: object, **options: object) -> None:
        kept.append(bytearray(LEAK_BYTES))
        await real(*args, **options)  # type: ignore[arg-type] # passed on as it came

    Carrier._settle = settle  # type: ignore[method-assign] # the defect


def stutters() -> None:
    """Once a second the loop computes something."""
    from vmsh_scheduler.daemon import Daemon

    real = Daemon._check_lock

    def check(daemon: Daemon) -> None:
        end = time.process_time() + STUTTER_S
        while time.process_time() < end:
            pass
        real(daemon)

    Daemon._check_lock = check  # type: ignore[method-assign, assignment] # the defect


def never_reaps() -> None:
    from vmsh_scheduler.executors.command import CommandExecutor

    CommandExecutor.reap_orphans = lambda _: 0  # type: ignore[method-assign, assignment] # the defect


def _say_stuck() -> None:
    os.write(2, json.dumps({"msg": STUCK}).encode() + b"\n")


def greedy() -> None:
    """The whole of every answer is kept."""
    vars(importlib.import_module("vmsh_scheduler.net.client"))["HEAD"] = sys.maxsize


def calls_block() -> None:
    """A callback keeps the loop until it has failed."""
    calls, client = (importlib.import_module(f"vmsh_scheduler.net.{name}") for name in ("calls", "client"))

    async def post(*_: object, **__: object) -> None:
        time.sleep(STUTTER_S)  # noqa: ASYNC251 - the defect
        raise calls.CallFailed("connect", PLANTED)

    client.HttpClient.post = post


def leads_for_ever() -> None:
    """As if its lock could not run out, and whatever cannot be written."""
    from vmsh_scheduler.cluster import Cluster
    from vmsh_scheduler.engine.leadership import Leadership

    Cluster._watch = lambda *_: None  # type: ignore[method-assign] # the defect
    Leadership._left = lambda _: 3_600_000.0  # type: ignore[method-assign, assignment] # the defect


def asks_redis_in_the_loop() -> None:
    """With every beat, and waits for the answer."""
    from redis import RedisError

    from vmsh_scheduler.cluster import Cluster
    from vmsh_scheduler.stores.redis.connect import connect_sync

    real = Cluster._beat_once

    async def beat(cluster: Cluster) -> None:
        with contextlib.suppress(RedisError):
            connect_sync(cluster.store.options).ping()
        await real(cluster)

    Cluster._beat_once = beat  # type: ignore[method-assign, assignment] # the defect


def never_loses_a_claim() -> None:
    """Whatever time has passed, it goes on."""
    from vmsh_scheduler.engine.worker import Worker

    Worker._lose = lambda *_: None  # type: ignore[method-assign] # the defect


def forgets_open_runs() -> None:
    """A new leader takes every run that was open for one that never began."""
    from vmsh_scheduler.domain.run import Recovery, Trace
    from vmsh_scheduler.engine.handed import Collector

    async def recovery(*_: object) -> Recovery:
        return Recovery(Trace.NEVER_BEGAN)

    Collector.recovery = recovery  # type: ignore[method-assign, assignment] # the defect


KINDS: Mapping[str, Callable[[], None]] = {
    "settle raises": raising("vmsh_scheduler.domain.plan", "settle"),
    "decide raises": raising("vmsh_scheduler.domain.plan", "decide"),
    "loop blocks": loop_blocks,
    "thread beats": thread_beats,
    "engine hangs": engine_hangs,
    "leaks": leaks,
    "greedy": greedy,
    "calls block": calls_block,
    "never reaps": never_reaps,
    "stutters": stutters,
    "leads for ever": leads_for_ever,
    "asks redis in the loop": asks_redis_in_the_loop,
    "never loses a claim": never_loses_a_claim,
    "forgets open runs": forgets_open_runs,
}


def command(kind: str) -> tuple[str, ...]:
    """For `Place.command`; the place's environment needs `PYTHONPATH` = ROOT."""
    assert kind in KINDS
    return (sys.executable, "-m", "tests.support.broken", kind)


if __name__ == "__main__":
    KINDS[sys.argv.pop(1)]()
    sys.exit(start())
