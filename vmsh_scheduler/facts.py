"""What the Forge.OS surface says of Redis and of who leads, by one instance alone and by one of several."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from vmsh_scheduler.app import App
from vmsh_scheduler.sources.agents import POOL as AGENTS

if TYPE_CHECKING:  # loads the redis library
    from vmsh_scheduler.cluster import Cluster


class Alone:
    """Always leads."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def fresh(self) -> None:
        """Nobody else changes anything."""

    def load(self) -> tuple[int, int]:
        return self._app.engine.load(AGENTS)

    def leader(self) -> dict[str, object]:
        return {
            "instanceId": self._app.cycles.instance,
            "active": True,
            "lastRenewedAt": None,
            "nextRenewAt": None,
            "lockTtlMs": None,
            "fenceToken": self._app.fence,
            "acquireBackoffUntil": None,
        }

    def redis(self) -> dict[str, object]:
        return {
            "enabled": False,
            "connected": False,
            "keyPrefix": self._app.settings.sections["redis.prefix"],
            "loadedAgents": 0,
            "lastError": None,
            "execQueueRecoveredOnBootTotal": 0,
            "execQueueResetOnBootTotal": 0,
        }

    def queue(self) -> dict[str, object] | None:
        return None

    def gauges(self) -> dict[str, float]:
        names = ("enabled", "connected", "round_trip_ms", "authoritative_queue_enabled")
        depths = ("ready", "processing", "inflight")
        nothing = [f"redis_{name}" for name in names] + [f"redis_exec_queue_{name}_depth" for name in depths]
        return {**dict.fromkeys(nothing, 0.0), "leader_active": 1.0, "leader_fence_token": float(self._app.fence)}

    def counters(self) -> dict[str, int]:
        return {}


class OneOfSeveral:
    """As the last beat saw it."""

    def __init__(self, cluster: "Cluster") -> None:
        self._cluster = cluster
        self._sections: Mapping[str, object] = cluster.app.settings.sections

    async def fresh(self) -> None:
        await self._cluster.fresh()

    def load(self) -> tuple[int, int]:
        waiting, _ = self._cluster.app.engine.load(AGENTS)
        return waiting + self._cluster.members.depths[0], self._cluster.worker.load(AGENTS)[1]

    def leader(self) -> dict[str, object]:
        cluster = self._cluster
        renewed = cluster.leadership.renewed_at if cluster.leads else None
        return {
            "instanceId": cluster.app.cycles.instance,
            "active": cluster.leads,
            "lastRenewedAt": renewed,
            "nextRenewAt": None if renewed is None else renewed + cluster.leadership.timing.renew,
            "lockTtlMs": cluster.leadership.timing.ttl,
            "fenceToken": cluster.app.fence,
            "acquireBackoffUntil": None,
        }

    def redis(self) -> dict[str, object]:
        return {
            "enabled": True,
            "connected": self._cluster.connected,
            "keyPrefix": self._sections["redis.prefix"],
            "loadedAgents": len(self._cluster.store.specs.all("agent")),
            "lastError": None if self._cluster.connected else "redis_down",
            "execQueueRecoveredOnBootTotal": self._cluster.recovered,
            "execQueueResetOnBootTotal": 0,
        }

    def queue(self) -> dict[str, object] | None:
        ready, claimed = self._cluster.members.depths
        return {"readyDepth": ready, "processingDepth": claimed, "inflightDepth": claimed}

    def gauges(self) -> dict[str, float]:
        ready, claimed = self._cluster.members.depths
        return {
            "redis_enabled": 1.0,
            "redis_connected": float(self._cluster.connected),
            "redis_round_trip_ms": float(self._cluster.members.round_trip),
            "redis_authoritative_queue_enabled": 1.0,
            "redis_exec_queue_ready_depth": float(ready),
            "redis_exec_queue_processing_depth": float(claimed),
            "redis_exec_queue_inflight_depth": float(claimed),
            "leader_active": float(self._cluster.leads),
            "leader_fence_token": float(self._cluster.app.fence),
        }

    def counters(self) -> dict[str, int]:
        leadership = self._cluster.leadership
        return {
            "leader_acquired_total": leadership.acquired,
            "leader_renew_failed_total": leadership.lost,
            "leader_acquire_backoff_total": leadership.backed_off,
            "redis_exec_recovered_on_boot_total": self._cluster.recovered,
            "redis_exec_claimed_total": self._cluster.worker.claimed,
            "redis_exec_acked_total": self._cluster.worker.acked,
            "redis_exec_requeued_expired_total": self._cluster.collector.lost,
            "redis_errors_total": self._cluster.troubles.errors,
        }
