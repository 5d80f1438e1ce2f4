"""An executor of callbacks with a stopped clock and a made-up market, and names that resolve as a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from tests.support.builders import NOON, agent, run_of
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.job import Job
from vmsh_scheduler.domain.run import Outcome
from vmsh_scheduler.executors.callback import CallbackExecutor
from vmsh_scheduler.net.client import HttpClient
from vmsh_scheduler.net.resolver import Infos, literal

MARKET: Mapping[str, object] = {
    "ts": NOON,
    "address": "kaspa:qq0",
    "priceUsd": 0.12,
    "dag": {"daaScore": 99, "network": "kaspa-mainnet"},
    "walletKas": 12.5,
}
AGENT = {"id": "a", "userId": "u", "name": "A", "strategyLabel": "DCA", "cycleIntervalMs": 15_000}
PAYLOAD = {"event": "forgeos.scheduler.cycle", "agent": AGENT}


@dataclass
class StoppedClock:
    """Wall clock at NOON; the other moves 7 ms at each look."""

    ticks: int = 0

    def now(self) -> int:
        return NOON

    def elapsed(self) -> int:
        self.ticks += 7
        return self.ticks

    async def sleep_until(self, when: int, wakeup: asyncio.Event) -> None:
        raise AssertionError("callbacks do not sleep")


@dataclass
class Desk:
    """An executor, what it observed and which wallets it asked the market about."""

    client: HttpClient = field(default_factory=HttpClient)
    secret: bytes = b""
    observed: list[tuple[str, float]] = field(default_factory=list)
    wallets: list[str] = field(default_factory=list)
    market: Mapping[str, object] | Exception = field(default_factory=lambda: MARKET)
    made: int = 0

    def __post_init__(self) -> None:
        self.executor = CallbackExecutor(
            self._client,
            self._snapshot,
            StoppedClock(),
            "leader-1",
            secret=self.secret,
            observe=lambda kind, ms: self.observed.append((kind, ms)),
        )

    async def run(self, url: str, *, attempt: int = 1, within: int = 5_000, **action: object) -> Outcome:
        job = job_of(url, timeout=within, **action)
        return await self.executor.run(job, run_of(job, NOON, attempt=attempt))

    def _client(self) -> HttpClient:
        self.made += 1
        return self.client

    async def _snapshot(self, wallet: str) -> Mapping[str, object]:
        self.wallets.append(wallet)
        if isinstance(self.market, Exception):
            raise self.market
        return self.market


def job_of(url: str, *, timeout: int = 5_000, **action: object) -> Job:
    given: dict[str, object] = {"payload": PAYLOAD, "wallet": "kaspa:qq0", "user": "u", "agent": "a", **action}
    return replace(agent(timeout=timeout), action=Callback(url, **given))  # type: ignore[arg-type]  # a test's fields


Desks = Callable[..., Desk]


@asynccontextmanager
async def many_desks() -> AsyncIterator[Desks]:
    """Makes desks, of a client that may be given, and closes them all."""
    made: list[Desk] = []

    def make(client: HttpClient | None = None, **given: object) -> Desk:
        made.append(Desk(client or HttpClient(), **given))  # type: ignore[arg-type]  # a test's fields
        return made[-1]

    yield make
    for desk in made:
        await desk.executor.close()
        await desk.client.close()


class Names:
    """A resolver that gives these answers in turn, and counts the questions."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Infos:
        self.asked.append(host)
        return [info for ip in self.answers.pop(0) for info in literal(ip, port)]


def stranger(**given: object) -> HttpClient:
    """A client that lets nobody in but what `given` allows."""
    return HttpClient(**given)  # type: ignore[arg-type]  # a test's fields


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not done():  # noqa: ASYNC110 - what is waited for happens in a socket, which sets no event
            await asyncio.sleep(0.005)
