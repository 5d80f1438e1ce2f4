"""The Forge.OS scheduler's surface over this one's parts: implements api.forge_routes.Forge."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vmsh_scheduler.api.forge_routes import not_found
from vmsh_scheduler.api.surface import JSON_TYPE, Answer, Problem, Tally, Text
from vmsh_scheduler.app import App, Facts
from vmsh_scheduler.domain.agents import Refused
from vmsh_scheduler.domain.events import Event, Ticked
from vmsh_scheduler.domain.json_text import encoded
from vmsh_scheduler.errors import NotFound
from vmsh_scheduler.market.snapshot import Market, MarketFailed, valid_address
from vmsh_scheduler.observe.forge_metrics import BUCKETS, ForgeMetrics
from vmsh_scheduler.registry import Configured, Registry
from vmsh_scheduler.settings import display
from vmsh_scheduler.sources.agents import POOL

SERVICE = "forgeos-scheduler"
TICK_S = 2.0
SATURATED = 0.8


@dataclass
class ForgeView:
    """Answers in the original's words; its meaning where ours differs is in docs/agents.md."""

    app: App
    facts: Facts
    market_: Market
    meters: ForgeMetrics
    tally: Tally
    auth: Callable[[], Mapping[str, object]]
    """`auth` of /health, as it is now."""
    checks: Callable[[], Mapping[str, int]]
    """Counters of access control."""

    @property
    def registry(self) -> Registry:
        """Another one with every term."""
        assert self.app.registry is not None  # noqa: S101  there is one whenever the API is on
        return self.app.registry

    async def register(self, body: Mapping[str, object], user: str, *, by: str) -> Answer:
        try:
            key, record = await self.registry.register(body, user, by=by)
        except Refused as refused:
            raise Problem(400, refused.code) from refused
        except Configured as configured:
            raise self._configured() from configured
        return {"ok": True, "key": key, "agent": record}

    async def control(self, user: str, agent: str, action: str, *, by: str) -> Answer:
        try:
            key, record = await self.registry.control(user, agent, action, by=by)
        except NotFound as missing:
            raise not_found(missing.message) from missing
        except Refused as refused:
            raise Problem(400, refused.code) from refused
        except Configured as configured:
            raise self._configured() from configured
        return {"ok": True, "action": action, "key": key, "agent": record}

    async def agents(self, user: str | None) -> Text:
        await self.facts.fresh()
        listed = b",".join([encoded(some)[1:-1] async for some in self.registry.views(user)])
        return Text(b'{"agents":[%b],"ts":%d}' % (listed, self._now()), JSON_TYPE)

    async def tick(self) -> Answer:
        """Waits until the engine has looked, not for what it started."""
        ticked: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def saw(event: Event) -> None:
            if isinstance(event, Ticked) and not ticked.done():
                ticked.set_result(None)

        self.app.observers.observers.append(saw)
        try:
            await self.app.first_tick.now(self.app.engine.board)
            self.app.engine.wake()
            async with asyncio.timeout(TICK_S):
                await ticked
        except TimeoutError:
            pass
        finally:
            self.app.observers.observers.remove(saw)
        return {"ok": True, "ts": self._now(), **self._load("queueDepth", "inFlight"), "agents": self._count()}

    async def market(self, address: str) -> Answer:
        if not valid_address(address):
            raise Problem(400, "address_required")
        try:
            return await self.market_.reply(address)
        except MarketFailed as failed:
            raise Problem(502, failed.message) from failed

    def health(self) -> Answer:
        ours = dict(self.app.health().body)
        agents = {**_mapping(ours.get("agents")), **self.registry.counts()}
        return {
            **ours,
            "ok": True,
            "service": SERVICE,
            "kasApiBase": self.app.settings.sections["market.base"],
            "scheduler": {
                "tickMs": self.app.settings.sections["agents.tick_ms"],
                **self._load(),
                "redisAuthoritativeQueue": self.facts.queue() is not None,
                "redisQueue": self.facts.queue(),
                "leader": self.facts.leader(),
            },
            "auth": self.auth(),
            "redis": self.facts.redis(),
            "agents": agents,
            "cache": dict(self.market_.view()),
            "ts": self._now(),
        }

    def telemetry(self) -> Answer:
        load = self._load()
        depth, running = self._part("queueDepth", "queueCapacity"), self._part("inFlight", "concurrency")
        return {
            "ok": True,
            "service": SERVICE,
            "scheduler": {
                **load,
                "saturationProxyPct": round(100 * min(1.0, max(depth, running))),
                "redisAuthoritativeQueue": self.facts.queue() is not None,
                "redisExecQueue": self.facts.queue(),
            },
            "callbacks": {
                "successTotal": self.meters.count("callback_success_total"),
                "errorTotal": self.meters.count("callback_error_total"),
                "dedupeSkippedTotal": self.meters.count("callback_dedupe_skipped_total"),
                "latencyP95BucketMs": self.meters.callback_latency.bound(0.95, BUCKETS[-1]),
            },
            "ts": self._now(),
        }

    def metrics(self, accept: str) -> Text:
        self.tally.counts.update({**self.checks(), **self.facts.counters()})
        body, content_type = self.meters.render(self.tally, self.gauges(), self.market_.counts())
        return Text(body, content_type)

    def watch(self, event: Event) -> None:
        """Saturated: somebody still waits when a look at the agenda is over, and no permit is left (forge-os section
        12). Who waits for a slow host alone is not a sign of it."""
        if isinstance(event, Ticked):
            engine = self.app.engine
            full = event.waiting and engine.turnstile.running(POOL) >= self.app.settings.sections["agents.concurrency"]
            waiting = engine.board.waiting.values() if full else ()
            self.meters.saturated(any(release.job.pool == POOL and not release.started for release in waiting))

    def gauges(self) -> dict[str, float]:
        load = self._load()
        return {
            "agents_registered": self._count(),
            "cycle_queue_depth": _number(load["queueDepth"]),
            "cycle_in_flight": _number(load["inFlight"]),
            **self.facts.gauges(),
            "uptime_seconds": self.app.uptime_s,
        }

    def _load(self, *names: str) -> dict[str, object]:
        sections = self.app.settings.sections
        waiting, running = self.facts.load()
        capacity, concurrency = sections["agents.queue"], sections["agents.concurrency"]
        full = waiting >= SATURATED * capacity or (running >= concurrency and waiting > 0)
        every: dict[str, object] = {
            "queueDepth": waiting,
            "queueCapacity": capacity,
            "inFlight": running,
            "concurrency": concurrency,
            "saturated": full,
        }
        return {name: every[name] for name in names or every}

    def _part(self, of: str, whole: str) -> float:
        load = self._load(of, whole)
        return _number(load[of]) / max(1.0, _number(load[whole]))

    def _configured(self) -> Problem:
        settings = self.app.settings
        return Problem(403, "agent_is_configured", file=display(settings.agents_path, settings.cwd))

    def _count(self) -> int:
        return self.registry.counts()["count"]

    def _now(self) -> int:
        return self.app.clock.now()


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
